"""`doctor`: reads the settings, both servers, the queue and the links, and checks them."""

import time
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from docora_ops.actions import checks
from docora_ops.actions.capacity import LOOKS_BACK, capacity
from docora_ops.actions.checks import Check, CheckName, CheckState, Problem, critical, ok, warning
from docora_ops.actions.docora import Docora
from docora_ops.actions.doctor_changes import ProblemChanges
from docora_ops.actions.drift import (
    Drift,
    DriftKind,
    Finding,
    Suspects,
    find_drift,
    pause_between_looks,
)
from docora_ops.actions.freshness import Freshness, read_freshness
from docora_ops.actions.holds import with_names
from docora_ops.actions.link_jobs import jobs_to_recover
from docora_ops.actions.pair import find_mismatch
from docora_ops.database import Database
from docora_ops.database.link_reports import count_by_status, error_groups, links_by_group
from docora_ops.database.link_scans import some_auth_keys
from docora_ops.database.postgres_server import (
    SESSIONS_FOR_WORKERS,
    pools_transactions,
    read_role,
    read_server,
)
from docora_ops.errors import ConfigurationError, DocoraOpsError, PostgresError, RedisError
from docora_ops.jobs import QUEUE_NAME, HeldApp, OtherQueue, QueueOverview
from docora_ops.links import FAILED_LINKS, LinkGroup, LinkStatus
from docora_ops.queue.outcomes import Counts, read_counts
from docora_ops.queue.redis_client import describe
from docora_ops.queue.redis_server import measure, read_redis_server, try_commands
from docora_ops.settings import Settings
from docora_ops.text import amount

EXAMPLES_SHOWN = 5  # cases of each kind of drift
_NO_ERROR = "(no error recorded)"
_TOO_SLOW = "check its load and the network"
_DRIFT = {
    DriftKind.LOST: ("lost link", "lost links", "without a live job"),
    DriftKind.STUCK: ("scanning link", "scanning links", "without a live job"),
    DriftKind.ORPHAN: ("job", "jobs", "whose link is gone"),
    DriftKind.DUPLICATE: ("job", "jobs", "more than once in the queue"),
    DriftKind.STALE_ENTRY: ("entry", "entries", "of jobs that are gone or elsewhere"),
}
_OF_DOCORA = "not looked for: BullMQ keeps its own entries, and Docora's scheduler its queue"


@dataclass(frozen=True)
class DriftData:
    """The drift between database and queue. `examples`: the first five cases of each kind."""

    total: int
    counts: Mapping[DriftKind, int]
    examples: Sequence[Drift]


@dataclass(frozen=True)
class Diagnosis:
    """The results of all checks in display order. Unknown numbers are None.

    state: the worst state of all checks; a check that was not made counts as a warning.
    drift: None if doctor could not look for it.
    needs: what the checks that were not made need, such as `Postgres`; empty if all were made.
    changes: None without `--changes`.
    """

    state: CheckState
    checks: Sequence[Check]
    drift: DriftData | None
    needs: str = ""
    misconfigured: bool = False
    server_lost: bool = False
    held: Sequence[HeldApp] = ()
    failed_links: int | None = None
    overdue_links: int | None = None
    worker_count: int | None = None
    changes: ProblemChanges | None = None


@dataclass
class _Server:
    """The checks of one server, and what later checks need to know about it."""

    name: CheckName
    checks: list[Check] = field(default_factory=list)
    error: DocoraOpsError | None = None  # bad settings, no answer, or a refusal
    missing: str = ""
    """The name of what later checks lack, such as "Postgres"; empty if they lack nothing."""
    ahead: dict[str, float] = field(default_factory=dict)
    """Seconds that the server's clock is ahead of this host's, by server name, if known."""
    latency: dict[str, float] = field(default_factory=dict)
    """Latency in milliseconds by server name, if known."""
    may_only_read: bool = False
    pending: int = 0  # number of pending links; 0 if unknown
    failed_links: int | None = None
    auth_keys: Sequence[str] = field(default=(), repr=False)  # of some apps, encrypted
    queue: QueueOverview | None = None
    freshness: Freshness | None = None
    recorded: Counts | None = None  # how snapshots ended lately
    held: Sequence[HeldApp] = ()

    def check(self, name: CheckName, fine: str, *problems: Problem) -> None:
        self.checks.append(checks.judge(name, fine, *problems))

    def lose(self, error: DocoraOpsError) -> None:
        """Records why the server can't be used."""
        self.error = error
        if isinstance(error, ConfigurationError):
            self.missing = "usable settings"
        else:
            self.missing = self.name.capitalize()
            self.checks.append(critical(self.name, error.message, error.hint))

    def record(self, seconds: float, clock: float, where: str) -> None:
        """Records the server's latency, in `seconds`, and its clock, as Unix time.

        Raises PostgresError or RedisError, which name the server `where`, if it is too slow.
        """
        name = self.name.capitalize()
        self.latency[name] = seconds * 1000
        self.ahead[name] = clock - (time.time() - seconds / 2)
        if seconds * 1000 > checks.TOO_SLOW_MS:
            error = PostgresError if self.name is CheckName.POSTGRES else RedisError
            raise error(f"{where} is too slow", hint=_TOO_SLOW)


