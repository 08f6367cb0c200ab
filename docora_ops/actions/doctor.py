"""`doctor`: a list of checks, each of which judges what was read once."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from docora_ops.actions.docora import Docora
from docora_ops.actions.drift import count_drift
from docora_ops.actions.status import OLD_PASS
from docora_ops.database import status as sql
from docora_ops.database.status import LinkCounts, ServerFacts
from docora_ops.errors import DocoraOpsError, PostgresError, RefusedError, ServerError
from docora_ops.links import RESUME_RQ, Backend, LinkStatus
from docora_ops.queue import operations as record
from docora_ops.queue.backend import QueueCounts, Worker, other_backend_in_use
from docora_ops.queue.connection import RedisFacts, read_redis_facts
from docora_ops.text import ago, amount, duration

_OLDEST_POSTGRES = 140_000
_OLDEST_REDIS = (6, 2)
_MOST_APART = 20  # seconds between two clocks: signatures contain the time
_OLD_QUEUE = 600  # seconds
_KEYS = 20


class CheckStatus(StrEnum):
    """The result of a check. Only a critical one changes the exit code."""

    OK = "ok"
    NOTE = "note"
    WARNING = "warning"
    CRITICAL = "critical"


@dataclass(frozen=True)
class Check:
    """One check. `hint`: what to do, if anything."""

    name: str
    status: CheckStatus
    detail: str
    hint: str | None = None


@dataclass(frozen=True)
class Facts:
    """What the checks judge. Fields about a server that is down are None.

    errors: the servers that are down, by name.
    unknown_jobs: sampled jobs if the database knows none of them, otherwise 0.
    foreign_keys: the auth keys of apps that ENCRYPTION_KEY does not decrypt, if it decrypts none;
        None if that can't be tried.
    host_time: the Unix time of this host when the servers were asked for theirs.
    """

    errors: dict[str, DocoraOpsError]
    settings_hint: str | None
    postgres: ServerFacts | None
    links: LinkCounts | None
    foreign_keys: int | None
    redis: RedisFacts | None
    backend: Backend | None
    queue: QueueCounts | None
    workers: Sequence[Worker] | None
    other_in_use: bool | None
    unknown_jobs: int | None
    last_pass_at: datetime | None
    drift: int | None
    host_time: float
    scan_interval: float
    max_failed: int | None


def examine(
    docora: Docora, max_failed: str | None = None
) -> tuple[list[Check], ServerError | None]:
    """Reads both servers once. Returns all checks, and the error of a server that is down.

    max_failed: how many failed links are tolerated, as a number or a percentage.
    """
    facts = _read(docora, max_failed)
    checks = [check for examine_one in CHECKS for check in examine_one(facts)]
    lost = [error for error in facts.errors.values() if isinstance(error, ServerError)]
    return checks, next(iter(lost), None)


def _read(docora: Docora, max_failed: str | None) -> Facts:
    errors: dict[str, DocoraOpsError] = {}
    postgres = links = foreign = None
    redis = backend = queue = workers = other = unknown = last_pass = drift = None
    settings = docora.settings
    host_time = time.time()
    try:
        redis = read_redis_facts(docora.redis)
        backend = docora.queue.backend
        queue, workers = docora.queue.counts(), docora.queue.workers()
        other = other_backend_in_use(settings, docora.redis, backend)
        last_pass = record.last_pass(docora.redis)
    except RefusedError as error:
        errors["Backend"] = error
    except ServerError as error:
        errors["Redis"] = error
    try:
        with docora.database.transaction():
            postgres = sql.read_server_facts(docora.database)
            links = sql.count_links(docora.database, settings.overdue_after_seconds)
            unknown = docora.unknown_jobs() if workers is not None else None
            foreign = _count_foreign_keys(docora)
        if workers is not None:
            drift = count_drift(docora)
    except ServerError as error:
        errors["Postgres" if isinstance(error, PostgresError) else "Redis"] = error
    limit = None
    if max_failed and links:
        number = int(max_failed.removesuffix("%"))
        limit = number * links.total // 100 if max_failed.endswith("%") else number
    return Facts(
        errors=errors,
        settings_hint=None if settings.encryption_key else "set ENCRYPTION_KEY",
        postgres=postgres,
        links=links,
        foreign_keys=foreign,
        redis=redis,
        backend=backend,
        queue=queue,
        workers=workers,
        other_in_use=other,
        unknown_jobs=unknown,
        last_pass_at=last_pass,
        drift=drift,
        host_time=host_time,
        scan_interval=settings.scan_interval_ms / 1000,
        max_failed=limit,
    )


def _count_foreign_keys(docora: Docora) -> int | None:
    try:
        from docora_ops.encryption import count_foreign
    except ImportError:  # without the extra `worker`
        return None
    if docora.settings.encryption_key is None:
        return None
    key = docora.settings.require_encryption_key()
    try:
        return count_foreign(sql.sample_keys(docora.database, _KEYS), key)
    except PostgresError:  # a role for monitoring may not read them
        return None


def _ok(name: str, detail: str) -> Check:
    return Check(name, CheckStatus.OK, detail)


def _servers(facts: Facts) -> Iterator[Check]:
    for name, error in facts.errors.items():
        yield Check(name, CheckStatus.CRITICAL, error.message, error.hint)
    if facts.postgres and "Postgres" not in facts.errors:
        version = f"PostgreSQL {facts.postgres.version // 10_000}"
        if facts.postgres.version < _OLDEST_POSTGRES:
            yield Check("Postgres", CheckStatus.WARNING, version, "use PostgreSQL 14 or newer")
        else:
            yield _ok("Postgres", version)
    if facts.redis and "Redis" not in facts.errors:
        version = f"{facts.redis.product} {facts.redis.version}"
        numbers = tuple(int(part) for part in facts.redis.version.split(".")[:2] if part.isdigit())
        if facts.redis.product == "Redis" and numbers < _OLDEST_REDIS:
            yield Check("Redis", CheckStatus.WARNING, version, "use Redis 6.2 or newer")
        else:
            yield _ok("Redis", version)


def _tables(facts: Facts) -> Iterator[Check]:
    if not facts.postgres:
        return
    if missing := facts.postgres.missing_tables:
        hint = "point DATABASE_URL at the database that Docora uses"
        yield Check("Tables", CheckStatus.CRITICAL, f"missing: {', '.join(missing)}", hint)
    else:
        yield _ok("Tables", "all there")


def _privileges(facts: Facts) -> Iterator[Check]:
    if not facts.postgres:
        return
    hint = "docora-ops help privileges"
    if facts.postgres.is_read_only:
        hint = "point DATABASE_URL at the primary to make changes"
        yield Check("Privileges", CheckStatus.NOTE, "Postgres takes no changes here", hint)
    elif denied := facts.postgres.denied:
        text = f"the role may only read: it lacks {', '.join(denied)}"
        yield Check("Privileges", CheckStatus.NOTE, text, hint)
    else:
        yield _ok("Privileges", "the role may read and change")


def _pair(facts: Facts) -> Iterator[Check]:
    if facts.unknown_jobs:
        text = f"none of {amount(facts.unknown_jobs, 'job')} looked up has a link in the database"
        hint = "DATABASE_URL and REDIS_URL belong to two Docoras: check both"
        yield Check("Pair", CheckStatus.CRITICAL, text, hint)
    elif facts.unknown_jobs is not None:
        yield _ok("Pair", "nothing says that Redis belongs to another database")


def _backend(facts: Facts) -> Iterator[Check]:
    if facts.backend is None:
        return
    if facts.other_in_use:
        other = "BullMQ" if facts.backend is Backend.RQ else "RQ"
        text = f"{other} has workers or jobs, too: links may be scanned twice"
        hint = f"stop {other}'s workers, and remove its jobs: docora-ops help workers"
        yield Check("Backend", CheckStatus.CRITICAL, text, hint)
    else:
        yield _ok("Backend", facts.backend)


def _workers(facts: Facts) -> Iterator[Check]:
    if facts.workers is None or facts.queue is None:
        return
    if not facts.workers:
        hint = "start Docora's worker"
        if facts.backend is Backend.RQ:
            hint = "docora-ops worker"
        yield Check("Workers", CheckStatus.CRITICAL, "no worker is running", hint)
    elif facts.queue.is_suspended:
        hint = RESUME_RQ if facts.backend is Backend.RQ else "resume the queue with BullMQ"
        yield Check("Workers", CheckStatus.WARNING, "the workers are suspended", hint)
    else:
        yield _ok("Workers", f"{len(facts.workers)} running")


def _queue(facts: Facts) -> Iterator[Check]:
    if facts.queue is None or facts.links is None:
        return
    at = facts.queue.oldest_waiting_at
    seconds = (facts.links.read_at - at).total_seconds() if at else 0
    text = f"{amount(facts.queue.waiting, 'job')} waiting"
    if seconds > _OLD_QUEUE:
        text += f", the oldest for {duration(seconds)}"
        yield Check("Queue", CheckStatus.WARNING, text, "run more workers")
    else:
        yield _ok("Queue", text)


def _schedule(facts: Facts) -> Iterator[Check]:
    if facts.backend is not Backend.RQ or facts.links is None or not facts.links.total:
        return
    hint = "docora-ops schedule each minute, or with --repeat as a service"
    if facts.last_pass_at is None:
        text = "no pass of schedule is known of the last week"
        yield Check("Schedule", CheckStatus.WARNING, text, hint)
        return
    seconds = (facts.links.read_at - facts.last_pass_at).total_seconds()
    if seconds > OLD_PASS * facts.scan_interval:
        yield Check("Schedule", CheckStatus.WARNING, f"last pass {ago(seconds)}", hint)
    else:
        yield _ok("Schedule", f"last pass {ago(seconds)}")


def _drift(facts: Facts) -> Iterator[Check]:
    if facts.drift:
        text = f"{amount(facts.drift, 'link')} without a live job"
        yield Check("Drift", CheckStatus.CRITICAL, text, "docora-ops repair")
    elif facts.drift is not None:
        yield _ok("Drift", "none")


def _links(facts: Facts) -> Iterator[Check]:
    links = facts.links
    if links is None:
        return
    failed = links.of(LinkStatus.FAILED)
    text = f"{failed:,} of {amount(links.total, 'link')} failed"
    if facts.max_failed is not None and failed > facts.max_failed:
        text += f", more than {facts.max_failed:,}"
        yield Check("Failed", CheckStatus.CRITICAL, text, "docora-ops failed --group-by error")
    elif failed:
        yield Check("Failed", CheckStatus.WARNING, text, "docora-ops failed --group-by error")
    else:
        yield _ok("Failed", "none")
    if links.open_circuits:
        text = f"{amount(links.open_circuits, 'repository', 'repositories')} open"
        yield Check("Circuits", CheckStatus.WARNING, text, "docora-ops links --circuit open")
    else:
        yield _ok("Circuits", "all closed")
    if links.overdue:
        text = f"{amount(links.overdue, 'link')} not scanned for too long"
        yield Check("Overdue", CheckStatus.WARNING, text, "docora-ops links --overdue")
    else:
        yield _ok("Overdue", "none")


def _key(facts: Facts) -> Iterator[Check]:
    if facts.postgres is None:
        return
    if facts.foreign_keys:
        text = "ENCRYPTION_KEY decrypts none of the stored auth keys"
        hint = "set it to Docora's own key, also for the workers"
        yield Check("Encryption key", CheckStatus.CRITICAL, text, hint)
    elif facts.foreign_keys is None:
        why = facts.settings_hint or "install docora-ops[worker] and let the role read apps"
        yield Check("Encryption key", CheckStatus.NOTE, "not tried", f"{why} to try it")
    else:
        yield _ok("Encryption key", "fits")


def _clocks(facts: Facts) -> Iterator[Check]:
    times = {
        "Postgres": facts.postgres.now.timestamp() if facts.postgres else None,
        "Redis": facts.redis.time if facts.redis else None,
    }
    for name, server_time in times.items():
        if server_time is None:
            continue
        seconds = server_time - facts.host_time
        if abs(seconds) > _MOST_APART:
            text = f"{name} is {duration(abs(seconds))} {'ahead' if seconds > 0 else 'behind'}"
            yield Check("Clocks", CheckStatus.WARNING, text, "set the clocks by NTP")
            return
    yield _ok("Clocks", "agree")


def _memory(facts: Facts) -> Iterator[Check]:
    redis = facts.redis
    if redis is None or redis.policy is None:
        return
    if redis.max_memory and redis.policy != "noeviction":
        text = f"Redis may evict jobs: maxmemory-policy is {redis.policy}"
        hint = "set maxmemory-policy to noeviction"
        yield Check("Memory", CheckStatus.WARNING, text, hint)
    elif redis.max_memory and redis.used_memory > 0.9 * redis.max_memory:
        text = "Redis uses over 90 % of maxmemory: soon, it refuses jobs"
        yield Check("Memory", CheckStatus.WARNING, text, "raise maxmemory, or free memory")
    else:
        yield _ok("Memory", "Redis evicts nothing")


CHECKS: tuple[Callable[[Facts], Iterator[Check]], ...] = (
    *(_servers, _tables, _privileges, _pair, _backend, _workers, _queue, _schedule),
    *(_drift, _links, _key, _clocks, _memory),
)
