"""The single checks of `doctor`: each judges what was read from the servers."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from shlex import quote

from docora_ops.database.postgres_server import SESSIONS_FOR_WORKERS, Role
from docora_ops.diagnosis import Check, CheckName, failed, not_checked, ok, warning
from docora_ops.jobs import ADVICE, QUEUE_NAME, Backend, OtherQueue, QueueHealth, Worker
from docora_ops.overview import SLOW_MS, TOO_SLOW_MS, LinkCounts, Standby
from docora_ops.queue.redis_server import RedisServer
from docora_ops.text import amount, duration

_OLDEST_POSTGRES = 14
_OLDEST_REDIS = (6, 2, 0)  # Valkey 7.2, its first version, counts as 7.2
_TABLES_OF_FEW_COMMANDS = {"app_delivered_files", "repository_snapshots", "snapshot_files"}
"""Of resync, show and workers."""
_MEMORY_WARNING = 0.80
_MEMORY_FAILURE = 0.95
_LONG = 3600
"""Seconds that a job waits, or without a save: by default Redis saves within an hour."""
_OVERDUE = 60  # seconds by which a delayed job may be late: RQ's scheduler looks every second
_CLOCK_WARNING = 5
_CLOCK_FAILURE = 20  # seconds; a worker whose clock is further off takes no job
_OTHER_BULLMQ = re.compile(r"bullmq:(?!5\.)")
"""The version in the queue's metadata, which the last process to open the queue has written."""
_TO_REMOVE = "remove them, with the REDIS_URL of Docora itself"
_RQ, _BULLMQ = ADVICE[Backend.RQ], ADVICE[Backend.BULLMQ]

_Problem = tuple[bool, Callable[..., Check], str, str]
"""Whether there is a problem; `warning` or `failed`; the finding and the hint."""


def _judge(name: CheckName, fine: str, *problems: _Problem) -> Check:
    """Returns the first problem that there is, otherwise OK with the finding `fine`."""
    for exists, kind, finding, hint in problems:
        if exists:
            return kind(name, finding, hint)
    return ok(name, fine)


def check_postgres(version: str, standby: Standby | None) -> Iterator[Check]:
    """Checks the version, and whether the server takes writes."""
    found = f"PostgreSQL {version}"
    is_old = [int(number) for number in re.findall(r"\d+", version)[:1]] < [_OLDEST_POSTGRES]
    upgrade = f"upgrade to PostgreSQL {_OLDEST_POSTGRES} or newer"
    yield _judge(
        CheckName.POSTGRES_VERSION, found, (is_old, failed, f"{found} is too old", upgrade)
    )
    hint = "point DATABASE_URL at the primary"
    problem = (standby is not None, failed, f"it is {standby}", hint)
    yield _judge(CheckName.POSTGRES_PRIMARY, "takes writes", problem)


def check_pooling(*, pools: bool | None) -> Check:
    """Checks whether a proxy pools transactions: no worker runs behind it. None: unknown."""
    found = "a proxy that pools transactions: commands work, and a worker refuses to start"
    unknown = "unknown: two more connections could not be opened at once"
    allow = "allow the role, and the proxy's pool, more connections"
    return _judge(
        CheckName.POSTGRES_POOLING,
        "no proxy that pools transactions",
        (pools is True, warning, found, SESSIONS_FOR_WORKERS),
        (pools is None, warning, unknown, allow),
    )


def check_tables(missing: Sequence[str], schema: str) -> Check:
    """Checks that no tables and columns are missing."""
    to_docora = "point DATABASE_URL at the database that Docora uses"
    grant = f"let the role use the schema: GRANT USAGE ON SCHEMA {schema}"
    problem = (bool(missing), failed, f"missing: {', '.join(missing)}", f"{to_docora}, and {grant}")
    return _judge(CheckName.TABLES, "6 tables, and all their columns", problem)


def check_schemas(creators: Sequence[tuple[str, str]]) -> Check:
    """Checks that others can't create functions beside Docora's tables, which could run as ours.

    creators: schemas, each with a role that may create something there.
    """
    found = ", ".join(f"{role} in {schema}" for schema, role in creators)
    hint = " ".join(f"REVOKE CREATE ON SCHEMA {schema} FROM {role};" for schema, role in creators)
    problem = (bool(creators), warning, f"others may create functions and tables: {found}", hint)
    return _judge(CheckName.SCHEMAS, "no other role may create anything", problem)


