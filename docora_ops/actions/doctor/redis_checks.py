"""Checks of Redis, and of the queue and its workers."""

from __future__ import annotations

import re
from shlex import quote

from docora_ops.diagnosis import Check, CheckName, failed, not_checked, ok, warning
from docora_ops.jobs import ADVICE, Backend, OtherQueue, QueueHealth
from docora_ops.queue.redis_server import RedisServer
from docora_ops.text import amount, duration

_OLDEST = (6, 2, 0)  # Valkey 7.2, its first version, counts as 7.2
_MEMORY_WARNING = 0.80
_MEMORY_FAILURE = 0.95
_LONG_UNSAVED = 3600
"""Seconds. With its own settings Redis saves within an hour, however little has changed."""
_LONG_WAIT = 3600
_OVERDUE = 60  # seconds by which a delayed job may be late: RQ's scheduler looks every second

_OTHER_BULLMQ = re.compile(r"bullmq:(?!5\.)")
"""The version in the queue's metadata, which the last process to open the queue has written."""

_TO_REMOVE = "remove them, with the REDIS_URL of Docora itself"

_RQ, _BULLMQ = ADVICE[Backend.RQ], ADVICE[Backend.BULLMQ]
Refusal = tuple[str, str]  # why Redis takes no writes, and what to do


def check_server(
    server: RedisServer, refusal: Refusal | None = None, *, tried: bool = True
) -> list[Check]:
    """Checks version, role, eviction, memory and persistence.

    `refusal`: why it refused the writes that were tried, if any were `tried`.
    """
    return [
        _check_version(server),
        _check_primary(server, refusal, tried=tried),
        _check_eviction(server),
        _check_memory(server),
        _check_persistence(server),
    ]


def check_user(where: str, backend: Backend, *, only_reads: bool) -> Check:
    """Tells whether the user may change anything. `where` names the server."""
    if not only_reads:
        return ok(CheckName.REDIS, where)
    found = f"{where}, whose user may only read: Redis refuses what changes something"
    name = "docora-ops" if backend is Backend.RQ else "docora-bullmq"
    user = f"the user {name} of docora-ops help privileges"
    hint = f"for more than monitoring, use {user}; for monitoring, add --read-only"
    return warning(CheckName.REDIS, found, hint)


def check_monitor(where: str, permitted: str | None) -> Check:
    """Checks that the user may change nothing.

    `permitted`: a command that changes something and that the user may use, "" if there is none,
    None if Redis does not tell.
    """
    name = CheckName.REDIS
    if permitted:
        found = f"{where}, whose user may do more than read: {permitted}"
        return warning(name, found, "use the user docora-monitor of docora-ops help privileges")
    if permitted is None:
        found = f"{where}, which does not tell whether the user may only read"
        return warning(name, found, "upgrade to Redis 7 or newer")
    return ok(name, f"{where}, whose user may change none of the keys that were tried, as wanted")


def check_queue(queue: QueueHealth, queue_name: str, backend: Backend, pending: int) -> list[Check]:
    """Checks the BullMQ queue, workers, scheduler and waiting jobs. `pending`: links, 0 for RQ.

    Makes only one of these checks if only workers of the other backend run.
    """
    if queue.has_only_others:
        name = CheckName.BULLMQ_QUEUE if backend is Backend.RQ else CheckName.WORKERS
        advice = ADVICE[backend]
        return [failed(name, advice.only_others, advice.to_switch)]
    if backend is Backend.BULLMQ:
        return [
            _check_bullmq(queue, queue_name),
            _check_bullmq_workers(queue, pending),
            _check_docoras_scheduler(queue),
            _check_waiting(queue, "raise SCAN_CONCURRENCY, or run more workers of Docora"),
        ]
    return [
        _check_bullmq_beside(queue),
        _check_workers(queue, queue_name),
        _check_scheduler(queue, queue_name),
        _check_waiting(queue, "start more: docora-ops worker --concurrency N"),
    ]


