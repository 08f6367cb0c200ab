"""The apps that are held: workers take none of their jobs, but one that is exempted.

They stand in a hash. Field `APP_ID`: the hold in JSON, by the clock of Redis; it ends by itself.
Field `now:JOB_ID`: `created_at` of the one job that the hold does not concern, so that a later job
with the same id is held again.
"""

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, cast

import redis

from docora_ops.errors import HoldsUnreadableError
from docora_ops.jobs import Hold
from docora_ops.operations import Change
from docora_ops.queue.audit_stream import AuditEvent, add_entry, audit_entry
from docora_ops.queue.redis_answers import text_of
from docora_ops.queue.redis_client import describe, server_time
from docora_ops.queue.redis_errors import redis_errors

HOLDS = "docora-ops:holds"
EXEMPTED = "now:"  # prefix of the fields of exempted jobs


def read_holds(client: redis.Redis) -> dict[str, Hold]:
    """Returns the holds in force, by app id. Raises RedisError, HoldsUnreadableError."""
    pipeline = client.pipeline(transaction=False)
    pipeline.time()
    pipeline.hgetall(HOLDS)
    with redis_errors(client):
        (seconds, _), fields = pipeline.execute(raise_on_error=False)
        fields = _known_type(client, fields)
    holds = {
        app_id: _parse(client, app_id, value)
        for app_id, value in ((text_of(name), value) for name, value in fields.items())
        if not app_id.startswith(EXEMPTED)
    }
    return {app_id: hold for app_id, hold in holds.items() if is_in_force(hold, seconds)}


def is_in_force(hold: Hold, now: float) -> bool:
    """Tells whether a hold has not ended. `now`: Unix time by the clock of Redis."""
    return hold.until_at is None or hold.until_at.timestamp() > now


def hold_app(client: redis.Redis, app_id: str, seconds: int | None, change: Change) -> Hold:
    """Holds an app for `seconds`, or until `release_app` if None, and writes the audit entry.

    Replaces an earlier hold, and ends the exemptions of the app's jobs. Raises RedisError,
    HoldsUnreadableError.
    """
    exempted = _exempted(client, app_id)
    with redis_errors(client), client.pipeline() as pipeline:
        since = int(server_time(client))
        until = None if seconds is None else since + seconds
        value = {"since": since, "until": until, "who": change.who, "reason": change.reason}
        pipeline.hset(HOLDS, app_id, json.dumps(value))
        if exempted:
            pipeline.hdel(HOLDS, *exempted)
        add_entry(pipeline, audit_entry(change, AuditEvent.DONE))
        pipeline.execute()
    return _hold_of(value)


def release_app(client: redis.Redis, app_id: str, change: Change) -> None:
    """Ends the hold of an app, readable or not, and writes the audit entry.

    Raises RedisError, HoldsUnreadableError.
    """
    fields = [app_id, *_exempted(client, app_id)]
    with redis_errors(client), client.pipeline() as pipeline:
        pipeline.hdel(HOLDS, *fields)
        add_entry(pipeline, audit_entry(change, AuditEvent.DONE))
        pipeline.execute()


def _exempted(client: redis.Redis, app_id: str) -> list[str]:
    with redis_errors(client):
        try:
            names = cast("Iterable[bytes]", client.hkeys(HOLDS))
        except redis.ResponseError as error:
            names = _known_type(client, error)
    return [name for name in map(text_of, names) if name.startswith(f"{EXEMPTED}{app_id}-")]


def _known_type(client: redis.Redis, answer: Any) -> Any:
    """Raises the error that Redis has answered with, if any; returns any other answer."""
    if isinstance(answer, redis.ResponseError) and "WRONGTYPE" in str(answer):
        raise HoldsUnreadableError(
            f"Redis at {describe(client)} does not tell which apps are held: "
            f"its key {HOLDS} is not a hash",
            hint=f'remove what another program left: redis-cli -u "$REDIS_URL" del {HOLDS}',
        ) from answer
    if isinstance(answer, Exception):
        raise answer
    return answer


def _parse(client: redis.Redis, app_id: str, value: bytes) -> Hold:
    try:
        return _hold_of(json.loads(value))
    except (ValueError, TypeError, KeyError, OverflowError, OSError, RecursionError):
        raise HoldsUnreadableError(
            f"the hold of app {app_id} in Redis at {describe(client)}, key {HOLDS}, is unreadable",
            hint=f"hold the app again, or release it: docora-ops release {app_id}",
        ) from None


def _hold_of(value: dict[str, Any]) -> Hold:
    """Raises ValueError, TypeError, KeyError, OverflowError or OSError for what we never write."""
    since, until, who, reason = (value[name] for name in ("since", "until", "who", "reason"))
    if not isinstance(who, str) or not isinstance(reason, str | None):
        raise TypeError
    since_at = datetime.fromtimestamp(since, UTC)
    until_at = None if until is None else datetime.fromtimestamp(until, UTC)
    return Hold(since_at, until_at, who, reason)
