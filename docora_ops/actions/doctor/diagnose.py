"""`doctor`: checks the settings, both servers, the queue, and whether they agree."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from docora_ops.actions.background import in_background
from docora_ops.actions.doctor import postgres_checks, redis_checks
from docora_ops.actions.repair.find import count_jobs_with_links, find_drift
from docora_ops.database import Database
from docora_ops.database.counts import count_apps_with_failed_links, count_links
from docora_ops.database.grants import TABLES, missing_columns
from docora_ops.database.pooling import find_pooling
from docora_ops.database.postgres_server import read_clock, read_columns, read_role, read_server
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
from docora_ops.errors import ConfigurationError, DocoraOpsError, PostgresError, RedisError
from docora_ops.jobs import Backend, QueueHealth
from docora_ops.links import LinkStatus
from docora_ops.queue import Redis, connect, queue_of
from docora_ops.queue.redis_client import describe
from docora_ops.queue.redis_server import QueueInspector
from docora_ops.settings import Settings, load_settings

_CLOCK_WARNING = 5
_CLOCK_FAILURE = 30  # seconds; a worker whose clock is further off cleans up nothing

_OF_POSTGRES = frozenset(
    {
        *(CheckName.POSTGRES, CheckName.POSTGRES_VERSION, CheckName.POSTGRES_PRIMARY),
        *(CheckName.POSTGRES_POOLING, CheckName.TABLES, CheckName.PRIVILEGES),
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
    is_lost: bool = False
    pending: int = 0
    """Pending links; 0 also if Postgres was not asked."""
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
    *,
    max_failed: int | None = None,
    read_only: bool = False,
) -> Diagnosis:
    """Makes all checks that can be made; an unreachable server does not prevent the others.

    Calls `before_second_look` with the number of disagreements before they are checked again.
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
    # Together, two servers that do not answer cost no more time than one.
    redis_in_background = in_background(lambda: _check_redis(settings, client, read_only=read_only))
    with closing(database) if database else nullcontext():
        postgres = _check_postgres(settings, database, max_failed=max_failed, read_only=read_only)
        redis = redis_in_background.result()
        if redis.health and redis.health.has_only_others:
            redis.missing = "the right DOCORA_OPS_BACKEND"
        drift = None
        belonging = Belonging(0, 0)
        if database and client and not (postgres.missing or redis.missing):
            queue = queue_of(settings, client)
            try:
                drift = find_drift(
                    database,
                    queue,
                    grace_seconds=settings.drift_grace,
                    before_second_look=before_second_look,
                )
                if drift.total:
                    belonging = count_jobs_with_links(database, queue)
            except PostgresError as error:
                postgres.lose(CheckName.POSTGRES, error)
            except RedisError as error:
                redis.lose(CheckName.REDIS, error)
    found = [
        _check_settings(settings, problems),
        *postgres.checks,
        *redis.checks,
        *_check_queue(settings, redis.health, postgres.pending),
        *_check_clocks(postgres.clock | redis.clock),
        *(_check_drift(drift, belonging, settings.backend) if drift else ()),
    ]

    def missing_for(name: CheckName) -> Sequence[str]:
        asked = [] if name in _OF_REDIS else [postgres.missing]
        asked += [] if name in _OF_POSTGRES else [redis.missing]
        return [missing for missing in asked if missing]

    return Diagnosis(
        _complete(found, missing_for),
        drift,
        misconfigured=bool(problems),
        server_lost=postgres.is_lost or redis.is_lost,
    )


def _check_postgres(
    settings: Settings, database: Database | None, *, max_failed: int | None, read_only: bool
) -> _Server:
    found = _Server()
    if database is None:
        found.missing = CheckName.POSTGRES.capitalize()
        return found
    try:
        server = read_server(database)
        found.clock["Postgres"] = _seconds_ahead(lambda: read_clock(database))
        found.checks.append(ok(CheckName.POSTGRES, str(database.target)))
        found.checks += postgres_checks.check_server(server, read_only=read_only)
        found.checks.append(postgres_checks.check_pooling(find_pooling(settings)))
        missing = missing_columns(read_columns(database, TABLES))
        found.checks.append(postgres_checks.check_tables(missing, len(TABLES)))
        if missing:  # missing columns would look like missing privileges
            found.missing = "the missing tables and columns"
            return found
        role = read_role(database, TABLES)
        privileges = postgres_checks.check_privileges(role, read_only=read_only)
        found.checks.append(privileges)
        if privileges.state is CheckState.FAILED:
            found.missing = "the missing privileges"
            return found
        with database.snapshot():
            counts = count_links(database)
            apps = count_apps_with_failed_links(database) if counts.failed else 0
        found.pending = counts.by_status[LinkStatus.PENDING_SNAPSHOT]
        found.checks += postgres_checks.check_links(counts, apps, max_failed)
    except PostgresError as error:
        found.lose(CheckName.POSTGRES, error)
    return found


