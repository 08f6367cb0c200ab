"""`doctor`: settings, both servers, the queue, and what is out of step. Changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import TypeVar

from docora_ops.actions.doctor import postgres_checks, redis_checks
from docora_ops.actions.doctor.clocks import check_clocks, seconds_ahead
from docora_ops.actions.repair.belonging import count_jobs_with_links
from docora_ops.actions.repair.find import find_drift
from docora_ops.database import Database
from docora_ops.database.grants import TABLES, missing_columns
from docora_ops.database.pooling import find_pooling
from docora_ops.database.postgres_server import read_clock, read_columns, read_role, read_server
from docora_ops.diagnosis import Check, CheckName, CheckState, Diagnosis
from docora_ops.drift import Belonging, DriftKind, DriftReport
from docora_ops.errors import ConfigurationError, DocoraOpsError, PostgresError, RedisError
from docora_ops.queue import LinkQueue, Redis, connect
from docora_ops.queue.redis_client import describe
from docora_ops.queue.redis_server import QueueInspector
from docora_ops.settings import Settings, load_settings

T = TypeVar("T")

SecondLook = Callable[[int, int], object]
"""Told how many things look wrong, and in how many seconds they are looked at again."""

_THINGS = {
    DriftKind.LOST: "{count} pending {links} without a live job",
    DriftKind.STUCK: "{count} scanning {links} without a live job",
    DriftKind.ORPHAN: "{count} {jobs} whose link is gone",
    DriftKind.DUPLICATE: "{count} {jobs} more than once in the queue",
    DriftKind.STALE_ENTRY: "{count} {entries} of jobs that are gone or elsewhere",
    DriftKind.FAILED_LIVE: "{count} failed {links} with a live job, which is no harm",
}


@dataclass
class _Side:
    """What has been found of one server."""

    checks: list[Check] = field(default_factory=list)
    clock: dict[str, float] = field(default_factory=dict)
    """By the name of the server, the seconds that its clock is ahead of this host's."""
    is_lost: bool = False
    is_fit: bool = False
    """Drift can be looked for."""

    def lose(self, name: CheckName, error: DocoraOpsError) -> None:
        """The server is not there, or not any more."""
        self.checks.append(_failure(name, error))
        self.is_lost, self.is_fit = True, False


def diagnose(env_file: Path | None, before_second_look: SecondLook) -> Diagnosis:
    """Check all that can be checked, whatever can't. Raises nothing but bugs.

    Neither server is needed for the checks of the other.
    """
    try:
        settings = load_settings(env_file)
    except ConfigurationError as error:
        checks = _complete([_failure(CheckName.SETTINGS, error)], "the settings can't be used")
        return Diagnosis(checks, None, misconfigured=True)
    problems: list[ConfigurationError] = []
    database = _unless_unusable(lambda: Database(settings), problems)
    client = _unless_unusable(lambda: connect(settings), problems)
    redis_side = _in_background(lambda: _look_at_redis(settings, client))
    with ExitStack() as stack:
        if database:
            stack.enter_context(closing(database))
        postgres = _look_at_postgres(settings, database)
        redis = redis_side.result()
        drift = belonging = None
        if database and client and postgres.is_fit and redis.is_fit:
            queue = LinkQueue(settings, client)
            try:
                drift = find_drift(
                    database,
                    queue,
                    grace_seconds=settings.drift_grace,
                    before_second_look=lambda suspects: before_second_look(
                        suspects, settings.drift_grace
                    ),
                )
                belonging = (
                    count_jobs_with_links(database, queue) if drift.total else Belonging(0, 0)
                )
            except PostgresError as error:
                postgres.lose(CheckName.POSTGRES, error)
            except RedisError as error:
                redis.lose(CheckName.REDIS, error)
    found = [
        _check_settings(settings, problems),
        *postgres.checks,
        *redis.checks,
        check_clocks(postgres.clock | redis.clock),
        *(_check_drift(drift, belonging) if drift and belonging else ()),
    ]
    return Diagnosis(
        _complete(found, "needs what failed above"),
        drift,
        misconfigured=bool(problems),
        server_lost=postgres.is_lost or redis.is_lost,
    )


def _unless_unusable(make: Callable[[], T], problems: list[ConfigurationError]) -> T | None:
    try:
        return make()
    except ConfigurationError as error:
        problems.append(error)
        return None


