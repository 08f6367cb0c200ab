"""`doctor`: checks the settings, both servers, the queue, and whether they agree."""

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from docora_ops.actions.docora import Docora
from docora_ops.actions.find_drift import Suspects, find_drift, pause_between_looks
from docora_ops.actions.freshness import beside_queue, judge_pass, links_freshness
from docora_ops.actions.link_lists import error_groups
from docora_ops.actions.look import count_jobs_with_links, sample_jobs
from docora_ops.actions.pair import TO_ACCEPT, Pair, PairState, read_pair
from docora_ops.database.link_reports import count_by_status, links_by_group
from docora_ops.database.link_scans import some_auth_keys
from docora_ops.database.postgres_server import (
    SESSIONS_FOR_WORKERS,
    Role,
    pools_transactions,
    read_clock,
    read_creators,
    read_latency,
    read_role,
    read_standby,
    read_version,
)
from docora_ops.diagnosis import (
    Check,
    CheckName,
    CheckState,
    Diagnosis,
    failed,
    not_checked,
    ok,
    warning,
)
from docora_ops.drift import DriftKind, DriftReport
from docora_ops.errors import ConfigurationError, DocoraOpsError, PostgresError, RedisError
from docora_ops.jobs import (
    ADVICE,
    QUEUE_NAME,
    Backend,
    NoJobCode,
    OtherQueue,
    QueueHealth,
    Worker,
    refusal_of,
)
from docora_ops.links import FAILED_LINKS, LinkGroup, LinkStatus
from docora_ops.overview import SLOW_MS, TOO_SLOW_MS, Freshness, Standby
from docora_ops.queue.pair_mark import PAIR_KEY, may_leave_mark
from docora_ops.queue.redis_client import describe, latency
from docora_ops.queue.redis_server import read_clock as read_redis_clock
from docora_ops.queue.redis_server import read_redis_server, try_commands
from docora_ops.settings import Settings
from docora_ops.text import amount, duration, moment

_OLDEST_POSTGRES = 14
_OLDEST_REDIS = [6, 2]  # Valkey 7.2, its first version, counts as 7.2
_MEMORY_WARNING, _MEMORY_FAILURE = 0.80, 0.95
_LONG = 3600  # seconds that a job waits
_LATE = 60  # seconds by which a delayed job may be late: workers look every second
_CLOCK_WARNING, _CLOCK_FAILURE = 5, 20  # seconds; a worker that is further off takes no job
_OTHER_BULLMQ = re.compile(r"bullmq:(?!5\.)")
"""The version in the queue's metadata, which the last process to open the queue has written."""
_TO_REMOVE = "remove them, with the REDIS_URL of Docora itself"
_NO_ERROR = "(no error recorded)"
_TOO_SLOW = "check its load and the network"
_TIMER = (
    "a timer should run docora-ops schedule, unless another program queues what is due: "
    "docora-ops help recipes"
)
_BY_NAME = "workers are seen by the names of their Redis clients, if our user may list these"
_TABLES_OF_FEW_COMMANDS = {"app_delivered_files", "repository_snapshots", "snapshot_files"}
_TO_READ = f"%R~{PAIR_KEY} +hgetall: docora-ops help privileges"
_RQ, _BULLMQ = ADVICE[Backend.RQ], ADVICE[Backend.BULLMQ]
_DRIFT = {
    DriftKind.LOST: ("lost link", "lost links", "without a live job"),
    DriftKind.STUCK: ("scanning link", "scanning links", "without a live job"),
    DriftKind.ORPHAN: ("job", "jobs", "whose link is gone"),
    DriftKind.DUPLICATE: ("job", "jobs", "more than once in the queue"),
    DriftKind.STALE_ENTRY: ("entry", "entries", "of jobs that are gone or elsewhere"),
}
_OF_DOCORA = "not looked for: BullMQ keeps its own entries, and Docora's scheduler its queue"

_Problem = tuple[bool, Callable[..., Check], str, str]
"""`(exists, kind, finding, hint)`. `kind` is `failed` or `warning`, which makes the check."""