def diagnose(
    docora: Docora, *, max_failed: int | None = None, read_only: bool = False
) -> Iterator[Suspects | Diagnosis]:
    """Makes all possible checks. If a server is unreachable, skips the checks that need it.

    Yields Suspects until the second look for drift, and finally the Diagnosis.

    max_failed: more failed links than this are critical; None sets no limit.
    read_only: expect only read privileges, and try nothing that could write.
    """
    postgres = _ask_postgres(docora, max_failed, read_only=read_only)
    redis = _ask_redis(docora, read_only=read_only or postgres.may_only_read)
    first_look = time.monotonic()
    of_drift: list[Check] = []
    report: DriftData | None = None
    if not (postgres.missing or redis.missing):
        with _recording_errors(postgres, redis):
            findings = yield from find_drift(docora)
            report = _summarize(findings, jobs_to_recover(docora.queue, redis.queue))
            of_drift += _check_drift(docora, report)
    _add_freshness(docora, postgres, redis)
    # Workers and timers may just be restarting: they count as gone only after a second look.
    is_pass_missing = postgres.freshness is not None and postgres.freshness.schedule_stopped
    if is_pass_missing or (redis.queue is not None and not redis.queue.takes_jobs):
        left = docora.settings.drift_grace - (time.monotonic() - first_look)
        yield from pause_between_looks(1, left)
        with _recording_errors(postgres, redis):
            redis.queue = redis.queue and docora.queue_to_read.overview(1)
        _add_freshness(docora, postgres, redis)
    errors = [server.error for server in (postgres, redis) if server.error is not None]
    unusable = [error for error in errors if isinstance(error, ConfigurationError)]
    is_lost = len(unusable) < len(errors)
    missing = filter(None, (postgres.missing, redis.missing))
    needs = " and ".join(dict.fromkeys(missing)) or "more permissions"
    settings = _check_settings(docora.settings, unusable, postgres.auth_keys)
    of_both = _check_together(docora, postgres, redis)
    made = [settings, *postgres.checks, *redis.checks, *of_both]
    by_name = {check.name: check for check in [*made, *(() if is_lost else of_drift)]}
    results = [
        by_name.get(name) or Check(name, f"needs {needs}", state=CheckState.NOT_CHECKED)
        for name in CheckName
    ]
    yield Diagnosis(
        checks.worst_of(results),
        results,
        None if is_lost else report,
        needs if by_name.keys() < set(CheckName) else "",
        misconfigured=bool(unusable),
        server_lost=is_lost,
        held=redis.held,
        failed_links=postgres.failed_links,
        overdue_links=postgres.freshness.overdue if postgres.freshness else None,
        worker_count=len(redis.queue.workers) if redis.queue else None,
    )


def _check_together(docora: Docora, postgres: _Server, redis: _Server) -> Iterator[Check]:
    # Without Redis, nobody knows which apps are held, and whether anything moves.
    queue, freshness = redis.queue, None if redis.error else postgres.freshness
    if queue and not (choice := docora.queue_to_read.choice).is_clear:
        yield critical(CheckName.WORKERS, choice.sentence, choice.to_set)
    elif queue:
        yield from checks.check_queue(queue, docora.queue, postgres.pending)
        if not (docora.queue.can_push or queue.has_only_others):
            yield ok(CheckName.SCHEDULE, "Docora's own scheduler, which runs in its workers")
        elif freshness and not queue.has_only_others:
            last_pass = queue.last_pass_seconds
            yield checks.check_schedule(last_pass, freshness, docora.settings)
        if freshness and redis.recorded and not (postgres.missing or redis.missing):
            pace = capacity(redis.recorded, freshness, queue, docora.settings)
            yield checks.check_capacity(pace if docora.queue.can_push else None)
    if queue and freshness:
        yield checks.check_freshness(freshness, redis.held, queue)
    if postgres.latency and redis.latency:
        workers = queue.workers if queue else ()
        yield checks.check_clocks(postgres.ahead | redis.ahead, workers)
        yield checks.check_latency(postgres.latency | redis.latency)