def _check_version(server: RedisServer) -> Check:
    name = CheckName.REDIS_VERSION
    numbers = tuple(int(number) for number in re.findall(r"\d+", server.version)[:3])
    if not numbers:
        return not_checked(name, "it does not tell its version")
    if numbers < _OLDEST:
        upgrade = "upgrade to Redis 6.2, Valkey 7.2 or newer"
        return failed(name, f"{server.product} is too old", upgrade)
    return ok(name, server.product)


def _check_primary(server: RedisServer, refusal: Refusal | None, *, tried: bool) -> Check:
    name = CheckName.REDIS_PRIMARY
    if server.is_replica:
        return failed(name, "it is a replica", "point REDIS_URL at the primary")
    if refusal:
        return failed(name, *refusal)
    return ok(
        name, "takes writes" if tried else "the primary; whether it takes writes is not known"
    )


def _check_eviction(server: RedisServer) -> Check:
    name = CheckName.REDIS_EVICTION
    policy = server.eviction_policy
    if policy is None:
        return not_checked(name, "it does not tell its maxmemory-policy")
    if policy == "noeviction":
        return ok(name, policy)
    found = f"maxmemory-policy is {policy}: jobs may be thrown away"
    return failed(name, found, "CONFIG SET maxmemory-policy noeviction, and the same in redis.conf")


def _check_memory(server: RedisServer) -> Check:
    name = CheckName.REDIS_MEMORY
    limit, of_what = server.maxmemory, "maxmemory"
    if not limit:
        limit, of_what = server.system_memory, "the machine's memory, as maxmemory is not set"
    used = f"{server.used_memory / 2**20:,.0f} MiB"
    if not limit:
        return ok(name, f"{used} used, with no limit that is known")
    share = server.used_memory / limit
    found = f"{used} used, {share:.0%} of {of_what}"
    if share < _MEMORY_WARNING:
        return ok(name, found)
    return (warning if share < _MEMORY_FAILURE else failed)(
        name, found, "free memory, or raise maxmemory: a full Redis takes no jobs"
    )


def _check_persistence(server: RedisServer) -> Check:
    name = CheckName.REDIS_PERSISTENCE
    if server.last_append_failed or server.last_snapshot_failed:
        what = "append-only file" if server.last_append_failed else "snapshot"
        found = f"the last write of its {what} failed: it refuses writes, or soon will"
        return failed(name, found, "see Redis's log and its disk")
    if server.appends_to_file:
        return ok(name, "append-only file")
    if server.has_saved_snapshot:
        return ok(name, "snapshots")
    if server.unsaved_changes and server.uptime > _LONG_UNSAVED:
        since = f"its start {duration(server.uptime)} ago"
        found = f"nothing saved since {since}: a restart would lose the queue"
        return warning(name, found, "turn on appendonly or save in redis.conf")
    return ok(name, "nothing to save yet")


def _check_bullmq(queue: QueueHealth, queue_name: str) -> Check:
    name, version = CheckName.BULLMQ_QUEUE, queue.bullmq_version
    if version is None:
        settings = "REDIS_URL, DOCORA_OPS_BULLMQ_PREFIX and DOCORA_OPS_QUEUE_NAME"
        return warning(name, f"no queue {queue_name} of BullMQ in this Redis", f"check {settings}")
    if _OTHER_BULLMQ.match(version):
        found = f"{version} made it, and docora-ops knows the keys of BullMQ 5"
        return warning(name, found, "see whether status and queue fit Docora's own screens")
    return ok(name, f"{queue_name}, made by {version}" if version else queue_name)


