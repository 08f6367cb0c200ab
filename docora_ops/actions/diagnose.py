"""`doctor`: checks the settings, both servers, the queue, and whether they agree."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from docora_ops.actions.background import PATIENCE, in_background, outcome, too_late
from docora_ops.actions.belonging import count_jobs_with_links, sample_jobs
from docora_ops.actions.docora import find_backend
from docora_ops.actions.find_drift import Findings, Suspects, find_drift
from docora_ops.actions.server_checks import (
    check_clocks,
    check_latency,
    check_links,
    check_pooling,
    check_postgres,
    check_privileges,
    check_queue,
    check_redis,
    check_schemas,
    check_tables,
)
from docora_ops.database import Database
from docora_ops.database.link_reports import count_links, links_by_group
from docora_ops.database.postgres_server import (
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
from docora_ops.drift import Belonging, DriftKind, DriftReport
from docora_ops.errors import (
    ConfigurationError,
    DocoraOpsError,
    PostgresError,
    RedisError,
)
from docora_ops.jobs import QUEUE_NAME, Backend, OtherQueue, QueueHealth
from docora_ops.link_lists import LinkGroup
from docora_ops.links import FAILED_LINKS, LinkStatus
from docora_ops.overview import TOO_SLOW_MS
from docora_ops.queue import LinkQueue, connect, queue_of
from docora_ops.queue.redis_client import describe, latency
from docora_ops.queue.redis_server import read_clock as read_redis_clock
from docora_ops.queue.redis_server import read_redis_server, try_commands
from docora_ops.settings import Settings
from docora_ops.text import amount

_DRIFT = {
    DriftKind.LOST: ("pending link", "pending links", "without a live job"),
    DriftKind.STUCK: ("scanning link", "scanning links", "without a live job"),
    DriftKind.ORPHAN: ("job", "jobs", "whose link is gone"),
    DriftKind.DUPLICATE: ("job", "jobs", "more than once in the queue"),
    DriftKind.STALE_ENTRY: ("entry", "entries", "of jobs that are gone or elsewhere"),
}
_OF_DOCORA = "not looked for: BullMQ keeps its own entries, and Docora's scheduler its queue"
"""The reason why a kind of drift is not looked for in Docora's own queue."""


@dataclass(frozen=True, slots=True)
class WaitingFor:
    """Servers that have not told all yet. Sent each second."""

    servers: Sequence[str]


@dataclass
class _Server:
    """The findings about one server."""

    name: CheckName
    checks: list[Check] = field(default_factory=list)
    error: DocoraOpsError | None = None  # of the settings, or it does not answer, or refuses
    missing: str = ""
    """What further checks need and lack, such as "Postgres" or "the primary". Empty: nothing."""
    ahead: float | None = None  # seconds that its clock is ahead of this host's
    latency: float | None = None  # seconds that one answer takes
    database: Database | None = None
    pending: int = 0  # links; 0 also if Postgres was not asked
    queue: LinkQueue | None = None
    health: QueueHealth | None = None

    def lose(self, error: DocoraOpsError) -> None:
        """Records that the server can't be asked."""
        self.error = error
        if isinstance(error, ConfigurationError):
            self.missing = "usable settings"
        else:
            self.missing = self.name.capitalize()
            self.checks.append(failed(self.name, error.message, error.hint))