@contextmanager
def _recording_errors(postgres: _Server, redis: _Server) -> Iterator[None]:
    """Ends the block if a server fails, and records the error."""
    try:
        yield
    except PostgresError as error:
        postgres.lose(error)
    except RedisError as error:
        redis.lose(error)


def _add_freshness(docora: Docora, postgres: _Server, redis: _Server) -> None:
    """Reads the freshness of the links and the names of the held apps, if links can be read."""
    queue = redis.queue
    with _recording_errors(postgres, redis):
        if postgres.failed_links is not None and postgres.error is None:
            postgres.freshness, lost = read_freshness(docora, queue)
            if lost:
                redis.lose(lost)
            redis.held = with_names(docora.database, queue.held) if queue and queue.held else ()


def _check_settings(
    settings: Settings, unusable: list[ConfigurationError], auth_keys: Sequence[str]
) -> Check:
    """Checks the settings. `auth_keys`: encrypted keys that ENCRYPTION_KEY should decrypt."""
    name = CheckName.SETTINGS
    if unusable:
        messages = "; ".join(error.message for error in unusable)
        return critical(name, messages, "; ".join(error.hint or "" for error in unusable))
    if settings.encryption_key:
        foreign = 0
        try:
            key = settings.require_encryption_key()
        except ConfigurationError as error:
            return warning(name, f"{error.message}: you can start no worker", error.hint)
        with suppress(ImportError):  # needs the extra `worker`
            from docora_ops.actions.encryption import count_foreign

            foreign = count_foreign(auth_keys, key)
        if foreign:
            of_apps = f"none of the auth keys of {amount(foreign, 'app')}"
            finding = f"ENCRYPTION_KEY decrypts {of_apps}: a worker with it takes no job"
            return warning(name, finding, "set it to the ENCRYPTION_KEY that Docora uses")
    return ok(name, f"queue {QUEUE_NAME}")


def _ask_postgres(docora: Docora, max_failed: int | None, *, read_only: bool) -> _Server:
    server = _Server(CheckName.POSTGRES)
    try:
        database = docora.database
        with database.consistent_reads():
            _examine_postgres(docora, server, max_failed, read_only=read_only)
        if database.has_proxy:
            _check_pooling(docora.settings, server)
        else:
            server.checks.append(ok(CheckName.POSTGRES_POOLING, "no proxy before Postgres"))
    except (ConfigurationError, PostgresError) as error:
        server.lose(error)
    return server


def _examine_postgres(
    docora: Docora, server: _Server, max_failed: int | None, *, read_only: bool
) -> None:
    database = docora.database
    state = read_server(database)
    server.record(state.latency, state.clock, database.place)
    server.checks.append(ok(CheckName.POSTGRES, database.place))
    is_read_only = database.is_read_only and not read_only
    server.checks += checks.check_postgres(state.version, state.standby, is_read_only=is_read_only)
    role = read_role(database)
    missing = role.missing_columns
    grant = f"let the role use the schema: GRANT USAGE ON SCHEMA {database.schema}"
    hint = f"point DATABASE_URL at the database that Docora uses, and {grant}"
    problem = (bool(missing), critical, f"missing: {', '.join(missing)}", hint)
    server.check(CheckName.TABLES, "6 tables, and all their columns", problem)
    if missing:  # missing columns would look like missing privileges
        server.missing = "the missing tables and columns"
        return
    # Another program could run a function that any role has created beside Docora's tables.
    every_role = f"every role may create functions and tables in {role.schema}"
    revoke = f"REVOKE CREATE ON SCHEMA {role.schema} FROM PUBLIC;"
    problem = (role.public_may_create, warning, every_role, revoke)
    server.check(CheckName.SCHEMAS, "not every role may create functions and tables", problem)
    privileges = checks.check_privileges(role, read_only=read_only)
    server.checks.append(privileges)
    server.may_only_read = role.may_only_read
    if privileges.state is CheckState.CRITICAL and not role.may_only_read:
        server.missing = "the missing privileges"
        return
    if ("SELECT", "apps", "client_auth_key_encrypted") in role.privileges:
        server.auth_keys = some_auth_keys(database)
    _check_links(database, server, max_failed)
    if state.standby:
        server.missing = "the primary"


def _check_pooling(settings: Settings, server: _Server) -> None:
    """Checks whether the proxy before Postgres pools transactions.

    One look can show that the proxy pools transactions, but can't rule it out.
    """
    pools = pools_transactions(settings, tries=1)
    pooling = "a proxy that pools transactions: commands work, and a worker refuses to start"
    unknown = "unknown: two more connections could not be opened at once"
    allow = "allow the role, and the proxy's pool, more connections"
    server.check(
        CheckName.POSTGRES_POOLING,
        "a proxy, which does not seem to pool transactions; a worker checks again when it starts",
        (pools is True, warning, pooling, SESSIONS_FOR_WORKERS),
        (pools is None, warning, unknown, allow),
    )