@dataclass
class _Server:
    """The findings about one server."""

    name: CheckName
    checks: list[Check] = field(default_factory=list)
    error: DocoraOpsError | None = None  # of the settings, or it does not answer, or refuses
    missing: str = ""
    """Names what further checks lack, such as "Postgres"; empty if they can be made."""
    ahead: dict[str, float] = field(default_factory=dict)
    """Seconds that the server's clock is ahead of this host's, by server, if known."""
    latency: dict[str, float] = field(default_factory=dict)
    """Milliseconds that one answer takes, by server, if known."""
    may_only_read: bool = False
    pending: int = 0  # links; 0 also if Postgres was not asked
    foreign_keys: int = 0  # apps whose auth keys ENCRYPTION_KEY does not decrypt; 0 also if unknown
    health: QueueHealth | None = None
    freshness: Freshness | None = None

    def check(self, name: CheckName, fine: str, *problems: _Problem) -> None:
        """Adds a check with the first problem that exists."""
        self.checks.append(_judge(name, fine, *problems))

    def lose(self, error: DocoraOpsError) -> None:
        """Records why the server can't be used."""
        self.error = error
        if isinstance(error, ConfigurationError):
            self.missing = "usable settings"
        else:
            self.missing = self.name.capitalize()
            self.checks.append(failed(self.name, error.message, error.hint))

    def read_clock(self, read: Callable[[], float]) -> None:
        """Records how far the server's clock is ahead."""
        before = time.time()
        found = read()
        self.ahead[self.name.capitalize()] = found - (before + time.time()) / 2

    def read_latency(self, seconds: float) -> bool:
        """Records the latency of one answer. Tells whether it is too long."""
        self.latency[self.name.capitalize()] = seconds * 1000
        return seconds * 1000 > TOO_SLOW_MS


def diagnose(
    docora: Docora, *, max_failed: int | None = None, read_only: bool = False
) -> Iterator[Suspects | Diagnosis]:
    """Makes all possible checks. If a server is unreachable, skips the checks that need it.

    Yields Suspects until the second look at the drift, and finally the Diagnosis.

    max_failed: more failed links than this are critical.
    read_only: role and user need only read privileges, and nothing that could write is attempted.
    """
    postgres = _ask_postgres(docora, max_failed, read_only=read_only)
    redis = _ask_redis(docora, read_only=read_only or postgres.may_only_read)
    first_look = time.monotonic()
    of_drift: list[Check] = []
    drift: DriftReport | None = None
    if not (postgres.missing or redis.missing):
        try:
            for event in find_drift(docora):
                if isinstance(event, Suspects):
                    yield event
                else:
                    drift = DriftReport([finding.drift for finding in event])
                    workers = redis.health.live_workers if redis.health else ()
                    may_only_read = read_only or postgres.may_only_read
                    of_drift += _check_drift(docora, drift, workers, read_only=may_only_read)
        except PostgresError as error:
            postgres.lose(error)
        except RedisError as error:
            redis.lose(error)
    # Workers and timers are restarted: that they are away counts if they still are a moment later.
    if _has_stopped(docora, postgres, redis):
        left = docora.settings.drift_grace - (time.monotonic() - first_look)
        yield from pause_between_looks(1, left)
        _look_again(docora, postgres, redis)
    errors = [server.error for server in (postgres, redis) if server.error is not None]
    unusable = [error for error in errors if isinstance(error, ConfigurationError)]
    is_lost = len(unusable) < len(errors)
    missing = filter(None, (postgres.missing, redis.missing))
    needs = " and ".join(dict.fromkeys(missing)) or "more permissions"
    settings = _check_settings(docora.settings, unusable, postgres)
    checks = [settings, *postgres.checks, *redis.checks]
    freshness = postgres.freshness
    if redis.health:
        choice = docora.backend
        if choice.is_clear:
            checks += check_queue(redis.health, choice.backend, postgres.pending)
            if not redis.health.has_only_others:
                checks.append(_check_schedule(redis.health, freshness, docora))
        else:
            checks.append(failed(CheckName.WORKERS, choice.sentence, choice.to_set))
    if freshness is not None:
        checks.append(check_freshness(freshness))
    if ahead := postgres.ahead | redis.ahead:
        checks.append(check_clocks(ahead, redis.health.live_workers if redis.health else ()))
    if known := postgres.latency | redis.latency:
        checks.append(_check_latency(known))
    by_name = {check.name: check for check in [*checks, *(() if is_lost else of_drift)]}
    yield Diagnosis(
        [by_name.get(name) or not_checked(name, f"needs {needs}") for name in CheckName],
        None if is_lost else drift,
        needs,
        misconfigured=bool(unusable),
        server_lost=is_lost,
    )