def _check_redis(settings: Settings, client: Redis | None, *, read_only: bool) -> _Server:
    found = _Server()
    if client is None:
        found.missing = CheckName.REDIS.capitalize()
        return found
    inspector = QueueInspector(settings, client)
    implied = ", since REDIS_URL is not set" if settings.redis_is_implied else ""
    where = describe(client) + implied
    try:
        refusal, tried = None, False
        if read_only:
            user = redis_checks.check_monitor(where, inspector.permitted_write())
        else:
            tried = not inspector.only_reads()
            refusal = inspector.connect() if tried else None
            user = redis_checks.check_user(where, only_reads=not tried)
        found.clock["Redis"] = _seconds_ahead(inspector.clock)
        server = inspector.server()
        if server is None:
            to_ask = "ACL SETUSER the user in REDIS_URL +info"
            finding = f"{user.finding}, but our user may not ask how it is"
            what_to_do = "; ".join(filter(None, (user.what_to_do, to_ask)))
            found.checks.append(warning(CheckName.REDIS, finding, what_to_do))
            found.checks += (not_made(name, ["INFO of Redis"]) for name in _INFO)
            if refusal:
                found.checks.append(failed(CheckName.REDIS_PRIMARY, *refusal))
        else:
            found.checks.append(user)
            found.checks += redis_checks.check_server(server, refusal, tried=tried)
        found.health = queue_of(settings, client).health()
    except RedisError as error:
        found.lose(CheckName.REDIS, error)
    return found


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


def _check_queue(settings: Settings, health: QueueHealth | None, pending: int) -> Iterable[Check]:
    if health is None:
        return ()
    return redis_checks.check_queue(health, settings.queue_name, settings.backend, pending)


def _check_drift(drift: DriftReport, belonging: Belonging, backend: Backend) -> Iterator[Check]:
    yield _check_belonging(belonging)
    # Servers that do not belong together are no reason to repair drift.
    what_to_do = "docora-ops repair" if belonging.is_plausible else None
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
            yield failed(name, finding, what_to_do)
        else:
            yield ok(name, finding if count else "none")


def _check_belonging(belonging: Belonging) -> Check:
    name = CheckName.SERVERS_MATCH
    if belonging.is_plausible:
        return ok(name, "no sign of a mismatch")
    found = f"Postgres and Redis do not seem to belong together: {belonging}"
    settings = "DATABASE_URL, REDIS_URL and DOCORA_OPS_QUEUE_NAME"
    until = "until they fit, docora-ops repair changes nothing"
    return failed(name, found, f"check {settings}: {until}")


def _seconds_ahead(read: Callable[[], float]) -> float:
    """Returns how far the clock that is read is ahead of this host's."""
    before = time.time()
    found = read()
    return found - (before + time.time()) / 2


def _check_clocks(ahead: Mapping[str, float]) -> Iterator[Check]:
    """Compares this host's clock with the servers' clocks, given by name as seconds ahead."""
    name = CheckName.CLOCKS
    if not ahead:
        return
    clocks = {"this host": 0.0, **ahead}
    first, last = (choose(clocks, key=clocks.__getitem__) for choose in (max, min))
    difference = clocks[first] - clocks[last]
    if difference <= _CLOCK_WARNING:
        *others, last = clocks
        yield ok(name, f"{', '.join(others)} and {last} agree to {_CLOCK_WARNING} s")
        return
    found = f"{first} is {difference:,.0f} s ahead of {last}"
    problem = failed if difference > _CLOCK_FAILURE else warning
    why = "heartbeats and due times are judged by them"
    yield problem(name, found, f"set the clocks by NTP on each host: {why}")


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
