"""Checks of Redis, and of the queue and its workers."""

from __future__ import annotations

import re
from shlex import quote

from docora_ops.diagnosis import Check, CheckName, failed, not_checked, ok, warning
from docora_ops.jobs import BullmqQueue
from docora_ops.queue.redis_server import QueueHealth, RedisServer

_OLDEST = (6, 0, 6)
"""The first version with LPOS."""
_SAFE_FOR_WORKERS = (6, 2, 0)
"""The first version with LMOVE."""
_MEMORY_WARNING = 0.80
_MEMORY_FAILURE = 0.95
_LONG_UNSAVED = 3600
"""Seconds. With its own settings Redis saves within an hour, however little has changed."""
_LONG_WAIT = 3600
_OVERDUE = 60
"""Seconds by which a delayed job may be late: RQ's scheduler looks every second."""

Refusal = tuple[str, str]
"""Why Redis takes no writes, and what to do."""


def check_server(server: RedisServer, refusal: Refusal | None = None) -> list[Check]:
    """Checks version, role, eviction, memory and persistence."""
    return [
        _check_version(server),
        _check_primary(server, refusal),
        _check_eviction(server),
        _check_memory(server),
        _check_persistence(server),
    ]


def check_user(where: str, *, only_reads: bool) -> Check:
    """Tells whether the user may change anything. `where` names the server."""
    if only_reads:
        return warning(
            CheckName.REDIS,
            f"{where}, whose user may only read: Redis refuses what changes something",
            "for more than monitoring, use the user docora-ops of docora-ops help privileges",
        )
    return ok(CheckName.REDIS, where)


def unknown_server(reason: str, refusal: Refusal | None) -> list[Check]:
    """Returns the checks of `check_server` for a server that may not be asked."""
    names = (
        CheckName.REDIS_VERSION,
        CheckName.REDIS_PRIMARY,
        CheckName.REDIS_EVICTION,
        CheckName.REDIS_MEMORY,
        CheckName.REDIS_PERSISTENCE,
    )
    checks = [not_checked(name, reason) for name in names]
    return [*checks, failed(CheckName.REDIS_PRIMARY, *refusal)] if refusal else checks


def check_queue(queue: QueueHealth, queue_name: str) -> list[Check]:
    """Checks the BullMQ queue, workers, scheduler and waiting jobs."""
    return [
        _check_bullmq(queue.bullmq),
        _check_workers(queue, queue_name),
        _check_scheduler(queue, queue_name),
        _check_waiting(queue),
    ]


def _check_version(server: RedisServer) -> Check:
    name = CheckName.REDIS_VERSION
    numbers = tuple(int(number) for number in re.findall(r"\d+", server.version)[:3])
    found = server.product
    if not numbers:
        return not_checked(name, "it does not tell its version")
    if numbers < _OLDEST:
        return failed(name, f"{found} is too old", "upgrade to Redis 6.2 or newer")
    if numbers < _SAFE_FOR_WORKERS:
        return warning(
            name,
            f"{found}: a worker that is killed as it takes a job loses it",
            "upgrade to Redis 6.2 or newer",
        )
    return ok(name, found)


def _check_primary(server: RedisServer, refusal: Refusal | None) -> Check:
    name = CheckName.REDIS_PRIMARY
    if server.is_replica:
        return failed(name, "it is a replica", "point REDIS_URL at the primary")
    return failed(name, *refusal) if refusal else ok(name, "takes writes")


def _check_eviction(server: RedisServer) -> Check:
    name = CheckName.REDIS_EVICTION
    policy = server.eviction_policy
    if policy is None:
        return not_checked(name, "it does not tell its maxmemory-policy")
    if policy != "noeviction":
        return failed(
            name,
            f"maxmemory-policy is {policy}: jobs may be thrown away",
            "CONFIG SET maxmemory-policy noeviction, and the same in redis.conf",
        )
    return ok(name, "noeviction")


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
        return failed(
            name,
            f"the last write of its {what} failed: it refuses writes, or soon will",
            "see Redis's log and its disk",
        )
    if server.appends_to_file:
        return ok(name, "append-only file")
    if server.has_saved_snapshot:
        return ok(name, "snapshots")
    if server.unsaved_changes and server.uptime > _LONG_UNSAVED:
        return warning(
            name,
            f"nothing saved since its start {duration(server.uptime)} ago: "
            "a restart would lose the queue",
            "turn on appendonly or save in redis.conf",
        )
    return ok(name, "nothing to save yet")


def _check_bullmq(bullmq: BullmqQueue) -> Check:
    name = CheckName.BULLMQ_QUEUE
    match bullmq:
        case BullmqQueue.WORKED_ON:
            return failed(
                name,
                "a BullMQ worker of Docora runs beside the RQ queue: each link may be worked on "
                "twice",
                "run Docora with RUN_MODE=api",
            )
        case BullmqQueue.LEFT_JOBS:
            return warning(
                name,
                "the BullMQ queue holds jobs, and no BullMQ worker runs to take them",
                "nothing is lost: docora-ops schedule, run each minute, queues their links",
            )
    return ok(name, "not in use")


def _check_workers(queue: QueueHealth, queue_name: str) -> Check:
    name = CheckName.WORKERS
    jobs = f"{queue.waiting or 'no'} {'jobs wait' if queue.waiting > 1 else 'job waits'}"
    problem = failed if queue.waiting else warning
    if not queue.workers:
        return problem(
            name, f"nobody listens on {queue_name}, and {jobs}", "start one: docora-ops worker"
        )
    found = f"{queue.workers} on {queue_name}"
    if queue.is_suspended:
        return problem(name, f"{found}, but told to take no jobs, and {jobs}", "run: rq resume")
    return ok(name, found)


def _check_scheduler(queue: QueueHealth, queue_name: str) -> Check:
    name = CheckName.SCHEDULER
    delay = queue.first_delayed_in
    if delay is None:
        found = "running" if queue.has_scheduler else "none, and none is needed"
        return ok(name, f"{found}: no job is delayed")
    first = f"the first delayed job is due in {duration(delay)}"
    if delay < 0:
        first = f"the first delayed job is overdue since {duration(-delay)}"
    if not queue.has_scheduler:
        return failed(
            name,
            f"none, and {first}",
            "start a worker, which brings one: docora-ops worker, or rq worker "
            f"{quote(queue_name)} --with-scheduler",
        )
    if delay < -_OVERDUE:
        return warning(name, f"running, yet {first}", "see the log of the workers")
    return ok(name, f"running; {first}")


def _check_waiting(queue: QueueHealth) -> Check:
    name = CheckName.WAITING_JOBS
    if queue.head_waits_for is None:
        return ok(name, str(queue.waiting) if queue.waiting else "none")
    found = f"{queue.waiting}, the next since {duration(queue.head_waits_for)}"
    if queue.head_waits_for > _LONG_WAIT:
        return warning(
            name,
            found,
            "see what the workers do, and start more: docora-ops worker --concurrency N",
        )
    return ok(name, found)


def duration(seconds: float) -> str:
    """Returns `5 s`, `12 min`, `3 h`, `4 days`: in the largest unit that fits at least twice."""
    for unit, size in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