def _check_links(database: Database, server: _Server, max_failed: int | None) -> None:
    counts = count_by_status(database)
    groups = links_by_group(database, LinkGroup.APP, FAILED_LINKS) if counts.failed else []
    half = sum(counts.by_status.values()) / 2
    errors = error_groups(database, FAILED_LINKS)[:1] if counts.failed > half else []
    server.pending = counts.by_status[LinkStatus.PENDING_SNAPSHOT]
    server.failed_links = counts.failed
    of_apps = f"{amount(counts.failed, 'failed link')} of {amount(len(groups), 'app')}"
    too_many = max_failed is not None and counts.failed > max_failed
    hint = "docora-ops failed --group-by error"
    exceeded = (too_many, critical, f"{of_apps}, more than {max_failed}", hint)
    in_majority = [group for group in errors if group.links > half]
    error = in_majority[0].error_message or _NO_ERROR if in_majority else ""
    with_one = f"{of_apps}, most of all links with one error: {error}"
    widespread = (bool(in_majority), critical, with_one, hint)
    any_failed = (counts.failed > 0, warning, of_apps, hint)
    server.check(CheckName.FAILED_LINKS, "none", widespread, exceeded, any_failed)
    circuits = counts.open_circuits
    hint = "docora-ops links --circuit open --group-by repository"
    problem = (circuits > 0, warning, amount(circuits, "open circuit"), hint)
    server.check(CheckName.OPEN_CIRCUITS, "none", problem)


def _ask_redis(docora: Docora, *, read_only: bool) -> _Server:
    server = _Server(CheckName.REDIS)
    try:
        client = docora.redis
        where = describe(client)
        server.record(*measure(client), f"Redis at {where}")
        refusal = None if read_only else try_commands(client, docora.queue_to_read.commands_of_push)
        if info := read_redis_server(client):
            server.checks += [ok(CheckName.REDIS, where), *checks.check_redis(info, refusal)]
        else:
            hint = "ACL SETUSER the user in REDIS_URL +info"
            finding = f"{where}, but our user may not ask how it is"
            server.checks.append(warning(CheckName.REDIS, finding, hint))
        server.queue = docora.queue_to_read.overview(1)
        lately = datetime.fromtimestamp(time.time() + server.ahead["Redis"], UTC)
        server.recorded = read_counts(client, lately - timedelta(seconds=LOOKS_BACK), lately)
        if not docora.queue_to_read.choice.is_clear:
            server.missing = "DOCORA_OPS_BACKEND"
        elif server.queue.has_only_others:
            server.missing = "the right DOCORA_OPS_BACKEND"
        elif server.queue.other_queue is OtherQueue.WORKED_ON:
            server.missing = "workers of one kind only"
    except (ConfigurationError, RedisError) as error:
        server.lose(error)
    return server


def _summarize(findings: Iterable[Finding], to_recover: Container[str]) -> DriftData:
    """Counts the drift. `to_recover`: job ids of links to skip, which workers will soon recover."""
    counts, examples = Counter[DriftKind](), []
    for finding in findings:  # which are not kept, because there may be a million
        kind = finding.drift.kind
        if finding.status and finding.drift.job_id in to_recover:
            continue
        counts[kind] += 1
        if counts[kind] <= EXAMPLES_SHOWN:
            examples.append(finding.drift)
    examples.sort(key=lambda drift: list(DriftKind).index(drift.kind))
    return DriftData(counts.total(), {kind: counts[kind] for kind in DriftKind}, examples)


def _check_drift(docora: Docora, report: DriftData) -> Iterator[Check]:
    hint: str | None = "docora-ops repair"
    if mismatch := find_mismatch(docora):
        hint = None  # servers that do not belong together are no reason to repair drift
        yield critical(
            CheckName.SERVERS_MATCH,
            f"this Redis seems to belong to another database: {mismatch}",
            "check DATABASE_URL and REDIS_URL: until they fit, no command changes anything",
        )
    else:
        yield ok(CheckName.SERVERS_MATCH, "no sign of a mismatch")
    for kind, (noun, plural, condition) in _DRIFT.items():
        name, count = CheckName(f"drift_{kind}"), report.counts[kind]
        is_looked_for = kind is DriftKind.STUCK or docora.queue.can_push
        fine = "none" if is_looked_for else _OF_DOCORA
        finding = f"{amount(count, noun, plural)} {condition}"
        yield critical(name, finding, hint) if count else ok(name, fine)