def diagnose(
    settings: Settings, *, max_failed: int | None = None, read_only: bool = False
) -> Iterator[WaitingFor | Suspects | Diagnosis]:
    """Makes all checks that can be made; an unreachable server does not prevent the others.

    Yields the Diagnosis at last, and before that each second what it waits for.

    max_failed: more failed links are a failure.
    read_only: role and user are to read only, and nothing is tried that could write.
    """
    # Together, two servers that do not answer cost no more time than one.
    asked = {
        "Postgres": in_background(partial(_ask_postgres, settings, max_failed, read_only)),
        "Redis": in_background(partial(_ask_redis, settings, read_only)),
    }
    probe = in_background(lambda: latency(connect(settings)))
    until = time.monotonic() + PATIENCE
    while (left := until - time.monotonic()) > 0:
        futures: list[Future[Any]] = [*asked.values(), probe]
        if not wait(futures, min(1, left)).not_done:
            break
        yield WaitingFor([name for name, future in asked.items() if not future.done()] or ["Redis"])
    postgres, redis = (_told(name, future) for name, future in asked.items())
    if not isinstance(redis.error, ConfigurationError):
        redis.latency = outcome(probe, [])
    for server in (postgres, redis):
        if not server.missing and (server.latency or 0) * 1000 > TOO_SLOW_MS:
            server.missing = f"a faster {server.name.capitalize()}"
    database, queue = postgres.database, redis.queue
    drift: DriftReport | None = None
    belonging = Belonging(0, 0)
    with closing(database) if database else nullcontext():
        if database and queue and not (postgres.missing or redis.missing):
            try:
                for event in find_drift(database, queue, delay=settings.drift_grace):
                    if isinstance(event, Findings):
                        drift = event.report
                    else:
                        yield event
                count = count_jobs_with_links if drift and drift.total else sample_jobs
                belonging = count(database, queue)
            except PostgresError as error:
                postgres.lose(error)
            except RedisError as error:
                redis.lose(error)
    errors = [server.error for server in (postgres, redis) if server.error is not None]
    unusable = [error for error in errors if isinstance(error, ConfigurationError)]
    is_lost = len(unusable) < len(errors)
    if is_lost:
        drift = None
    checks = [
        _check_settings(settings, unusable),
        *postgres.checks,
        *redis.checks,
        *_check_health(redis, postgres.pending),
        *_check_times(postgres, redis),
        *(_check_drift(drift, belonging, queue.backend) if drift and queue else ()),
    ]
    missing = filter(None, (postgres.missing, redis.missing))
    needs = " and ".join(dict.fromkeys(missing)) or "more permissions"
    by_name = {check.name: check for check in checks}
    yield Diagnosis(
        [by_name.get(name) or not_checked(name, f"needs {needs}") for name in CheckName],
        drift,
        needs,
        queue.choice if queue else None,
        misconfigured=bool(unusable),
        server_lost=is_lost,
    )


def _told(name: str, asked: Future[_Server]) -> _Server:
    """Returns what the server has told; it is lost if that is not all."""
    if asked.done():
        return asked.result()
    server = _Server(CheckName(name.lower()))
    server.lose(too_late(name, PostgresError if name == "Postgres" else RedisError))
    return server


def _ask_postgres(settings: Settings, max_failed: int | None, read_only: bool) -> _Server:
    found = _Server(CheckName.POSTGRES)
    try:
        found.database = database = Database(settings)
        version, standby = read_version(database), read_standby(database)
        found.latency = read_latency(database)
        found.ahead = _seconds_ahead(lambda: read_clock(database))
        found.checks.append(ok(CheckName.POSTGRES, database.place))
        found.checks += check_postgres(version, standby)
        found.checks.append(check_pooling(pools=pools_transactions(settings)))
        role = read_role(database)
        found.checks.append(check_tables(role.missing_columns, database.schema))
        if role.missing_columns:  # missing columns would look like missing privileges
            found.missing = "the missing tables and columns"
            return found
        found.checks.append(check_schemas(read_creators(database)))
        privileges = check_privileges(role, read_only=read_only)
        found.checks.append(privileges)
        if privileges.state is CheckState.CRITICAL:
            found.missing = "the missing privileges"
            return found
        with database.snapshot():
            counts = count_links(database)
            apps = links_by_group(database, LinkGroup.APP, FAILED_LINKS) if counts.failed else []
        found.pending = counts.by_status[LinkStatus.PENDING_SNAPSHOT]
        found.checks += check_links(counts, len(apps), max_failed)
        if standby:
            found.missing = "the primary"
    except (ConfigurationError, PostgresError) as error:
        found.lose(error)
    return found


