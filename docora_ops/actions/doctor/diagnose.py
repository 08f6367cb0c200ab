"""`doctor`: checks the settings, both servers, the queue, and whether they agree."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import closing, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from docora_ops.actions.background import PATIENCE, in_background, outcome, too_late
from docora_ops.actions.belonging import count_jobs_with_links, sample_jobs
from docora_ops.actions.doctor import postgres_checks, redis_checks, timing_checks
from docora_ops.actions.doctor.timing_checks import seconds_ahead
from docora_ops.actions.open_queue import open_queue
from docora_ops.actions.repair.find import find_drift
from docora_ops.database import Database
from docora_ops.database.counts import count_apps_with_failed_links, count_links
from docora_ops.database.grants import TABLES, missing_columns
from docora_ops.database.pooling import find_pooling
from docora_ops.database.postgres_server import (
    read_clock,
    read_columns,
    read_creators,
    read_role,
    read_server,
)
from docora_ops.diagnosis import (
    Check,
    CheckName,
    CheckState,
    Diagnosis,
    failed,
    not_made,
    ok,
    warning,
)
from docora_ops.drift import Belonging, DriftKind, DriftReport
from docora_ops.errors import (
    ConfigurationError,
    DocoraOpsError,
    PostgresError,
    RedisError,
    ServerError,
)
from docora_ops.jobs import Backend, OtherQueue, QueueHealth
from docora_ops.links import LinkStatus
from docora_ops.queue import LinkQueue, Redis, connect
from docora_ops.queue.redis_client import describe, latency
from docora_ops.queue.redis_server import QueueInspector
from docora_ops.settings import Settings, load_settings
from docora_ops.status import TOO_SLOW_MS

_OF_POSTGRES = frozenset(
    {
        *(CheckName.POSTGRES, CheckName.POSTGRES_VERSION, CheckName.POSTGRES_PRIMARY),
        *(CheckName.POSTGRES_POOLING, CheckName.TABLES, CheckName.SCHEMAS, CheckName.PRIVILEGES),
        *(CheckName.FAILED_LINKS, CheckName.OPEN_CIRCUITS),
    }
)
_INFO = (
    *(CheckName.REDIS_VERSION, CheckName.REDIS_PRIMARY, CheckName.REDIS_EVICTION),
    *(CheckName.REDIS_MEMORY, CheckName.REDIS_PERSISTENCE),
)
"""The checks that are made from the answer of INFO."""
_OF_REDIS = frozenset(
    {
        *(CheckName.REDIS, CheckName.BULLMQ_QUEUE, CheckName.WORKERS, CheckName.SCHEDULER),
        *(CheckName.WAITING_JOBS, *_INFO),
    }
)
_DRIFT = {
    DriftKind.LOST: "{count} pending {links} without a live job",
    DriftKind.STUCK: "{count} scanning {links} without a live job",
    DriftKind.ORPHAN: "{count} {jobs} whose link is gone",
    DriftKind.DUPLICATE: "{count} {jobs} more than once in the queue",
    DriftKind.STALE_ENTRY: "{count} {entries} of jobs that are gone or elsewhere",
    DriftKind.FAILED_LIVE: "{count} failed {links} with a live job, which does no harm",
}


_OF_DOCORA = dict.fromkeys(DriftKind, "not looked for: BullMQ keeps its own entries") | {
    DriftKind.LOST: "not looked for: Docora's scheduler queues pending links"
}
"""The reason why a kind of drift is not looked for in Docora's own queue."""


@dataclass
class _Server:
    """The checks of one server."""

    checks: list[Check] = field(default_factory=list)
    clock: dict[str, float] = field(default_factory=dict)
    """By the name of the server, the seconds that its clock is ahead of this host's."""
    latency: float | None = None  # seconds that one answer takes
    is_lost: bool = False
    pending: int = 0
    """Pending links; 0 also if Postgres was not asked."""
    queue: LinkQueue | None = None
    health: QueueHealth | None = None
    missing: str = ""
    """The reason why further checks cannot be made, such as "Postgres". Empty if there is none."""

    def lose(self, name: CheckName, error: DocoraOpsError) -> None:
        """Records that the server does not answer, or refuses."""
        self.checks.append(_failure(name, error))
        self.is_lost, self.missing = True, name.capitalize()


