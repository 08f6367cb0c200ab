"""The mark in Redis that names the Postgres database of the same Docora."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import cast

from redis import Redis
from redis.exceptions import NoPermissionError

from docora_ops.queue.audit_stream import AuditEntry, add_entry
from docora_ops.queue.redis_client import (
    answers_of,
    mapping_of,
    moment_of_timestamp,
    permits,
    redis_errors,
    server_time,
    text_of,
)

PAIR_KEY = "docora-ops:pair"
"""The Redis key of the mark."""


@dataclass(frozen=True)
class DatabaseIdentity:
    """The facts that identify a database.

    system_identifier: Postgres's database system identifier, shared by standbys and physical
        copies; None if the role may not read it.
    app_ids: the ids of up to 20 apps.
    """

    database: str
    system_identifier: str | None
    app_ids: Sequence[str]

    def __str__(self) -> str:
        return f"{self.database} (system {self.system_identifier or 'unknown'})"


@dataclass(frozen=True)
class PairMark:
    """The mark that changes leave in Redis: the identity of the database, who left it, and when."""

    identity: DatabaseIdentity
    who: str
    left_at: datetime | None = None


@dataclass(frozen=True)
class StoredMark:
    """The mark as read from Redis.

    text: the raw value; empty if the mark is missing.
    mark: None if it is missing or malformed.
    is_permitted: whether the user may read the mark.
    """

    text: str = ""
    mark: PairMark | None = None
    is_permitted: bool = True


def read_mark(client: Redis) -> StoredMark:
    """Reads the mark. Raises the Redis client's own RedisError, which workers expect."""
    pipeline = client.pipeline(transaction=False)
    pipeline.hgetall(PAIR_KEY)
    return mark_of(*answers_of(pipeline, keeps_denials=True))


def mark_of(fields: Mapping[bytes, bytes] | NoPermissionError | None) -> StoredMark:
    """Parses the mark that Redis has replied with.

    fields: the fields of the mark's hash; the NoPermissionError if the user may not read them; None
        if the key is of another type.
    """
    if isinstance(fields, NoPermissionError):  # the user was created for a version without marks
        return StoredMark(is_permitted=False)
    if not fields:
        return StoredMark()
    text = text_of(fields.get(b"mark", b""))
    mark = mapping_of(text)
    try:
        identity = DatabaseIdentity(
            str(mark["database"]),
            str(mark["system_identifier"]) if "system_identifier" in mark else None,
            cast("list[str]", mark["app_ids"]),
        )
        at = moment_of_timestamp(int(text_of(fields[b"left_at"])))
        return StoredMark(text, PairMark(identity, str(mark["who"]), at))
    except (KeyError, TypeError, ValueError):
        return StoredMark(text)


def may_leave_mark(client: Redis) -> bool:
    """Tells whether the user may write the mark; writes nothing. Raises RedisError."""
    with redis_errors(client):
        return permits(client, ("HSET", PAIR_KEY, "mark", "x"))


def mark_to_leave(
    identity: DatabaseIdentity, who: str, was: str, entry: AuditEntry | None
) -> Mapping[str, Mapping[str, object]]:
    """Returns the part of a script's configuration that makes the script leave a mark.

    was: the raw value of the mark to replace; empty if there is none. The script replaces no other.
    entry: the audit entry to write if `was` names another database.
    """
    mark = {"key": PAIR_KEY, "text": _encoded(identity, who), "was": was}
    return {"mark": mark | ({"entry": entry} if entry else {})}


def replace_mark(client: Redis, identity: DatabaseIdentity, who: str, entry: AuditEntry) -> None:
    """Replaces the mark and writes the audit entry. Raises RedisError."""
    with redis_errors(client), client.pipeline() as pipeline:
        at = int(server_time(client))
        pipeline.hset(PAIR_KEY, mapping={"mark": _encoded(identity, who), "left_at": at})
        add_entry(pipeline, entry)
        pipeline.execute()


def _encoded(identity: DatabaseIdentity, who: str) -> str:
    return json.dumps({**asdict(identity), "who": who})