def _ask_redis(settings: Settings, read_only: bool) -> _Server:
    found = _Server(CheckName.REDIS)
    try:
        client = connect(settings)
        where = describe(client)
        if settings.redis_is_implied:
            where += ", since REDIS_URL is not set"
        found.queue = queue = queue_of(settings, client, find_backend(settings, client))
        refusal = None if read_only else try_commands(client, queue.backend)
        found.ahead = _seconds_ahead(lambda: read_redis_clock(client))
        if server := read_redis_server(client):
            found.checks += [ok(CheckName.REDIS, where), *check_redis(server, refusal)]
        else:
            hint = "ACL SETUSER the user in REDIS_URL +info"
            finding = f"{where}, but our user may not ask how it is"
            found.checks.append(warning(CheckName.REDIS, finding, hint))
        found.health = queue.health()
        if not queue.choice.is_clear:
            found.missing = "DOCORA_OPS_BACKEND"
        elif found.health.has_only_others:
            found.missing = "the right DOCORA_OPS_BACKEND"
        elif found.health.other is OtherQueue.WORKED_ON:
            found.missing = "workers of one kind only"
    except (ConfigurationError, RedisError) as error:
        found.lose(error)
    return found


def _seconds_ahead(read: Callable[[], float]) -> float:
    """Returns how far the clock that is read is ahead of this host's."""
    before = time.time()
    found = read()
    return found - (before + time.time()) / 2


def _check_settings(settings: Settings, unusable: Sequence[ConfigurationError]) -> Check:
    name = CheckName.SETTINGS
    if unusable:
        found = "; ".join(error.message for error in unusable)
        return failed(name, found, "; ".join(error.hint or "" for error in unusable))
    if settings.encryption_key is not None:
        try:
            settings.require_encryption_key()
        except ConfigurationError as error:
            return warning(name, f"{error.message}: no worker starts with it", error.hint)
    return ok(name, f"queue {QUEUE_NAME}")


def _check_health(redis: _Server, pending: int) -> Iterable[Check]:
    if redis.queue is None or redis.health is None:
        return ()
    choice = redis.queue.choice
    if not choice.is_clear:
        return [failed(CheckName.WORKERS, choice.sentence, choice.to_set)]
    return check_queue(redis.health, choice.backend, pending)


def _check_times(postgres: _Server, redis: _Server) -> Iterator[Check]:
    servers = {"Postgres": postgres, "Redis": redis}
    ahead = {name: each.ahead for name, each in servers.items() if each.ahead is not None}
    if ahead:
        yield check_clocks(ahead, redis.health.live_workers if redis.health else ())
    known = {name: each.latency for name, each in servers.items() if each.latency is not None}
    if known:
        yield check_latency(known)


def _check_drift(drift: DriftReport, belonging: Belonging, backend: Backend) -> Iterator[Check]:
    hint: str | None = "docora-ops repair"
    if belonging.is_plausible:
        yield ok(CheckName.SERVERS_MATCH, "no sign of a mismatch")
    else:
        hint = None  # servers that do not belong together are no reason to repair drift
        yield failed(
            CheckName.SERVERS_MATCH,
            f"Postgres and Redis do not seem to belong together: {belonging}",
            "check DATABASE_URL and REDIS_URL: until they fit, retry, retry-all-failed, resync, "
            "schedule and repair are refused",
        )
    for kind, (noun, plural, what) in _DRIFT.items():
        name, count = CheckName(f"drift_{kind}"), drift.found[kind]
        if count:
            yield failed(name, f"{amount(count, noun, plural)} {what}", hint)
        elif backend is Backend.BULLMQ and kind is not DriftKind.STUCK:
            yield ok(name, _OF_DOCORA)
        else:
            yield ok(name, "none")