def _has_stopped(docora: Docora, postgres: _Server, redis: _Server) -> bool:
    """Judges the freshness beside the queue. Tells whether no worker runs, or something stopped."""
    try:
        if postgres.freshness:
            postgres.freshness = beside_queue(docora, postgres.freshness, redis.health)
    except PostgresError as error:
        postgres.lose(error)
    except RedisError as error:
        redis.lose(error)
    stopped = postgres.freshness.stopped if postgres.freshness else None
    return stopped is not None or (redis.health is not None and not redis.health.workers)


def _look_again(docora: Docora, postgres: _Server, redis: _Server) -> None:
    """Reads the queue and the freshness of the links anew, unless a server is lost."""
    try:
        if redis.health:
            redis.health = docora.queue_to_read.health()
        if postgres.freshness:
            with docora.database.snapshot():
                counts = count_by_status(docora.database)
                postgres.freshness = links_freshness(docora, counts)
    except PostgresError as error:
        postgres.lose(error)
    except RedisError as error:
        redis.lose(error)
    _has_stopped(docora, postgres, redis)


def _judge(name: CheckName, fine: str, *problems: _Problem) -> Check:
    """Returns a check with the first problem that exists, otherwise OK with the finding `fine`."""
    for exists, kind, finding, hint in problems:
        if exists:
            return kind(name, finding, hint)
    return ok(name, fine)


def _check_settings(
    settings: Settings, unusable: list[ConfigurationError], postgres: _Server
) -> Check:
    name = CheckName.SETTINGS
    if unusable:
        found = "; ".join(error.message for error in unusable)
        return failed(name, found, "; ".join(error.hint or "" for error in unusable))
    if settings.encryption_key is not None:
        try:
            settings.require_encryption_key()
        except ConfigurationError as error:
            return warning(name, f"{error.message}: no worker starts with it", error.hint)
    if postgres.foreign_keys:
        of_apps = f"none of the auth keys of {amount(postgres.foreign_keys, 'app')}"
        found = f"ENCRYPTION_KEY decrypts {of_apps}: a worker with it takes no job"
        return warning(name, found, "set it to the ENCRYPTION_KEY that Docora has")
    freshness = postgres.freshness
    if freshness and freshness.shortest_pass_seconds:
        hint = f"set it to more than {freshness.shortest_pass_seconds}: docora-ops help links"
        return warning(name, freshness.too_short_words, hint)
    if settings.warnings:
        return warning(name, "; ".join(settings.warnings))
    of_target = f"target {settings.target}, " if settings.target else ""
    return ok(name, f"{of_target}queue {QUEUE_NAME}")


def _ask_postgres(docora: Docora, max_failed: int | None, *, read_only: bool) -> _Server:
    server = _Server(CheckName.POSTGRES)
    try:
        database = docora.database
        if server.read_latency(read_latency(database)):
            raise PostgresError(f"{database.place} is too slow", hint=_TOO_SLOW)
        version, standby = read_version(database), read_standby(database)
        server.read_clock(lambda: read_clock(database))
        server.checks.append(ok(CheckName.POSTGRES, database.place))
        is_read_only = database.is_read_only and not read_only
        server.checks += check_postgres(version, standby, is_read_only=is_read_only)
        pools = pools_transactions(docora.settings)
        pooling = "a proxy that pools transactions: commands work, and a worker refuses to start"
        unknown = "unknown: two more connections could not be opened at once"
        allow = "allow the role, and the proxy's pool, more connections"
        server.check(
            CheckName.POSTGRES_POOLING,
            "no proxy that pools transactions",
            (pools is True, warning, pooling, SESSIONS_FOR_WORKERS),
            (pools is None, warning, unknown, allow),
        )
        role = read_role(database)
        missing = role.missing_columns
        grant = f"let the role use the schema: GRANT USAGE ON SCHEMA {database.schema}"
        hint = f"point DATABASE_URL at the database that Docora uses, and {grant}"
        problem = (bool(missing), failed, f"missing: {', '.join(missing)}", hint)
        server.check(CheckName.TABLES, "6 tables, and all their columns", problem)
        if missing:  # missing columns would look like missing privileges
            server.missing = "the missing tables and columns"
            return server
        # Others' functions beside Docora's tables could run as ours.
        creators = read_creators(database)
        others = ", ".join(f"{role} in {schema}" for schema, role in creators)
        others = f"others may create functions and tables: {others}"
        revoke = (f"REVOKE CREATE ON SCHEMA {schema} FROM {role};" for schema, role in creators)
        problem = (bool(creators), warning, others, " ".join(revoke))
        server.check(CheckName.SCHEMAS, "no other role may create anything", problem)
        privileges = check_privileges(role, read_only=read_only)
        server.checks.append(privileges)
        server.may_only_read = role.may_only_read
        if privileges.state is CheckState.CRITICAL and not role.may_only_read:
            server.missing = "the missing privileges"
            return server
        if ("SELECT", "apps", "client_auth_key_encrypted") in role.held:
            server.foreign_keys = _count_foreign_keys(docora)
        _check_links(docora, server, max_failed)
        if standby:
            server.missing = "the primary"
    except (ConfigurationError, PostgresError) as error:
        server.lose(error)
    return server