def check_privileges(role: Role, *, read_only: bool = False) -> Check:
    """Checks that the role has all privileges that it needs.

    read_only: the privileges to read are enough.
    """
    lacks = {} if role.is_superuser else role.lacks(read_only=read_only)
    found = "; ".join(f"{', '.join(lacks[table])} on {table}" for table in lacks)
    hint = " ".join(
        f"GRANT {', '.join(lacks[table])} ON {role.schema}.{table} TO {role.name};"
        for table in lacks
    )
    kind = failed if lacks.keys() - _TABLES_OF_FEW_COMMANDS else warning
    problem = (bool(lacks), kind, f"{role.name} lacks {found}", hint)
    return _judge(CheckName.PRIVILEGES, f"{role.name} has what it needs", problem)


def check_links(counts: LinkCounts, apps: int, max_failed: int | None) -> Iterator[Check]:
    """Checks how many links have failed, and how many circuits are open.

    apps: the number of apps with failed links.
    max_failed: more failed links are a failure.
    """
    links, circuits = counts.failed, counts.open_circuits
    found = f"{amount(links, 'failed link')} of {amount(apps, 'app')}"
    hint = "docora-ops failed --group-by error"
    is_too_much = max_failed is not None and links > max_failed
    yield _judge(
        CheckName.FAILED_LINKS,
        "none",
        (is_too_much, failed, f"{found}, more than {max_failed}", hint),
        (links > 0, warning, found, hint),
    )
    hint = "docora-ops links --circuit open --group-by repository"
    problem = (circuits > 0, warning, amount(circuits, "open circuit"), hint)
    yield _judge(CheckName.OPEN_CIRCUITS, "none", problem)


def check_redis(server: RedisServer, refusal: tuple[str, str] | None = None) -> Iterator[Check]:
    """Checks version, role, eviction, memory and persistence.

    refusal: why it refused the writes that were tried, and what to do.
    """
    numbers = tuple(int(number) for number in re.findall(r"\d+", server.version)[:3])
    if not numbers:
        yield not_checked(CheckName.REDIS_VERSION, "it does not tell its version")
    else:
        upgrade = "upgrade to Redis 6.2, Valkey 7.2 or newer"
        problem = (numbers < _OLDEST_REDIS, failed, f"{server.product} is too old", upgrade)
        yield _judge(CheckName.REDIS_VERSION, server.product, problem)
    yield _judge(
        CheckName.REDIS_PRIMARY,
        "the primary",
        (server.is_replica, failed, "it is a replica", "point REDIS_URL at the primary"),
        (refusal is not None, failed, *(refusal or ("", ""))),
    )
    policy = server.eviction_policy
    if policy is None:
        yield not_checked(CheckName.REDIS_EVICTION, "it does not tell its maxmemory-policy")
    else:
        found = f"maxmemory-policy is {policy}: jobs may be thrown away"
        hint = "CONFIG SET maxmemory-policy noeviction, and the same in redis.conf"
        yield _judge(
            CheckName.REDIS_EVICTION, policy, (policy != "noeviction", failed, found, hint)
        )
    yield _check_memory(server)
    broken = "append-only file" if server.last_append_failed else "snapshot"
    fine = "snapshots" if server.has_saved_snapshot else "nothing to save yet"
    yield _judge(
        CheckName.REDIS_PERSISTENCE,
        "append-only file" if server.appends_to_file else fine,
        (
            server.last_append_failed or server.last_snapshot_failed,
            failed,
            f"the last write of its {broken} failed: it refuses writes, or soon will",
            "see Redis's log and its disk",
        ),
        (
            not (server.appends_to_file or server.has_saved_snapshot)
            and server.unsaved_changes > 0
            and server.uptime > _LONG,
            warning,
            f"nothing saved since its start {duration(server.uptime)} ago: a restart would lose "
            "the queue",
            "turn on appendonly or save in redis.conf",
        ),
    )


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
    hint = "free memory, or raise maxmemory: a full Redis takes no jobs"
    return _judge(
        name,
        found,
        (share >= _MEMORY_FAILURE, failed, found, hint),
        (share >= _MEMORY_WARNING, warning, found, hint),
    )


