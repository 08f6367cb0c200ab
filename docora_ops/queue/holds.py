"""The holds of apps: workers take no job of a held app, unless the job is exempted.

One Redis hash has all holds. Its fields are:

- `APP_ID`: the hold in JSON, with times by the clock of Redis. If the value is unreadable, the app
  is held until its release. A hold that has ended stays until the next hold of its app.
- `now:JOB_ID`: `created_at` of an exempted job, so that a later job with the same id is held again.
"""

import json
import re
from collections.abc import Iterable
from typing import cast

import redis
from rq.job import Job

from docora_ops.jobs import Hold
from docora_ops.operations import Change
from docora_ops.queue.audit_stream import AuditEvent, add_entry, audit_entry
from docora_ops.queue.redis_client import (
    is_wrong_type,
    mapping_of,
    moment_of_timestamp,
    redis_errors,
    text_of,
)
from docora_ops.text import mask

HOLDS = "docora-ops:holds"
EXEMPTED = "now:"  # prefix of the fields of exempted jobs
# `take.lua` has the same pattern. Two parsers of JSON could disagree about the end of a hold.
_UNTIL = re.compile(rb'"until": (\d+)[,}]')


def read_holds(client: redis.Redis) -> dict[str, Hold]:
    """Returns the holds in force, by app id. Raises RedisError."""
    _, _, holds = _read(client)
    return holds


def is_in_force(hold: Hold, now: float) -> bool:
    """Tells whether a hold has not ended. `now`: Unix time by the clock of Redis."""
    return hold.until_at is None or hold.until_at.timestamp() > now


def hold_app(client: redis.Redis, app_id: str, seconds: int | None, change: Change) -> Hold:
    """Holds an app for `seconds`, or until `release_app` if None, and writes the audit entry.

    Replaces an earlier hold, and ends the exemptions of the app's jobs. Raises RedisError.
    """
    now, fields, _ = _read(client)
    since = int(now)
    until = None if seconds is None else since + seconds
    value = {"since": since, "until": until, "who": change.who, "reason": change.reason}
    text = json.dumps(value).encode()
    with redis_errors(client), client.pipeline() as pipeline:
        # Always sent, so that Redis refuses a user who could not release the app.
        pipeline.hdel(HOLDS, app_id, *_exempted(fields, app_id))
        pipeline.hset(HOLDS, app_id, text)
        add_entry(pipeline, audit_entry(change, AuditEvent.DONE))
        pipeline.execute()
    return _hold_of(text)


def release_app(client: redis.Redis, app_id: str, change: Change) -> bool:
    """Ends the hold of an app, and writes the audit entry.

    Returns False, and writes nothing, if the app is not held. Raises RedisError.
    """
    _, fields, holds = _read(client)
    if app_id not in holds:
        return False
    with redis_errors(client), client.pipeline() as pipeline:
        pipeline.hdel(HOLDS, app_id, *_exempted(fields, app_id))
        add_entry(pipeline, audit_entry(change, AuditEvent.DONE))
        pipeline.execute()
    return True


def find_hold(client: redis.Redis, job_id: str, now: float) -> Hold | None:
    """Returns the hold that a running job must obey; None if the job may continue.

    now: Unix time by the clock of Redis.

    Raises the client's RedisError.
    """
    app_id, _, _ = job_id.partition("-")
    try:
        value = cast("bytes | None", client.hget(HOLDS, app_id))
    except redis.ResponseError as error:
        if not is_wrong_type(error):
            raise
        return _hold_of(b"")  # a hold of the app may have stood there
    if value is None:
        return None
    hold = _hold_of(value)
    if not is_in_force(hold, now) or is_exempt(client, job_id):
        return None
    return hold


def is_exempt(client: redis.Redis, job_id: str) -> bool:
    """Tells whether a job is exempted from the hold of its app. Raises the client's RedisError."""
    exempted = client.hget(HOLDS, f"{EXEMPTED}{job_id}")
    return exempted is not None and exempted == client.hget(Job.key_for(job_id), "created_at")


def _read(client: redis.Redis) -> tuple[float, dict[str, bytes], dict[str, Hold]]:
    """Returns the time by the clock of Redis, all fields, and the holds in force by app id."""
    pipeline = client.pipeline(transaction=False)
    pipeline.time()
    pipeline.hgetall(HOLDS)
    with redis_errors(client):
        (seconds, microseconds), answer = pipeline.execute()
    now = seconds + microseconds / 1e6
    fields = {text_of(name): value for name, value in answer.items()}
    holds = {
        name: _hold_of(value) for name, value in fields.items() if not name.startswith(EXEMPTED)
    }
    return now, fields, {name: hold for name, hold in holds.items() if is_in_force(hold, now)}


def _exempted(fields: Iterable[str], app_id: str) -> list[str]:
    return [name for name in fields if name.startswith(f"{EXEMPTED}{app_id}-")]


def _hold_of(text: bytes) -> Hold:
    """Parses a hold. Accepts any text, because workers also obey a hold that is unreadable."""
    value = mapping_of(text) or {"reason": f"its entry in {HOLDS} is unreadable"}
    since, until = value.get("since"), _UNTIL.search(text)
    return Hold(
        since_at=moment_of_timestamp(since) if isinstance(since, int) else None,
        until_at=moment_of_timestamp(float(until[1])) if until else None,
        who=str(value.get("who") or "unknown"),
        reason=mask(str(value.get("reason") or "")) or None,
    )