def _count_foreign_keys(docora: Docora) -> int:
    """Counts the tried auth keys if ENCRYPTION_KEY decrypts none; 0 also without a usable one."""
    try:
        from docora_ops.actions.encryption import count_foreign

        key = docora.settings.require_encryption_key()
    except (ImportError, ConfigurationError):
        return 0
    return count_foreign(some_auth_keys(docora.database), key)


def _check_links(docora: Docora, server: _Server, max_failed: int | None) -> None:
    database = docora.database
    with database.snapshot():
        counts = count_by_status(database)
        server.freshness = links_freshness(docora, counts)
        groups = links_by_group(database, LinkGroup.APP, FAILED_LINKS) if counts.failed else []
        half = sum(counts.by_status.values()) / 2
        errors = error_groups(database, FAILED_LINKS)[:1] if counts.failed > half else []
    server.pending = counts.by_status[LinkStatus.PENDING_SNAPSHOT]
    of_apps = f"{amount(counts.failed, 'failed link')} of {amount(len(groups), 'app')}"
    too_many = max_failed is not None and counts.failed > max_failed
    hint = "docora-ops failed --group-by error"
    exceeded = (too_many, failed, f"{of_apps}, more than {max_failed}", hint)
    most = [each for each in errors if each.links > half]
    error = most[0].error_message or _NO_ERROR if most else ""
    with_one = f"{of_apps}, most of all links with one error: {error}"
    widespread = (bool(most), failed, with_one, hint)
    some = (counts.failed > 0, warning, of_apps, hint)
    server.check(CheckName.FAILED_LINKS, "none", widespread, exceeded, some)
    circuits = counts.open_circuits
    hint = "docora-ops links --circuit open --group-by repository"
    problem = (circuits > 0, warning, amount(circuits, "open circuit"), hint)
    server.check(CheckName.OPEN_CIRCUITS, "none", problem)


def check_postgres(
    version: str, standby: Standby | None, *, is_read_only: bool = False
) -> Iterator[Check]:
    """Checks the version, and whether the server takes writes.

    is_read_only: an administrator allows no changes.
    """
    found = f"PostgreSQL {version}"
    is_old = [int(number) for number in re.findall(r"\d+", version)[:1]] < [_OLDEST_POSTGRES]
    upgrade = f"upgrade to PostgreSQL {_OLDEST_POSTGRES} or newer"
    problem = (is_old, failed, f"{found} is too old", upgrade)
    yield _judge(CheckName.POSTGRES_VERSION, found, problem)
    hint = "point DATABASE_URL at the primary"
    problem = (standby is not None, failed, f"it is {standby}", hint)
    found = (
        "default_transaction_read_only is on: no command changes links, and no worker takes jobs"
    )
    hint = "whoever has set it for the server, the database or the role can say why"
    forbidden = (is_read_only, failed, found, hint)
    yield _judge(CheckName.POSTGRES_PRIMARY, "takes writes", problem, forbidden)