def _check_bullmq_workers(queue: QueueHealth, pending: int) -> Check:
    name = CheckName.WORKERS
    jobs = queue.waiting + queue.active + queue.delayed
    problem = failed if jobs or pending else warning
    waiting = f"{amount(pending, 'pending link')} and {amount(jobs, 'job')}"
    if not queue.workers:
        found = f"no BullMQ worker is seen, for {waiting}"
        return problem(name, found, _BULLMQ.to_start_workers)
    if queue.other is OtherQueue.WORKED_ON:
        return failed(name, _BULLMQ.others_beside, _BULLMQ.to_stop_others)
    found = str(queue.workers)
    if queue.other is OtherQueue.LEFT_JOBS:
        found = f"{found}; RQ's queue holds jobs, which run if a worker of RQ is started"
        return failed(name, found, _TO_REMOVE, command=queue.to_remove_others)
    if queue.suspension:
        found = f"{found}; {queue.suspension.sentence}, and {waiting} wait"
        return problem(name, found, _BULLMQ.to_resume)
    if queue.stalled:
        found = f"{found}; {amount(queue.stalled, 'job')} at work without a worker's heartbeat"
        hint = "BullMQ runs them again within minutes, and gives up a job that was cut off twice"
        return warning(name, found, f"{hint}; if links stay scanning: docora-ops repair")
    return ok(name, found)


def _check_docoras_scheduler(queue: QueueHealth) -> Check:
    name = CheckName.SCHEDULER
    if queue.workers:
        return ok(name, "Docora's own, which its worker brings")
    found = "none is seen: Docora's own comes with its worker"
    return warning(name, found, _BULLMQ.to_start_workers)


def _check_bullmq_beside(queue: QueueHealth) -> Check:
    name = CheckName.BULLMQ_QUEUE
    if queue.other is OtherQueue.WORKED_ON:
        return failed(name, _RQ.others_beside, _RQ.to_stop_others)
    if queue.other is OtherQueue.LEFT_JOBS:
        found = (
            "the BullMQ queue holds jobs, and no BullMQ worker runs to take them; one that is "
            "started sends files to the base_url that an app had when its job was queued"
        )
        remove = _TO_REMOVE
        if not queue.workers:
            set_backend = f"{_RQ.to_switch} and start it"
            remove = f"if Docora has workers of its own, {set_backend}; otherwise {remove}"
        return failed(name, found, remove, command=queue.to_remove_others)
    return ok(name, "not in use")


def _check_workers(queue: QueueHealth, queue_name: str) -> Check:
    name = CheckName.WORKERS
    jobs = f"{queue.waiting or 'no'} {'jobs wait' if queue.waiting > 1 else 'job waits'}"
    problem = failed if queue.waiting else warning
    if not queue.workers:
        found = f"no worker listens on {queue_name}, and {jobs}"
        if queue.suspension:
            found += f"; {queue.suspension.sentence}: docora-ops resume"
        return problem(name, found, "start one: docora-ops worker")
    found = f"{queue.workers} on {queue_name}"
    if queue.suspension:
        found = f"{found}, and {jobs}; {queue.suspension.sentence}"
        return problem(name, found, "docora-ops resume")
    if queue.silence:
        return warning(name, f"{found} ({queue.silence})", "see whether they run: docora-ops queue")
    return ok(name, found)


def _check_scheduler(queue: QueueHealth, queue_name: str) -> Check:
    name = CheckName.SCHEDULER
    delay = queue.first_delayed_in
    if delay is None:
        found = "running" if queue.has_scheduler else "none, and none is needed"
        return ok(name, f"{found}: no job is delayed")
    first = f"the first delayed job is due in {duration(delay)}"
    if delay < 0:
        first = f"the first delayed job has been overdue for {duration(-delay)}"
    if not queue.has_scheduler:
        commands = f"docora-ops worker, or rq worker {quote(queue_name)} --with-scheduler"
        return failed(name, f"none, and {first}", f"start a worker, which brings one: {commands}")
    if delay < -_OVERDUE:
        return warning(name, f"running, yet {first}", "see the log of the workers")
    return ok(name, f"running; {first}")


def _check_waiting(queue: QueueHealth, start_more: str) -> Check:
    name = CheckName.WAITING_JOBS
    if queue.oldest_waits_for is None:
        return ok(name, str(queue.waiting) if queue.waiting else "none")
    found = f"{queue.waiting}, the oldest for {duration(queue.oldest_waits_for)}"
    if queue.oldest_waits_for > _LONG_WAIT:
        return warning(name, found, f"see what the workers do, and {start_more}")
    return ok(name, found)