def diagnose(
    env_file: Path | None,
    before_second_look: Callable[[int], object],
    on_wait: Callable[[Sequence[str]], object],
    *,
    max_failed: int | None = None,
    read_only: bool = False,
) -> Diagnosis:
    """Makes all checks that can be made; an unreachable server does not prevent the others.

    Calls `before_second_look` with the number of disagreements before they are checked again.
    Calls `on_wait` with the names of servers that have not told all within a second; each has 8 s.
    `max_failed`: more failed links are a failure. `read_only`: role and user are to read only, and
    nothing is tried that could write.
    """
    try:
        settings = load_settings(env_file)
    except ConfigurationError as error:
        settings_only = [_failure(CheckName.SETTINGS, error)]
        checks = _complete(settings_only, lambda _: ("usable settings",))
        return Diagnosis(checks, None, misconfigured=True)
    problems: list[ConfigurationError] = []
    database = client = None
    try:
        database = Database(settings)
    except ConfigurationError as error:
        problems.append(error)
    try:
        client = connect(settings)
    except ConfigurationError as error:
        problems.append(error)
    postgres, redis = _ask_servers(
        settings, database, client, on_wait, max_failed=max_failed, read_only=read_only
    )
    with closing(database) if database else nullcontext():
        drift = None
        belonging = Belonging(0, 0)
        queue = redis.queue
        if database and queue and not (postgres.missing or redis.missing):
            try:
                drift = find_drift(
                    database,
                    queue,
                    grace_seconds=settings.drift_grace,
                    before_second_look=before_second_look,
                )
                count = count_jobs_with_links if drift.total else sample_jobs
                belonging = count(database, queue)
            except PostgresError as error:
                postgres.lose(CheckName.POSTGRES, error)
            except RedisError as error:
                redis.lose(CheckName.REDIS, error)
    found = [
        _check_settings(settings, problems),
        *postgres.checks,
        *redis.checks,
        *_check_queue(settings, redis, postgres.pending),
        *timing_checks.check_clocks(
            postgres.clock | redis.clock, redis.health.live_workers if redis.health else ()
        ),
        *timing_checks.check_latency({"Postgres": postgres.latency, "Redis": redis.latency}),
        *(_check_drift(drift, belonging, queue.backend) if drift and queue else ()),
    ]

    def missing_for(name: CheckName) -> Sequence[str]:
        asked = [] if name in _OF_REDIS else [postgres.missing]
        asked += [] if name in _OF_POSTGRES else [redis.missing]
        return [missing for missing in asked if missing]

    return Diagnosis(
        _complete(found, missing_for),
        drift,
        redis.queue.choice if redis.queue else None,
        misconfigured=bool(problems),
        server_lost=postgres.is_lost or redis.is_lost,
    )


def _ask_servers(
    settings: Settings,
    database: Database | None,
    client: Redis | None,
    on_wait: Callable[[Sequence[str]], object],
    *,
    max_failed: int | None,
    read_only: bool,
) -> tuple[_Server, _Server]:
    """Checks both servers at once: two that do not answer cost no more time than one."""
    postgres, redis = _Server(), _Server()
    probe = in_background(lambda: latency(client) if client else None)
    asked_redis = in_background(lambda: _check_redis(redis, settings, client, read_only=read_only))
    asked_postgres = in_background(
        lambda: _check_postgres(
            postgres, settings, database, max_failed=max_failed, read_only=read_only
        )
    )
    asked: dict[Future[Any], str] = {
        asked_postgres: "Postgres",
        asked_redis: "Redis",
        probe: "Redis",
    }
    if unread := wait(asked, 1).not_done:
        on_wait(sorted({asked[each] for each in unread}))
        wait(unread, PATIENCE - 1)
    late_postgres = too_late(str(database and database.target), PostgresError)
    late_redis = too_late(f"Redis at {client and describe(client)}", RedisError)
    by_now = (
        _by_now(postgres, asked_postgres, CheckName.POSTGRES, late_postgres),
        _by_now(redis, asked_redis, CheckName.REDIS, late_redis),
    )
    by_now[1].latency = outcome(probe, [])
    if redis.queue and not redis.queue.choice.is_clear and not by_now[1].is_lost:
        by_now[1].missing = "DOCORA_OPS_BACKEND"
    elif redis.health and redis.health.has_only_others:
        by_now[1].missing = "the right DOCORA_OPS_BACKEND"
    elif redis.health and redis.health.other is OtherQueue.WORKED_ON:
        by_now[1].missing = "workers of one kind only"
    for server, name in zip(by_now, ("Postgres", "Redis"), strict=True):
        if not server.missing and (server.latency or 0) * 1000 > TOO_SLOW_MS:
            server.missing = f"a faster {name}"
    return by_now


def _by_now(found: _Server, asked: Future[None], name: CheckName, error: ServerError) -> _Server:
    """Returns what was found; the server is lost if it has not told all."""
    if asked.done():
        asked.result()
        return found
    found = replace(found, checks=[*found.checks])  # the thread goes on
    found.lose(name, error)
    return found


def _check_postgres(
    found: _Server,
    settings: Settings,
    database: Database | None,
    *,
    max_failed: int | None,
    read_only: bool,
) -> None:
    if database is None:
        found.missing = CheckName.POSTGRES.capitalize()
        return
    try:
        server = read_server(database)
        found.latency = database.latency()
        found.clock["Postgres"] = seconds_ahead(lambda: read_clock(database))
        found.checks.append(ok(CheckName.POSTGRES, database.place))
        found.checks += postgres_checks.check_server(server, read_only=read_only)
        found.checks.append(postgres_checks.check_pooling(find_pooling(settings)))
        missing = missing_columns(read_columns(database, TABLES))
        found.checks.append(postgres_checks.check_tables(missing, len(TABLES), database.schema))
        if missing:  # missing columns would look like missing privileges
            found.missing = "the missing tables and columns"
            return
        found.checks.append(postgres_checks.check_schemas(read_creators(database, TABLES)))
        role = read_role(database, TABLES)
        privileges = postgres_checks.check_privileges(role, read_only=read_only)
        found.checks.append(privileges)
        if privileges.state is CheckState.CRITICAL:
            found.missing = "the missing privileges"
            return
        with database.snapshot():
            counts = count_links(database)
            apps = count_apps_with_failed_links(database) if counts.failed else 0
        found.pending = counts.by_status[LinkStatus.PENDING_SNAPSHOT]
        found.checks += postgres_checks.check_links(counts, apps, max_failed)
        if server.standby:
            found.missing = "the primary"
    except PostgresError as error:
        found.lose(CheckName.POSTGRES, error)