def check_queue(queue: QueueHealth, backend: Backend, pending: int) -> Iterator[Check]:
    """Checks Docora's own queue, workers, scheduler and waiting jobs.

    Makes only one of these checks if only workers of the other backend run.

    pending: the number of pending links; 0 if Postgres was not asked.
    """
    is_rq, advice = backend is Backend.RQ, ADVICE[backend]
    if queue.has_only_others:
        name = CheckName.BULLMQ_QUEUE if is_rq else CheckName.WORKERS
        yield failed(name, advice.only_others, advice.to_switch)
        return
    if is_rq:
        yield _check_bullmq_beside(queue)
        yield _check_rq_workers(queue)
        yield _check_rq_scheduler(queue)
        start_more = "start more: docora-ops worker --concurrency N"
    else:
        yield _check_bullmq(queue.bullmq_version)
        yield _check_bullmq_workers(queue, pending)
        none = "none is seen: Docora's own comes with its worker"
        problem = (not queue.workers, warning, none, _BULLMQ.to_start_workers)
        yield _judge(CheckName.SCHEDULER, "Docora's own, which its worker brings", problem)
        start_more = "raise SCAN_CONCURRENCY, or run more workers of Docora"
    found, oldest = str(queue.waiting or "none"), queue.oldest_waits_for
    if oldest is not None:
        found = f"{queue.waiting}, the oldest for {duration(oldest)}"
    hint = f"see what the workers do, and {start_more}"
    yield _judge(CheckName.WAITING_JOBS, found, ((oldest or 0) > _LONG, warning, found, hint))


def _check_bullmq(version: str | None) -> Check:
    """`version`: None if there is no queue, empty if the queue does not tell."""
    other = f"{version} made it, and docora-ops knows the keys of BullMQ 5"
    to_compare = "see whether status and queue fit Docora's own screens"
    none = f"no queue {QUEUE_NAME} of BullMQ in this Redis"
    return _judge(
        CheckName.BULLMQ_QUEUE,
        f"{QUEUE_NAME}, made by {version}" if version else QUEUE_NAME,
        (version is None, warning, none, "check REDIS_URL"),
        (bool(_OTHER_BULLMQ.match(version or "")), warning, other, to_compare),
    )


def _check_bullmq_workers(queue: QueueHealth, pending: int) -> Check:
    jobs = queue.waiting + queue.active + queue.delayed
    problem = failed if jobs or pending else warning
    waiting = f"{amount(pending, 'pending link')} and {amount(jobs, 'job')}"
    found = str(queue.workers)
    if queue.workers and queue.other is OtherQueue.LEFT_JOBS:
        found = f"{found}; RQ's queue holds jobs, which run if a worker of RQ is started"
        return failed(CheckName.WORKERS, found, _TO_REMOVE, command=queue.to_remove_others)
    suspended = f"{found}; {queue.suspension and queue.suspension.sentence}, and {waiting} wait"
    return _judge(
        CheckName.WORKERS,
        found,
        (
            not queue.workers,
            problem,
            f"no BullMQ worker is seen, for {waiting}",
            _BULLMQ.to_start_workers,
        ),
        (
            queue.other is OtherQueue.WORKED_ON,
            failed,
            _BULLMQ.others_beside,
            _BULLMQ.to_stop_others,
        ),
        (queue.suspension is not None, problem, suspended, _BULLMQ.to_resume),
        (
            queue.stalled > 0,
            warning,
            f"{found}; {amount(queue.stalled, 'job')} at work without a worker's heartbeat",
            "BullMQ runs them again within minutes, and gives up a job that was cut off twice; if "
            "links stay scanning: docora-ops repair",
        ),
    )


def _check_bullmq_beside(queue: QueueHealth) -> Check:
    name = CheckName.BULLMQ_QUEUE
    if queue.other is OtherQueue.WORKED_ON:
        return failed(name, _RQ.others_beside, _RQ.to_stop_others)
    if queue.other is OtherQueue.UNUSED:
        return ok(name, "not in use")
    found = (
        "the BullMQ queue holds jobs, and no BullMQ worker runs to take them; one that is "
        "started sends files to the base_url that an app had when its job was queued"
    )
    remove = _TO_REMOVE
    if not queue.workers:
        set_backend = f"{_RQ.to_switch} and start it"
        remove = f"if Docora has workers of its own, {set_backend}; otherwise {remove}"
    return failed(name, found, remove, command=queue.to_remove_others)


