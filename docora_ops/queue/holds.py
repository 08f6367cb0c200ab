"""The holds of apps: workers take no job of a held app, unless the job is exempted.

One hash has all holds. Field `APP_ID`: the hold in JSON, with times by the clock of Redis. Field
`now:JOB_ID`: `created_at` of an exempted job, so that a later job with the same id is held again.
"""

import json
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from shlex import quote
from typing import Any

import redis
from rq.job import Job

from docora_ops.errors import HoldsUnreadableError
from docora_ops.jobs import Hold
from docora_ops.operations import Change
from docora_ops.queue.audit_stream import AuditEvent, add_entry, audit_entry
from docora_ops.queue.redis_answers import moment_of_timestamp, text_of
from docora_ops.queue.redis_client import describe, server_time
from docora_ops.queue.redis_errors import redis_errors
from docora_ops.text import mask

HOLDS = "docora-ops:holds"
EXEMPTED = "now:"  # prefix of the fields of exempted jobs


def read_holds(client: redis.Redis) -> dict[str, Hold]:
    """Returns the holds in force, by app id. Raises RedisError, HoldsUnreadableError."""
    now, fields = _read(client)
    apps = {name: value for name, value in fields.items() if not name.startswith(EXEMPTED)}
    holds = {app_id: _parse(client, app_id, value) for app_id, value in apps.items()}
    return {app_id: hold for app_id, hold in holds.items() if is_in_force(hold, now)}


def is_in_force(hold: Hold, now: float) -> bool:
    """Tells whether a hold has not ended. `now`: Unix time by the clock of Redis."""
    return hold.until_at is None or hold.until_at.timestamp() > now


def hold_app(client: redis.Redis, app_id: str, seconds: int | None, change: Change) -> Hold:
    """Holds an app for `seconds`, or until `release_app` if None, and writes the audit entry.

    Replaces an earlier hold, and ends the exemptions of the app's jobs. Raises RedisError,
    HoldsUnreadableError.
    """
    _, fields = _read(client)
    with redis_errors(client), client.pipeline() as pipeline:
        since = int(server_time(client))
        until = None if seconds is None else since + seconds
        value = {"since": since, "until": until, "who": change.who, "reason": change.reason}
        pipeline.hset(HOLDS, app_id, json.dumps(value))
        # Makes sure that the user may also release the app.
        pipeline.hdel(HOLDS, f"{EXEMPTED}{app_id}-", *_exempted(fields, app_id))
        add_entry(pipeline, audit_entry(change, AuditEvent.DONE))
        pipeline.execute()
    return _hold_of(value)


def release_app(client: redis.Redis, app_id: str, change: Change) -> bool:
    """Ends the hold of an app, even an unreadable one, and writes the audit entry.

    Returns False, and writes nothing, if the app is not held. Raises RedisError, and
    HoldsUnreadableError if the key of the holds is not a hash.
    """
    now, fields = _read(client)
    with suppress(HoldsUnreadableError):
        if app_id not in fields or not is_in_force(_parse(client, app_id, fields[app_id]), now):
            return False
    with redis_errors(client), client.pipeline() as pipeline:
        pipeline.hdel(HOLDS, app_id, *_exempted(fields, app_id))
        add_entry(pipeline, audit_entry(change, AuditEvent.DONE))
        pipeline.execute()
    return True


def has_entry(client: redis.Redis, app_id: str) -> bool:
    """Tells whether the hash has an entry for this app: a hold, an ended hold, or anything else.

    Raises RedisError, and HoldsUnreadableError if the key of the holds is not a hash.
    """
    return app_id in _read(client)[1]


def find_hold(client: redis.Redis, job_id: str, now: float) -> Hold | None:
    """Returns the hold that a running job must obey; None if the job may continue.

    now: Unix time by the clock of Redis.

    Raises HoldsUnreadableError, and the client's RedisError.
    """
    app_id, _, _ = job_id.partition("-")
    try:
        value = client.hget(HOLDS, app_id)
    except redis.ResponseError as error:
        raise _unreadable(client, error) from error
    if value is None:
        return None
    hold = _parse(client, app_id, value)
    if not is_in_force(hold, now) or is_exempt(client, job_id):
        return None
    return hold


def is_exempt(client: redis.Redis, job_id: str) -> bool:
    """Tells whether a job is exempted from the hold of its app. Raises the client's RedisError."""
    exempted = client.hget(HOLDS, f"{EXEMPTED}{job_id}")
    return exempted is not None and exempted == client.hget(Job.key_for(job_id), "created_at")


def _read(client: redis.Redis) -> tuple[float, dict[str, bytes]]:
    """Returns the time by the clock of Redis, and all fields."""
    pipeline = client.pipeline(transaction=False)
    pipeline.time()
    pipeline.hgetall(HOLDS)
    with redis_errors(client):
        try:
            (seconds, microseconds), fields = pipeline.execute()
        except redis.ResponseError as error:
            raise _unreadable(client, error) from error
    now = seconds + microseconds / 1e6
    return now, {text_of(name): value for name, value in fields.items()}


def _exempted(fields: Iterable[str], app_id: str) -> list[str]:
    return [name for name in fields if name.startswith(f"{EXEMPTED}{app_id}-")]


def _unreadable(client: redis.Redis, error: redis.ResponseError) -> Exception:
    """Returns HoldsUnreadableError for a key of another type, and any other error unchanged."""
    if "WRONGTYPE" not in str(error):
        return error
    return HoldsUnreadableError(
        f"Redis at {describe(client)} does not tell which apps are held: its key {HOLDS} is not a "
        "hash",
        hint=f'remove what another program left: redis-cli -u "$REDIS_URL" del {HOLDS}',
    )


def _parse(client: redis.Redis, app_id: str, value: bytes | str) -> Hold:
    try:
        return _hold_of(json.loads(value))
    except (ValueError, TypeError, AttributeError, OverflowError, OSError, RecursionError):
        raise HoldsUnreadableError(
            f"the hold of app {app_id} in Redis at {describe(client)}, key {HOLDS}, is unreadable",
            hint=f"release it: docora-ops release {quote(app_id)}",
        ) from None


def _hold_of(value: Any) -> Hold:
    """Parses a hold. Raises a built-in error unless its `until` is a Unix time or null.

    Accepts all that `take.lua` accepts, because every hold that workers obey must be shown.
    """
    since, until = value.get("since"), value.get("until", False)
    if isinstance(until, bool):
        raise TypeError
    return Hold(
        since_at=moment_of_timestamp(since) if isinstance(since, int) else None,
        until_at=None if until is None else datetime.fromtimestamp(until, UTC),
        who=str(value.get("who") or "unknown"),
        reason=mask(str(value.get("reason") or "")) or None,
    )
