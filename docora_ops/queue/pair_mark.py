"""The mark in Redis that names the database that this Redis belongs to."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, cast

from redis import Redis
from redis.exceptions import NoPermissionError

from docora_ops.pair import DatabaseIdentity, PairMark
from docora_ops.queue.audit_stream import AuditEntry, add_entry
from docora_ops.queue.redis_answers import mapping_of, moment_of_timestamp, text_of
from docora_ops.queue.redis_client import server_time
from docora_ops.queue.redis_errors import redis_errors

_KEY = "docora-ops:pair"


def read_mark(client: Redis) -> PairMark | None:
    """Returns the mark, None if there is none or our user may not read it.

    Raises the client's RedisError, for workers; see `redis_errors`.
    """
    try:
        fields: Any = client.hgetall(_KEY)
    except NoPermissionError:  # a user of a version without marks
        return None
    mark = mapping_of(fields.get(b"mark"))
    try:
        identity = DatabaseIdentity(
            str(mark["database"]),
            str(mark["system_identifier"]) if "system_identifier" in mark else None,
            cast("list[str]", mark["app_ids"]),
        )
        at = moment_of_timestamp(int(text_of(fields[b"left_at"])))
        return PairMark(identity, str(mark["who"]), at, text_of(fields[b"mark"]))
    except (KeyError, TypeError, ValueError):
        return None


def mark_to_leave(
    identity: DatabaseIdentity, who: str, was: str, entry: AuditEntry | None
) -> Mapping[str, Mapping[str, object]]:
    """Returns what the script of a change needs to leave a mark.

    was: the text of the mark that it may replace.
    entry: the audit entry, if the mark names another database.
    """
    mark = {"key": _KEY, "text": _encoded(identity, who), "was": was}
    return {"mark": mark | ({"entry": entry} if entry else {})}


def replace_mark(client: Redis, identity: DatabaseIdentity, who: str, entry: AuditEntry) -> None:
    """Replaces the mark, and writes the audit entry. Raises RedisError."""
    with redis_errors(client), client.pipeline() as pipeline:
        at = int(server_time(client))
        pipeline.hset(_KEY, mapping={"mark": _encoded(identity, who), "left_at": at})
        add_entry(pipeline, entry)
        pipeline.execute()


def _encoded(identity: DatabaseIdentity, who: str) -> str:
    return json.dumps({**asdict(identity), "who": who})