def _check_redis(
    found: _Server, settings: Settings, client: Redis | None, *, read_only: bool
) -> None:
    if client is None:
        found.missing = CheckName.REDIS.capitalize()
        return
    implied = ", since REDIS_URL is not set" if settings.redis_is_implied else ""
    where = describe(client) + implied
    try:
        found.queue = queue = open_queue(settings, client)
        inspector = QueueInspector(settings, client, queue.backend)
        refusal, tried = None, False
        if read_only:
            user = redis_checks.check_monitor(where, inspector.permitted_write())
        else:
            tried = not inspector.only_reads()
            refusal = inspector.connect() if tried else None
            user = redis_checks.check_user(where, queue.backend, only_reads=not tried)
        found.clock["Redis"] = seconds_ahead(inspector.clock)
        server = inspector.server()
        if server is None:
            to_ask = "ACL SETUSER the user in REDIS_URL +info"
            finding = f"{user.finding}, but our user may not ask how it is"
            hint = "; ".join(filter(None, (user.hint, to_ask)))
            found.checks.append(warning(CheckName.REDIS, finding, hint))
            found.checks += (not_made(name, ["INFO of Redis"]) for name in _INFO)
            if refusal:
                found.checks.append(failed(CheckName.REDIS_PRIMARY, *refusal))
        else:
            found.checks.append(user)
            found.checks += redis_checks.check_server(server, refusal, tried=tried)
        found.health = queue.health()
    except RedisError as error:
        found.lose(CheckName.REDIS, error)


def _check_settings(settings: Settings, problems: Sequence[ConfigurationError]) -> Check:
    name = CheckName.SETTINGS
    if problems:
        found = "; ".join(problem.message for problem in problems)
        return failed(name, found, "; ".join(problem.hint or "" for problem in problems))
    if settings.encryption_key is not None:
        try:
            settings.require_encryption_key()
        except ConfigurationError as error:
            return warning(name, f"{error.message}: no worker starts with it", error.hint)
    if settings.warnings:
        return warning(
            name,
            "; ".join(settings.warnings),
            "if that is not what you want, correct the environment or the env file",
        )
    return ok(name, f"queue {settings.queue_name}")


def _check_queue(settings: Settings, redis: _Server, pending: int) -> Iterable[Check]:
    if redis.queue is None or redis.health is None:
        return ()
    choice = redis.queue.choice
    if not choice.is_clear:
        return [failed(CheckName.WORKERS, choice.sentence, choice.to_set)]
    return redis_checks.check_queue(redis.health, settings.queue_name, choice.backend, pending)


def _check_drift(drift: DriftReport, belonging: Belonging, backend: Backend) -> Iterator[Check]:
    yield _check_belonging(belonging)
    # Servers that do not belong together are no reason to repair drift.
    hint = "docora-ops repair" if belonging.is_plausible else None
    for kind, text in _DRIFT.items():
        count = drift.counts.get(kind, 0)
        name = CheckName(f"drift_{kind}")
        if backend is Backend.BULLMQ and kind is not DriftKind.STUCK:
            yield ok(name, _OF_DOCORA[kind])
            continue
        finding = text.format(
            count=count,
            links="link" if count == 1 else "links",
            jobs="job" if count == 1 else "jobs",
            entries="entry" if count == 1 else "entries",
        )
        if count and kind.is_drift:
            yield failed(name, finding, hint)
        else:
            yield ok(name, finding if count else "none")


def _check_belonging(belonging: Belonging) -> Check:
    name = CheckName.SERVERS_MATCH
    if belonging.is_plausible:
        return ok(name, "no sign of a mismatch")
    found = f"Postgres and Redis do not seem to belong together: {belonging}"
    settings = "DATABASE_URL, REDIS_URL and DOCORA_OPS_QUEUE_NAME"
    until = "until they fit, retry, retry-all-failed, resync, schedule and repair are refused"
    return failed(name, found, f"check {settings}: {until}")


def _failure(name: CheckName, error: DocoraOpsError) -> Check:
    return failed(name, error.message, error.hint)


def _complete(
    found: Iterable[Check], missing_for: Callable[[CheckName], Sequence[str]]
) -> list[Check]:
    """Returns every check once, in order; if two have one name, the later one.

    `missing_for` tells what a check that was not made needs and is missing.
    """
    by_name = {check.name: check for check in found}
    return [by_name.get(name) or not_made(name, missing_for(name)) for name in CheckName]
