"""The checks of `doctor`: each says what is wrong and what to do."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import Any

from docora_ops.actions.capacity import Capacity
from docora_ops.actions.freshness import Freshness, late_after_seconds
from docora_ops.actions.holds import held_in_words
from docora_ops.database.postgres_server import Role, Standby
from docora_ops.jobs import (
    QUEUE_NAME,
    HeldApp,
    NoJobCode,
    OtherQueue,
    QueueOverview,
    Worker,
    refusal_of,
)
from docora_ops.queue import LinkQueue
from docora_ops.settings import Settings
from docora_ops.text import ago, amount, duration

SLOW_MS = 250  # latency above which a server counts as slow
TOO_SLOW_MS = 2000  # latency above which a server is not used

_OLDEST_POSTGRES = 14
_OLDEST_REDIS = [6, 2]  # Valkey 7.2, its first version, counts as 7.2
_MEMORY_WARNING, _MEMORY_CRITICAL = 0.80, 0.95
LONG_WAIT = 3600  # seconds a job may wait
_LATE = 60  # seconds a delayed job may be late, although workers check every second
_CLOCK_WARNING, _CLOCK_CRITICAL = 5, 20  # seconds; above the latter, a worker takes no job
_OTHER_BULLMQ = re.compile(r"bullmq:(?!5\.)")
"""Matches a version of BullMQ other than 5, as recorded by the last process to open the queue."""
_TO_REMOVE = "remove them, with the REDIS_URL of Docora itself"
_TO_RECORD = "ACL SETUSER their user ~docora-ops:outcomes*: docora-ops help privileges"
_FORGOTTEN = "for over a week or since an unknown time"
_TIMER = (
    "a timer should run docora-ops schedule, unless another program queues what is due: "
    "docora-ops help recipes"
)
_BY_NAME = "workers are seen by the names of their Redis clients, if our user may list these"
_TABLES_OF_FEW_COMMANDS = {"app_delivered_files", "repository_snapshots", "snapshot_files"}


class CheckState(StrEnum):
    """The result of one check."""

    OK = "ok"
    WARNING = "warning"
    CRITICAL = "critical"
    NOT_CHECKED = "not_checked"


class CheckName(StrEnum):
    """The checks in display order."""

    SETTINGS = "settings"
    POSTGRES = "postgres"
    POSTGRES_VERSION = "postgres_version"
    POSTGRES_PRIMARY = "postgres_primary"
    POSTGRES_POOLING = "postgres_pooling"
    TABLES = "tables"
    SCHEMAS = "schemas"
    PRIVILEGES = "privileges"
    REDIS = "redis"
    REDIS_VERSION = "redis_version"
    REDIS_PRIMARY = "redis_primary"
    REDIS_EVICTION = "redis_eviction"
    REDIS_MEMORY = "redis_memory"
    REDIS_PERSISTENCE = "redis_persistence"
    BULLMQ_QUEUE = "bullmq_queue"
    WORKERS = "workers"
    SCHEDULE = "schedule"
    DELAYED_JOBS = "delayed_jobs"
    WAITING_JOBS = "waiting_jobs"
    CAPACITY = "capacity"
    CLOCKS = "clocks"
    LATENCY = "latency"
    SERVERS_MATCH = "servers_match"
    FRESHNESS = "freshness"
    FAILED_LINKS = "failed_links"
    OPEN_CIRCUITS = "open_circuits"
    DRIFT_LOST = "drift_lost"
    DRIFT_STUCK = "drift_stuck"
    DRIFT_ORPHAN = "drift_orphan"
    DRIFT_DUPLICATE = "drift_duplicate"
    DRIFT_STALE_ENTRY = "drift_stale_entry"


@dataclass(frozen=True)
class Check:
    """The result of one check and, unless it is OK, what to do."""

    name: CheckName
    state: CheckState = field(kw_only=True)
    finding: str
    hint: str | None = None
    command: str = ""  # the shell command of the hint, if too long for a table


ok = partial(Check, state=CheckState.OK)
warning = partial(Check, state=CheckState.WARNING)
critical = partial(Check, state=CheckState.CRITICAL)


Problem = tuple[bool, Callable[..., Check], str, str]
"""`(exists, kind, finding, hint)`. `kind` is the function `critical` or `warning`."""


def judge(name: CheckName, fine: str, *problems: Problem) -> Check:
    """Returns the check for the first problem that exists, otherwise OK with `fine`."""
    for exists, kind, finding, hint in problems:
        if exists:
            return kind(name, finding, hint)
    return ok(name, fine)


def worst_of(checks: Iterable[Check]) -> CheckState:
    """Returns the worst state; a check that was not made counts as a warning."""
    states = {check.state for check in checks}
    if CheckState.CRITICAL in states:
        return CheckState.CRITICAL
    return CheckState.OK if states == {CheckState.OK} else CheckState.WARNING


def check_postgres(
    version: str, standby: Standby | None, *, is_read_only: bool = False
) -> Iterator[Check]:
    """Checks the version, and whether the server accepts writes.

    is_read_only: whether an administrator has made transactions read-only.
    """
    product = f"PostgreSQL {version}"
    is_old = [int(number) for number in re.findall(r"\d+", version)[:1]] < [_OLDEST_POSTGRES]
    upgrade = f"upgrade to PostgreSQL {_OLDEST_POSTGRES} or newer"
    problem = (is_old, critical, f"{product} is too old", upgrade)
    yield judge(CheckName.POSTGRES_VERSION, product, problem)
    hint = "point DATABASE_URL at the primary"
    problem = (standby is not None, critical, f"it is {standby}", hint)
    read_only = (
        "default_transaction_read_only is on: no command changes links, and no worker takes jobs"
    )
    hint = "ask whoever set it for the server, the database or the role"
    forbidden = (is_read_only, critical, read_only, hint)
    yield judge(CheckName.POSTGRES_PRIMARY, "takes writes", problem, forbidden)


def check_privileges(role: Role, *, read_only: bool = False) -> Check:
    """Checks the privileges of the role. `read_only`: read privileges are enough."""
    if role.may_only_read and not read_only:
        finding = f"{role.name} may only read: no command can change a link with it, and writing "
        hint = "to monitor, add --read-only; to make changes: docora-ops help privileges"
        return critical(CheckName.PRIVILEGES, f"{finding}to Redis was not tried", hint)
    lacks = {} if role.is_superuser else role.lacks(read_only=read_only)
    lacking = "; ".join(f"{', '.join(lacks[table])} on {table}" for table in lacks)
    hint = " ".join(
        f"GRANT {', '.join(lacks[table])} ON {role.schema}.{table} TO {role.name};"
        for table in lacks
    )
    kind = critical if lacks.keys() - _TABLES_OF_FEW_COMMANDS else warning
    problem = (bool(lacks), kind, f"{role.name} lacks {lacking}", hint)
    return judge(CheckName.PRIVILEGES, f"{role.name} has what it needs", problem)


def check_redis(info: Mapping[str, Any], refusal: tuple[str, str] | None = None) -> Iterator[Check]:
    """Checks version, role, eviction, memory and persistence, according to INFO.

    refusal: why Redis refused the write test, and the hint; None if Redis did not refuse.
    """
    version, valkey = str(info.get("redis_version", "")), info.get("valkey_version")
    is_replica = info.get("role", "master") != "master"
    product = f"Valkey {valkey}" if valkey else f"Redis {version}"
    numbers = [int(number) for number in re.findall(r"\d+", version)]
    upgrade = "upgrade to Redis 6.2, Valkey 7.2 or newer"
    is_old = bool(numbers) and numbers < _OLDEST_REDIS
    problem = (is_old, critical, f"{product} is too old", upgrade)
    yield judge(CheckName.REDIS_VERSION, product, problem)
    yield judge(
        CheckName.REDIS_PRIMARY,
        "the primary",
        (is_replica, critical, "it is a replica", "point REDIS_URL at the primary"),
        (refusal is not None, critical, *(refusal or ("", ""))),
    )
    policy = info.get("maxmemory_policy") or "noeviction"  # not reported by all servers
    finding = f"maxmemory-policy is {policy}: jobs may be thrown away"
    hint = "CONFIG SET maxmemory-policy noeviction, and the same in redis.conf"
    problem = (policy != "noeviction", critical, finding, hint)
    yield judge(CheckName.REDIS_EVICTION, policy, problem)
    memory, limit = info.get("used_memory", 0), info.get("maxmemory", 0)
    used = f"{memory / 2**20:,.0f} MiB used"
    share = memory / limit if limit else 0
    finding = f"{used}, {share:.0%} of maxmemory"
    hint = "free memory, or raise maxmemory: a full Redis takes no jobs"
    yield judge(
        CheckName.REDIS_MEMORY,
        finding if limit else f"{used}, maxmemory is not set",
        (share >= _MEMORY_CRITICAL, critical, finding, hint),
        (share >= _MEMORY_WARNING, warning, finding, hint),
    )
    finding = "the last write to disk failed: it refuses writes, or soon will"
    writes = ("aof_last_write_status", "rdb_last_bgsave_status")
    is_broken = any(info.get(name, "ok") != "ok" for name in writes)
    problem = (is_broken, critical, finding, "see Redis's log and its disk")
    fine = "append-only file" if info.get("aof_enabled") else "snapshots"
    yield judge(CheckName.REDIS_PERSISTENCE, fine, problem)


def check_queue(overview: QueueOverview, queue: LinkQueue, pending: int) -> Iterator[Check]:
    """Checks the BullMQ queue, workers, scheduler and waiting jobs.

    If only workers of the other backend are running, yields only one check, which says so.

    pending: the number of pending links; 0 if unknown.
    """
    is_rq, advice = queue.can_push, queue.advice
    if overview.has_only_others:
        name = CheckName.BULLMQ_QUEUE if is_rq else CheckName.WORKERS
        yield critical(name, advice.only_others, advice.to_switch)
        return
    yield from _check_rq(overview, queue) if is_rq else _check_bullmq(overview, queue, pending)
    waiting, oldest = str(overview.waiting or "none"), overview.oldest_waiting_seconds
    if oldest is not None:
        waiting = f"{overview.waiting}, the oldest for {duration(oldest)}"
    start_more = "start more workers: docora-ops worker --concurrency N"
    if not is_rq:
        start_more = "raise SCAN_CONCURRENCY, or run more workers of Docora"
    problem = ((oldest or 0) > LONG_WAIT, warning, waiting, start_more)
    yield judge(CheckName.WAITING_JOBS, waiting, problem)


def _check_rq(queue: QueueOverview, link_queue: LinkQueue) -> Iterator[Check]:
    advice = link_queue.advice
    name, finding = CheckName.BULLMQ_QUEUE, "not in use"
    if queue.other_queue is OtherQueue.WORKED_ON:
        yield critical(name, advice.others_beside, advice.to_stop_others)
    elif queue.other_queue is OtherQueue.LEFT_JOBS:
        finding = (
            "the BullMQ queue holds jobs, and no BullMQ worker runs; if one is started, it sends "
        )
        finding += "files to the base_url that each app had when the job was queued"
        yield critical(name, finding, _TO_REMOVE, command=link_queue.to_remove_others)
    else:
        yield ok(name, finding)
    yield _check_rq_workers(queue)
    yield _check_delayed_jobs(queue, advice.to_start_workers)


def _check_rq_workers(queue: QueueOverview) -> Check:
    """Checks that workers take jobs.

    That none does is critical, but a suspension only if jobs wait, since it is intended.
    """
    jobs = f"{queue.waiting or 'no'} {'jobs wait' if queue.waiting > 1 else 'job waits'}"
    lost = f" ({queue.lost_words})" if queue.lost_words else ""
    workers = f"{len(queue.workers)} on {QUEUE_NAME}"
    suspended = f"; {queue.suspension.sentence}" if queue.suspension else ""
    none = f"no worker listens on {QUEUE_NAME}{lost}, and {jobs}{suspended}"
    to_see = "see whether they run: docora-ops queue"
    all_silent = all(worker.may_be_dead for worker in queue.workers)
    refusal = refusal_of(queue.workers)
    troubles = refusal.troubles if refusal else ()
    has_wrong_key = any(trouble.code is NoJobCode.WRONG_KEY for trouble in troubles)
    refuse = warning if queue.takes_jobs and not has_wrong_key else critical
    reasons = f"{workers}{lost}, {refusal and refusal.words}, and {jobs}"
    to_end = "; ".join(trouble.hint for trouble in troubles if trouble.hint)
    deaf = [worker.name for worker in queue.workers if not worker.obeys_holds]
    take = f"{workers}, and these take jobs of held apps: {', '.join(deaf)}"
    unless_idle = critical if queue.waiting else warning
    mute = ", ".join(worker.name for worker in queue.workers if not worker.may_record)
    unrecorded = f"{workers}, and these do not record how snapshots end: {mute}"
    return judge(
        CheckName.WORKERS,
        workers,
        (not queue.workers, critical, none, "start one: docora-ops worker"),
        (bool(troubles), refuse, reasons, to_end or "see the log of the workers"),
        (all_silent, critical, f"{workers}{lost}{suspended}", to_see),
        (bool(queue.held and deaf), critical, take, "replace them: docora-ops help hold"),
        (bool(suspended), unless_idle, f"{workers}, and {jobs}{suspended}", "docora-ops resume"),
        (bool(lost), warning, f"{workers}{lost}", to_see),
        (bool(mute), warning, unrecorded, _TO_RECORD),
    )


def _check_delayed_jobs(queue: QueueOverview, to_start_workers: str) -> Check:
    name = CheckName.DELAYED_JOBS
    if queue.first_due_at is None or queue.read_at is None:
        return ok(name, "none")
    delay = (queue.first_due_at - queue.read_at).total_seconds()
    first = f"the first is due in {duration(delay)}"
    if delay < 0:
        first = f"the first was due {duration(-delay)} ago"
    unqueued = f"nothing queues them when they are due; {first}"
    start = f"start a worker, which queues them: {to_start_workers}"
    late = f"workers queue them, yet {first}"
    return judge(
        name,
        f"workers queue them; {first}",
        (not queue.has_scheduler, critical, unqueued, start),
        (delay < -_LATE, warning, late, "see the log of the workers"),
    )


def _check_bullmq(queue: QueueOverview, link_queue: LinkQueue, pending: int) -> Iterator[Check]:
    advice, version = link_queue.advice, queue.bullmq_version
    other = f"{version} made it, and docora-ops knows the keys of BullMQ 5"
    to_compare = "see whether status and queue fit Docora's own screens"
    none = f"no queue {QUEUE_NAME} of BullMQ in this Redis"
    yield judge(
        CheckName.BULLMQ_QUEUE,
        f"{QUEUE_NAME}, made by {version}" if version else QUEUE_NAME,
        (version is None, warning, none, "check REDIS_URL"),
        (bool(_OTHER_BULLMQ.match(version or "")), warning, other, to_compare),
    )
    name, finding = CheckName.WORKERS, str(len(queue.workers))
    if queue.workers and queue.other_queue is OtherQueue.LEFT_JOBS:
        finding += "; RQ's queue holds jobs, which run if a worker of RQ is started"
        yield critical(name, finding, _TO_REMOVE, command=link_queue.to_remove_others)
    else:
        jobs = queue.waiting + queue.active + queue.delayed
        problem = critical if jobs or pending else warning
        waiting = f"{amount(pending, 'pending link')} and {amount(jobs, 'job')}"
        idle = f", for {waiting}" if jobs or pending else ", and no job waits"
        none = f"no BullMQ worker is seen{idle}; {_BY_NAME}"
        beside = queue.other_queue is OtherQueue.WORKED_ON
        suspended = (
            f"{finding}; {queue.suspension and queue.suspension.sentence}, and {waiting} wait"
        )
        yield judge(
            name,
            finding,
            (not queue.workers, critical, none, advice.to_start_workers),
            (beside, critical, advice.others_beside, advice.to_stop_others),
            (queue.suspension is not None, problem, suspended, advice.to_resume),
        )
    queued = "Docora's workers queue them when they are due"
    yield ok(CheckName.DELAYED_JOBS, f"{queue.delayed}; {queued}" if queue.delayed else "none")


def check_schedule(seconds: int | None, freshness: Freshness | None, settings: Settings) -> Check:
    """Checks how long ago `schedule` last queued links or ended.

    An old pass is critical if due links wait for the next pass. Otherwise, it is only a warning:
    perhaps another program queues due links, and a person has run `schedule` once by hand.

    seconds: since a pass last queued links or ended; None if no pass is known, which is a warning.
    freshness: None if unknown.
    """
    finding = "no pass is known of the last week"
    if seconds is not None:
        finding = f"the last pass was {ago(seconds)}"
    is_late = seconds is None or seconds > late_after_seconds(settings)
    has_stopped = freshness is not None and freshness.schedule_stopped
    return judge(
        CheckName.SCHEDULE,
        finding,
        (has_stopped, critical, finding, _TIMER),
        (is_late, warning, finding, _TIMER),
    )


def check_freshness(freshness: Freshness, held: Sequence[HeldApp], queue: QueueOverview) -> Check:
    """Checks that links are scanned, and that no hold without an end has lasted over a week.

    held: the held apps, with their names.
    """
    longest, last = duration(freshness.overdue_after_seconds), "no good scan yet"
    if freshness.last_scanned_at:
        last = f"last good scan {ago(freshness.last_scanned_seconds)}"
    overdue = f"{freshness.overdue_words} without a good scan for over {longest}"
    if freshness.oldest_scan_seconds is not None:
        overdue += f"; the oldest was {ago(freshness.oldest_scan_seconds)}"
    still = duration(freshness.nothing_moves_after_seconds)
    stands = (
        f"nothing moves: {amount(freshness.due, 'link')} due, and for over {still} no job ran, "
    )
    stands += "began or ended, and no file was delivered"
    to_see = _TIMER if queue.is_idle else "docora-ops queue"
    now = queue.read_at
    forgotten = [app for app in held if now and app.held.is_forgotten(now)]
    whose = f"{held_in_words(forgotten)} for ever, {_FORGOTTEN}" if forgotten else ""
    return judge(
        CheckName.FRESHNESS,
        f"no link overdue, {last}" + (f"; {held_in_words(held)}" if held else ""),
        (freshness.overdue > 0, critical, overdue, "docora-ops links --overdue"),
        (freshness.nothing_moves, critical, stands, to_see),
        (
            freshness.is_slow,
            warning,
            freshness.slow_words,
            "run more workers, or see docora-ops queue",
        ),
        (bool(forgotten), warning, whose, "end a hold that nobody needs: docora-ops release APP"),
    )


def check_capacity(pace: Capacity | None) -> Check:
    """Checks that the workers keep pace with what is due. `pace`: None with BullMQ."""
    name = CheckName.CAPACITY
    if pace is None:
        return ok(name, "not known: Docora's workers keep no record")
    hint = "docora-ops worker --concurrency N on this host or another one: docora-ops help capacity"
    return judge(name, pace.words, (pace.missing_slots > 0, warning, pace.words, hint))


def check_clocks(ahead: Mapping[str, float], workers: Iterable[Worker]) -> Check:
    """Compares the clocks of this host, of the servers, and of the workers' hosts.

    ahead: how many seconds each server's clock is ahead of this host's, by server name.
    """
    clocks = {"this host": 0.0, **ahead}
    first, last = (choose(clocks, key=clocks.__getitem__) for choose in (max, min))
    off = clocks[first] - clocks[last]
    differences = [(off, f"{first} is {off:,.0f} s ahead of {last}")]
    for worker in workers:
        if (seconds := worker.clock_ahead_seconds) is not None:
            direction = "ahead of" if seconds > 0 else "behind"
            host = worker.hostname or "an unknown host"
            finding = f"{host} (worker {worker.name}) is {abs(seconds):,} s {direction} Redis"
            differences.append((abs(seconds), finding))
    largest, finding = max(differences, key=lambda difference: difference[0])
    compared = [*clocks, amount(len(differences) - 1, "worker")]
    hint = "synchronize the clocks of all hosts by NTP: heartbeats and due times depend on them, "
    hint += "and a worker whose clock is more than 20 s off takes no job"
    return judge(
        CheckName.CLOCKS,
        f"{', '.join(compared[:-1])} and {compared[-1]} agree to {_CLOCK_WARNING} s",
        (largest > _CLOCK_CRITICAL, critical, finding, hint),
        (largest > _CLOCK_WARNING, warning, finding, hint),
    )


def check_latency(milliseconds: Mapping[str, float]) -> Check:
    """Checks the latency of the servers. `milliseconds`: the latency of each server."""
    finding = " and ".join(f"{took:,.1f} ms from {name}" for name, took in milliseconds.items())
    finding, slowest = f"an answer takes {finding}", max(milliseconds, key=milliseconds.__getitem__)
    hint = f"check the load of {slowest}, and the network to it"
    too_slow = (milliseconds[slowest] > TOO_SLOW_MS, critical, finding, hint)
    slow = (milliseconds[slowest] > SLOW_MS, warning, finding, hint)
    return judge(CheckName.LATENCY, finding, too_slow, slow)