def check_privileges(role: Role, *, read_only: bool = False) -> Check:
    """Checks the privileges of the role. `read_only`: read privileges are enough."""
    if role.may_only_read and not read_only:
        found = f"{role.name} may only read: no command can change a link with it, and writing to "
        hint = "to monitor, add --read-only; to make changes: docora-ops help privileges"
        return failed(CheckName.PRIVILEGES, f"{found}Redis was not tried", hint)
    lacks = {} if role.is_superuser else role.lacks(read_only=read_only)
    found = "; ".join(f"{', '.join(lacks[table])} on {table}" for table in lacks)
    hint = " ".join(
        f"GRANT {', '.join(lacks[table])} ON {role.schema}.{table} TO {role.name};"
        for table in lacks
    )
    kind = failed if lacks.keys() - _TABLES_OF_FEW_COMMANDS else warning
    problem = (bool(lacks), kind, f"{role.name} lacks {found}", hint)
    return _judge(CheckName.PRIVILEGES, f"{role.name} has what it needs", problem)


def _ask_redis(docora: Docora, *, read_only: bool) -> _Server:
    server = _Server(CheckName.REDIS)
    try:
        client = docora.redis
        where = describe(client)
        if server.read_latency(latency(client)):
            raise RedisError(f"Redis at {where} is too slow", hint=_TOO_SLOW)
        refusal = None if read_only else try_commands(client, docora.backend.backend)
        server.read_clock(lambda: read_redis_clock(client))
        if found := read_redis_server(client):
            server.checks += [ok(CheckName.REDIS, where), *check_redis(found, refusal)]
        else:
            hint = "ACL SETUSER the user in REDIS_URL +info"
            finding = f"{where}, but our user may not ask how it is"
            server.checks.append(warning(CheckName.REDIS, finding, hint))
        server.health = docora.queue_to_read.health()
        if not docora.backend.is_clear:
            server.missing = "DOCORA_OPS_BACKEND"
        elif server.health.has_only_others:
            server.missing = "the right DOCORA_OPS_BACKEND"
        elif server.health.other is OtherQueue.WORKED_ON:
            server.missing = "workers of one kind only"
    except (ConfigurationError, RedisError) as error:
        server.lose(error)
    return server


def check_redis(info: Mapping[str, Any], refusal: tuple[str, str] | None = None) -> Iterator[Check]:
    """Checks version, role, eviction, memory and persistence, by the answer of INFO.

    refusal: why Redis refused the writes that were attempted, and the hint.
    """
    version, valkey = str(info.get("redis_version", "")), info.get("valkey_version")
    is_replica = info.get("role", "master") != "master"
    product = f"Valkey {valkey}" if valkey else f"Redis {version}"
    numbers = [int(number) for number in re.findall(r"\d+", version)]
    upgrade = "upgrade to Redis 6.2, Valkey 7.2 or newer"
    is_old = bool(numbers) and numbers < _OLDEST_REDIS
    problem = (is_old, failed, f"{product} is too old", upgrade)
    yield _judge(CheckName.REDIS_VERSION, product, problem)
    yield _judge(
        CheckName.REDIS_PRIMARY,
        "the primary",
        (is_replica, failed, "it is a replica", "point REDIS_URL at the primary"),
        (refusal is not None, failed, *(refusal or ("", ""))),
    )
    policy = info.get("maxmemory_policy") or "noeviction"  # or it does not tell
    found = f"maxmemory-policy is {policy}: jobs may be thrown away"
    hint = "CONFIG SET maxmemory-policy noeviction, and the same in redis.conf"
    problem = (policy != "noeviction", failed, found, hint)
    yield _judge(CheckName.REDIS_EVICTION, policy, problem)
    memory, limit = info.get("used_memory", 0), info.get("maxmemory", 0)
    used = f"{memory / 2**20:,.0f} MiB used"
    share = memory / limit if limit else 0
    found = f"{used}, {share:.0%} of maxmemory"
    hint = "free memory, or raise maxmemory: a full Redis takes no jobs"
    yield _judge(
        CheckName.REDIS_MEMORY,
        found if limit else f"{used}, maxmemory is not set",
        (share >= _MEMORY_FAILURE, failed, found, hint),
        (share >= _MEMORY_WARNING, warning, found, hint),
    )
    found = "the last write to disk failed: it refuses writes, or soon will"
    writes = ("aof_last_write_status", "rdb_last_bgsave_status")
    is_broken = any(info.get(name, "ok") != "ok" for name in writes)
    problem = (is_broken, failed, found, "see Redis's log and its disk")
    fine = "append-only file" if info.get("aof_enabled") else "snapshots"
    yield _judge(CheckName.REDIS_PERSISTENCE, fine, problem)