def _check_rq_workers(queue: QueueHealth) -> Check:
    jobs = f"{queue.waiting or 'no'} {'jobs wait' if queue.waiting > 1 else 'job waits'}"
    problem = failed if queue.waiting else warning
    found = f"{queue.workers} on {QUEUE_NAME}"
    suspended = f"; {queue.suspension.sentence}" if queue.suspension else ""
    none = f"no worker listens on {QUEUE_NAME}, and {jobs}{suspended}"
    return _judge(
        CheckName.WORKERS,
        found,
        (not queue.workers, problem, none, "start one: docora-ops worker"),
        (bool(suspended), problem, f"{found}, and {jobs}{suspended}", "docora-ops resume"),
        (
            queue.silence is not None,
            warning,
            f"{found} ({queue.silence})",
            "see whether they run: docora-ops queue",
        ),
    )


def _check_rq_scheduler(queue: QueueHealth) -> Check:
    name, delay = CheckName.SCHEDULER, queue.first_delayed_in
    if delay is None:
        found = "running" if queue.has_scheduler else "none, and none is needed"
        return ok(name, f"{found}: no job is delayed")
    first = f"the first delayed job is due in {duration(delay)}"
    if delay < 0:
        first = f"the first delayed job has been overdue for {duration(-delay)}"
    commands = f"docora-ops worker, or rq worker {quote(QUEUE_NAME)} --with-scheduler"
    start = f"start a worker, which brings one: {commands}"
    return _judge(
        name,
        f"running; {first}",
        (not queue.has_scheduler, failed, f"none, and {first}", start),
        (delay < -_OVERDUE, warning, f"running, yet {first}", "see the log of the workers"),
    )


def check_clocks(ahead: Mapping[str, float], workers: Iterable[Worker]) -> Check:
    """Compares the clocks of this host, of the servers and of the hosts of workers.

    ahead: seconds by which the clocks of servers are ahead of this host's, by name.
    """
    clocks = {"this host": 0.0, **ahead}
    first, last = (choose(clocks, key=clocks.__getitem__) for choose in (max, min))
    largest = clocks[first] - clocks[last]
    found = f"{first} is {largest:,.0f} s ahead of {last}"
    known = [
        (seconds, worker)
        for worker in workers
        if (seconds := worker.clock_ahead_seconds) is not None
    ]
    seconds, worst = max(known, key=lambda each: abs(each[0]), default=(0, None))
    if worst and abs(seconds) > largest:
        largest = abs(seconds)
        direction = "ahead of" if seconds > 0 else "behind"
        host = worst.hostname or "an unknown host"
        found = f"{host} (worker {worst.name}) is {largest:,} s {direction} Redis"
    *names, last = [*clocks, *([amount(len(known), "worker")] if known else [])]
    hint = (
        "set the clocks by NTP on each host: heartbeats and due times are judged by them, and a "
        "worker that is more than 20 s off takes no job"
    )
    return _judge(
        CheckName.CLOCKS,
        f"{', '.join(names)} and {last} agree to {_CLOCK_WARNING} s",
        (largest > _CLOCK_FAILURE, failed, found, hint),
        (largest > _CLOCK_WARNING, warning, found, hint),
    )


def check_latency(seconds: Mapping[str, float]) -> Check:
    """Judges how long one answer of each server takes."""
    known = {name: each * 1000 for name, each in seconds.items()}
    slowest = max(known, key=known.__getitem__)
    found = "an answer takes " + " and ".join(
        f"{each:,.{1 if each < 10 else 0}f} ms from {name}"  # noqa: PLR2004 - digits
        for name, each in known.items()
    )
    hint = f"check the load of {slowest}, and the network to it"
    return _judge(
        CheckName.LATENCY,
        found,
        (known[slowest] > TOO_SLOW_MS, failed, found, hint),
        (known[slowest] > SLOW_MS, warning, found, hint),
    )