def _in_background(look: Callable[[], T]) -> Future[T]:
    """So that two silent servers cost no more time than one; an interrupt does not wait for it."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(look())
        except BaseException as error:  # noqa: BLE001 - raised where the result is asked for
            future.set_exception(error)

    Thread(target=run, daemon=True).start()
    return future


def _look_at_postgres(settings: Settings, database: Database | None) -> _Side:
    side = _Side()
    if database is None:
        return side
    try:
        server = read_server(database)
        side.clock["Postgres"] = seconds_ahead(lambda: read_clock(database))
        side.checks.append(Check(CheckName.POSTGRES, CheckState.OK, str(database.target)))
        side.checks += postgres_checks.check_server(server)
        side.checks.append(postgres_checks.check_pooling(find_pooling(settings)))
        missing = missing_columns(read_columns(database, TABLES))
        side.checks.append(postgres_checks.check_tables(missing, len(TABLES)))
        privileges = postgres_checks.check_privileges(read_role(database, TABLES))
        if not missing:  # or they would seem not to be granted
            side.checks.append(privileges)
            side.is_fit = privileges.state is not CheckState.FAILED
    except PostgresError as error:
        side.lose(CheckName.POSTGRES, error)
    return side


def _look_at_redis(settings: Settings, client: Redis | None) -> _Side:
    side = _Side()
    if client is None:
        return side
    inspector = QueueInspector(settings, client)
    where = describe(settings) + (
        ", since REDIS_URL is not set" if settings.redis_is_implied else ""
    )
    try:
        only_reads = inspector.only_reads()
        refusal = None if only_reads else inspector.connect()
        side.clock["Redis"] = seconds_ahead(inspector.clock)
        server = inspector.server()
        if server is None:
            reached = Check(
                CheckName.REDIS,
                CheckState.WARNING,
                f"{where}, but our user may not ask how it is",
                "ACL SETUSER the user in REDIS_URL +info",
            )
            side.checks.append(reached)
            side.checks += redis_checks.unknown_server("INFO is not permitted to our user", refusal)
        else:
            side.checks.append(redis_checks.check_user(where, only_reads=only_reads))
            side.checks += redis_checks.check_server(server, refusal)
        side.checks += redis_checks.check_queue(inspector.queue(), settings.queue_name)
        side.is_fit = True
    except RedisError as error:
        side.lose(CheckName.REDIS, error)
    return side


def _check_settings(settings: Settings, problems: Sequence[ConfigurationError]) -> Check:
    if problems:
        return Check(
            CheckName.SETTINGS,
            CheckState.FAILED,
            "; ".join(problem.message for problem in problems),
            "; ".join(problem.hint for problem in problems if problem.hint),
        )
    if settings.encryption_key is not None:
        try:
            settings.require_encryption_key()
        except ConfigurationError as error:
            return Check(
                CheckName.SETTINGS,
                CheckState.WARNING,
                f"{error.message}: no worker starts with it",
                error.hint,
            )
    return Check(CheckName.SETTINGS, CheckState.OK, f"queue {settings.queue_name}")


def _check_drift(drift: DriftReport, belonging: Belonging) -> Iterator[Check]:
    """Drift between servers that do not belong together is no reason to repair it."""
    what_to_do = "docora-ops repair" if belonging.is_plausible else None
    yield _check_belonging(belonging)
    for kind, thing in _THINGS.items():
        count = drift.counts.get(kind, 0)
        name = CheckName(f"drift_{kind}")
        finding = thing.format(
            count=count,
            links="link" if count == 1 else "links",
            jobs="job" if count == 1 else "jobs",
            entries="entry" if count == 1 else "entries",
        )
        if count and kind.is_drift:
            yield Check(name, CheckState.FAILED, finding, what_to_do)
        else:
            yield Check(name, CheckState.OK, finding if count else "none")


def _check_belonging(belonging: Belonging) -> Check:
    name = CheckName.SERVERS_MATCH
    if belonging.is_plausible:
        return Check(name, CheckState.OK, "nothing speaks against it")
    return Check(
        name,
        CheckState.FAILED,
        f"Postgres and Redis do not seem to belong together: {belonging}",
        "check DATABASE_URL, REDIS_URL and DOCORA_OPS_QUEUE_NAME: until they fit, docora-ops "
        "repair changes nothing",
    )


def _failure(name: CheckName, error: DocoraOpsError) -> Check:
    return Check(name, CheckState.FAILED, error.message, error.hint)


def _complete(found: Iterable[Check], why_not: str) -> list[Check]:
    """Every check once, in order; of two with one name the later one holds."""
    by_name = {check.name: check for check in found}
    return [by_name.get(name) or Check(name, CheckState.NOT_CHECKED, why_not) for name in CheckName]