def check_queue(queue: QueueHealth, backend: Backend, pending: int) -> Iterator[Check]:
    """Checks the BullMQ queue, workers, scheduler and waiting jobs.

    Makes only one of these checks if only workers of the other backend are running.

    pending: the number of pending links; 0 if unknown.
    """
    is_rq, advice = backend is Backend.RQ, ADVICE[backend]
    if queue.has_only_others:
        name = CheckName.BULLMQ_QUEUE if is_rq else CheckName.WORKERS
        yield failed(name, advice.only_others, advice.to_switch)
        return
    yield from _check_rq(queue) if is_rq else _check_bullmq(queue, pending)
    found, oldest = str(queue.waiting or "none"), queue.oldest_waits_for
    if oldest is not None:
        found = f"{queue.waiting}, the oldest for {duration(oldest)}"
    start_more = "start more workers: docora-ops worker --concurrency N"
    if not is_rq:
        start_more = "raise SCAN_CONCURRENCY, or run more workers of Docora"
    problem = ((oldest or 0) > _LONG, warning, found, start_more)
    yield _judge(CheckName.WAITING_JOBS, found, problem)


def _check_rq(queue: QueueHealth) -> Iterator[Check]:
    name, found = CheckName.BULLMQ_QUEUE, "not in use"
    if queue.other is OtherQueue.WORKED_ON:
        yield failed(name, _RQ.others_beside, _RQ.to_stop_others)
    elif queue.other is OtherQueue.LEFT_JOBS:
        found = "the BullMQ queue holds jobs, and no BullMQ worker runs to take them; one that is "
        found += "started sends files to the base_url that an app had when its job was queued"
        yield failed(name, found, _TO_REMOVE, command=queue.to_remove_others)
    else:
        yield ok(name, found)
    jobs = f"{queue.waiting or 'no'} {'jobs wait' if queue.waiting > 1 else 'job waits'}"
    found = f"{queue.workers} on {QUEUE_NAME}"
    suspended = f"; {queue.suspension.sentence}" if queue.suspension else ""
    unless_idle = failed if queue.waiting else warning
    lost = f" ({queue.lost})" if queue.lost else ""
    none = f"no worker listens on {QUEUE_NAME}{lost}, and {jobs}{suspended}"
    yield _judge(
        CheckName.WORKERS,
        found,
        (not queue.workers, failed, none, "start one: docora-ops worker"),
        *_refusals(queue, f"{found}, {{}}, and {jobs}"),
        (bool(suspended), unless_idle, f"{found}, and {jobs}{suspended}", "docora-ops resume"),
        (bool(lost), warning, found + lost, "see whether they run: docora-ops queue"),
    )
    name, delay = CheckName.DELAYED_JOBS, queue.first_delayed_in
    if delay is None:
        yield ok(name, "none")
        return
    first = f"the first is due in {duration(delay)}"
    if delay < 0:
        first = f"the first was due {duration(-delay)} ago"
    start = f"start a worker, which queues them: {_RQ.to_start_workers}"
    yield _judge(
        name,
        f"workers queue them; {first}",
        (not queue.has_scheduler, failed, f"nothing queues them when they are due; {first}", start),
        (delay < -_LATE, warning, f"workers queue them, yet {first}", "see the log of the workers"),
    )


def _refusals(queue: QueueHealth, text: str) -> Iterator[_Problem]:
    """Yields what is wrong by the word of the workers that take no job, suspended ones excepted.

    It is critical if no worker takes jobs, or if a worker has another ENCRYPTION_KEY.
    """
    refusal = refusal_of(queue.live_workers)
    if refusal is None:
        return
    has_wrong_key = any(each.code is NoJobCode.WRONG_KEY for each in refusal.troubles)
    kind = failed if refusal.is_total or has_wrong_key else warning
    hint = "; ".join(each.hint for each in refusal.troubles if each.hint)
    found = text.format(refusal.words)
    yield bool(refusal.troubles), kind, found, hint or "see the log of the workers"


