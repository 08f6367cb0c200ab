"""The mark in Redis that names the database that this Redis belongs to."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, cast

from redis import Redis
from redis.exceptions import NoPermissionError, ResponseError

from docora_ops.queue.audit_stream import AuditEntry, add_entry, mapping_of
from docora_ops.queue.redis_client import moment_of_timestamp, redis_errors, server_time, text_of

PAIR_KEY = "docora-ops:pair"
"""The key in Redis that holds the mark."""


@dataclass(frozen=True)
class DatabaseIdentity:
    """What tells one database from another.

    system_identifier: of the server's data, which its standbys and physical copies share; None if
        the role may not read it.
    app_ids: up to 20 apps.
    """

    database: str
    system_identifier: str | None
    app_ids: Sequence[str]

    def __str__(self) -> str:
        return f"{self.database} (system {self.system_identifier or 'unknown'})"


@dataclass(frozen=True)
class PairMark:
    """What a change leaves in Redis about its database."""

    identity: DatabaseIdentity
    who: str
    left_at: datetime | None = None


@dataclass(frozen=True)
class StoredMark:
    """What Redis holds in place of the mark.

    mark: None if there is none, or it can't be read.
    text: the mark as it stands in Redis; empty if there is none.
    is_permitted: our user may read it.
    """

    mark: PairMark | None = None
    text: str = ""
    is_permitted: bool = True


def read_mark(client: Redis) -> StoredMark:
    """Reads the mark. Raises the client's RedisError, for workers; see `redis_errors`."""
    try:
        fields: Any = client.hgetall(PAIR_KEY)
    except NoPermissionError:  # a user of a version without marks
        return StoredMark(is_permitted=False)
    text = text_of(fields.get(b"mark", b""))
    mark = mapping_of(fields.get(b"mark"))
    try:
        identity = DatabaseIdentity(
            str(mark["database"]),
            str(mark["system_identifier"]) if "system_identifier" in mark else None,
            cast("list[str]", mark["app_ids"]),
        )
        at = moment_of_timestamp(int(text_of(fields[b"left_at"])))
        return StoredMark(PairMark(identity, str(mark["who"]), at), text)
    except (KeyError, TypeError, ValueError):
        return StoredMark(None, text)


def may_leave_mark(client: Redis) -> bool:
    """Tells whether our user may write the mark; writes nothing. Raises RedisError."""
    with redis_errors(client), client.pipeline() as pipeline:
        pipeline.hset(PAIR_KEY, "mark", "x")
        pipeline.exists()  # malformed, so that Redis does nothing at all
        try:
            pipeline.execute()
        except NoPermissionError:
            return False
        except ResponseError:
            return True
    return True


def encode_mark(identity: DatabaseIdentity, who: str) -> str:
    """Returns the mark as it stands in Redis."""
    return json.dumps({**asdict(identity), "who": who})


def replace_mark(client: Redis, identity: DatabaseIdentity, who: str, entry: AuditEntry) -> None:
    """Replaces the mark, and writes the audit entry. Raises RedisError."""
    with redis_errors(client), client.pipeline() as pipeline:
        at = int(server_time(client))
        pipeline.hset(PAIR_KEY, mapping={"mark": encode_mark(identity, who), "left_at": at})
        add_entry(pipeline, entry)
        pipeline.execute()