def _check_bullmq(queue: QueueHealth, pending: int) -> Iterator[Check]:
    version = queue.bullmq_version
    other = f"{version} made it, and docora-ops knows the keys of BullMQ 5"
    to_compare = "see whether status and queue fit Docora's own screens"
    none = f"no queue {QUEUE_NAME} of BullMQ in this Redis"
    yield _judge(
        CheckName.BULLMQ_QUEUE,
        f"{QUEUE_NAME}, made by {version}" if version else QUEUE_NAME,
        (version is None, warning, none, "check REDIS_URL"),
        (bool(_OTHER_BULLMQ.match(version or "")), warning, other, to_compare),
    )
    name, found = CheckName.WORKERS, str(queue.workers)
    if queue.workers and queue.other is OtherQueue.LEFT_JOBS:
        found += "; RQ's queue holds jobs, which run if a worker of RQ is started"
        yield failed(name, found, _TO_REMOVE, command=queue.to_remove_others)
    else:
        jobs = queue.waiting + queue.active + queue.delayed
        problem = failed if jobs or pending else warning
        waiting = f"{amount(pending, 'pending link')} and {amount(jobs, 'job')}"
        idle = f", for {waiting}" if jobs or pending else ", and no job waits"
        none = f"no BullMQ worker is seen{idle}; {_BY_NAME}"
        beside = queue.other is OtherQueue.WORKED_ON
        suspended = f"{found}; {queue.suspension and queue.suspension.sentence}, and {waiting} wait"
        yield _judge(
            name,
            found,
            (not queue.workers, failed, none, _BULLMQ.to_start_workers),
            (beside, failed, _BULLMQ.others_beside, _BULLMQ.to_stop_others),
            (queue.suspension is not None, problem, suspended, _BULLMQ.to_resume),
        )
    queued = "Docora's workers queue them when they are due"
    yield ok(CheckName.DELAYED_JOBS, f"{queue.delayed}; {queued}" if queue.delayed else "none")


def _check_schedule(queue: QueueHealth, freshness: Freshness | None, docora: Docora) -> Check:
    name, settings = CheckName.SCHEDULE, docora.settings
    if docora.backend.backend is Backend.BULLMQ:
        return ok(name, "Docora's own scheduler, which runs in its workers")
    state = judge_pass(queue.last_pass_seconds, freshness, settings)
    found = "no pass is known of the last week"
    if queue.last_pass_seconds is not None:
        found = f"the last pass was {duration(queue.last_pass_seconds)} ago"
    hint = None if state is CheckState.OK else _TIMER
    return Check(name, found, hint, state=state)


def check_freshness(found: Freshness) -> Check:
    """Checks that links are scanned. `found`: as judged beside the queue."""
    longest, last = duration(found.overdue_after_seconds), "no good scan yet"
    if found.last_scanned_at:
        seconds = (found.read_at - found.last_scanned_at).total_seconds()
        last = f"last good scan {duration(seconds)} ago"
    overdue = f"{found.overdue_words} without a good scan for over {longest}; the oldest "
    overdue += f"was at {moment(found.overdue_since)}"
    still = duration(found.nothing_moves_after_seconds)
    stands = f"nothing moves: {amount(found.due, 'link')} due, and for over {still} no job ran, "
    stands += "began or ended, and no file was delivered"
    cause = f"; {found.stopped.sentence}" if found.stopped else ""
    return _judge(
        CheckName.FRESHNESS,
        f"no link overdue, {last}",
        (found.overdue > 0, failed, overdue + cause, "docora-ops links --overdue"),
        (found.nothing_moves, failed, stands + cause, "docora-ops queue"),
        (found.is_slow, warning, found.slow_words, "run more workers, or see docora-ops queue"),
    )


def check_clocks(ahead: Mapping[str, float], workers: Iterable[Worker]) -> Check:
    """Compares the clocks of this host, of the servers, and of the workers' hosts.

    ahead: by server, the seconds that its clock is ahead of this host's.
    """
    clocks = {"this host": 0.0, **ahead}
    first, last = (choose(clocks, key=clocks.__getitem__) for choose in (max, min))
    off = clocks[first] - clocks[last]
    differences = [(off, f"{first} is {off:,.0f} s ahead of {last}")]
    for worker in workers:
        if (seconds := worker.clock_ahead_seconds) is not None:
            direction = "ahead of" if seconds > 0 else "behind"
            host = worker.hostname or "an unknown host"
            found = f"{host} (worker {worker.name}) is {abs(seconds):,} s {direction} Redis"
            differences.append((abs(seconds), found))
    largest, found = max(differences, key=lambda each: each[0])
    compared = [*clocks, amount(len(differences) - 1, "worker")]
    hint = "set the clocks by NTP on each host: heartbeats and due times are judged by them, and a "
    hint += "worker that is more than 20 s off takes no job"
    return _judge(
        CheckName.CLOCKS,
        f"{', '.join(compared[:-1])} and {compared[-1]} agree to {_CLOCK_WARNING} s",
        (largest > _CLOCK_FAILURE, failed, found, hint),
        (largest > _CLOCK_WARNING, warning, found, hint),
    )


def _check_latency(milliseconds: Mapping[str, float]) -> Check:
    found = " and ".join(f"{each:,.1f} ms from {name}" for name, each in milliseconds.items())
    found, slowest = f"an answer takes {found}", max(milliseconds, key=milliseconds.__getitem__)
    hint = f"check the load of {slowest}, and the network to it"
    too_slow = (milliseconds[slowest] > TOO_SLOW_MS, failed, found, hint)
    slow = (milliseconds[slowest] > SLOW_MS, warning, found, hint)
    return _judge(CheckName.LATENCY, found, too_slow, slow)


def _check_drift(
    docora: Docora, drift: DriftReport, workers: Sequence[Worker], *, read_only: bool
) -> Iterator[Check]:
    count_jobs = count_jobs_with_links if drift.total else sample_jobs
    belonging = count_jobs(docora.database, docora.queue)
    hint: str | None = "docora-ops repair"
    pair = read_pair(docora)
    if belonging.is_plausible and pair.state is PairState.OTHER:
        hint = None
        yield failed(CheckName.SERVERS_MATCH, pair.finding, TO_ACCEPT)
    elif belonging.is_plausible and pair.state is PairState.MOVED:
        accept = "after an upgrade, a restore or a move, the next change accepts this"
        yield warning(CheckName.SERVERS_MATCH, pair.finding, accept)
    elif belonging.is_plausible:
        yield _check_pair(docora, pair, workers, read_only=read_only)
    else:
        hint = None  # servers that do not belong together are no reason to repair drift
        yield failed(
            CheckName.SERVERS_MATCH,
            f"Postgres and Redis do not seem to belong together: {belonging}",
            "check DATABASE_URL and REDIS_URL: until they fit, no command changes anything",
        )
    for kind, (noun, plural, what) in _DRIFT.items():
        name, count = CheckName(f"drift_{kind}"), drift.found[kind]
        is_looked_for = kind is DriftKind.STUCK or not docora.queue.is_docoras
        fine = "none" if is_looked_for else _OF_DOCORA
        found = f"{amount(count, noun, plural)} {what}"
        yield failed(name, found, hint) if count else ok(name, fine)


def _check_pair(docora: Docora, pair: Pair, workers: Sequence[Worker], *, read_only: bool) -> Check:
    """Checks that our user and those of the workers may use the mark of the pair."""
    unread = pair.state is PairState.UNKNOWN
    unwritten = not (read_only or unread or may_leave_mark(docora.redis))
    found = f"our user may not write {PAIR_KEY}: changes do not leave which database Redis serves"
    blind = ", ".join(worker.name for worker in workers if not worker.may_compare)
    of_workers = f"the user of these workers may not read {PAIR_KEY}, so that they would also take "
    of_workers += f"the jobs of another database: {blind}"
    return _judge(
        CheckName.SERVERS_MATCH,
        "no sign of a mismatch",
        (unread, warning, pair.finding, f"ACL SETUSER the user in REDIS_URL {_TO_READ}"),
        (unwritten, warning, found, f"ACL SETUSER the user in REDIS_URL ~{PAIR_KEY} +hset"),
        (bool(blind), warning, of_workers, f"ACL SETUSER the user of the workers {_TO_READ}"),
    )
