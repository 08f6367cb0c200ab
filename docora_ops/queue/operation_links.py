"""The row ids of the links that bulk operations have claimed, or are at work on.

All functions raise RedisError.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

from redis import Redis

from docora_ops.links import batches
from docora_ops.operations import KnownOperation
from docora_ops.queue.operation_records import LINKS_EXPIRY, part_key, read_operations
from docora_ops.queue.redis_client import Command, answers_of, redis_errors, text_of

HEARD = 60  # seconds for which an operation counts as at work after `keep_at_work`
_AT_WORK = "docora-ops:at-work"  # a hash whose fields are ids of operations that may be at work
_ID_BYTES = 16


@dataclass(frozen=True)
class SharedLinks:
    """An operation at work, and the row ids of the links that it shares with a selection."""

    operation: KnownOperation
    to_queue: set[str]  # not yet queued
    queued: set[str]


def read_links(client: Redis, operation_id: str, since: int) -> list[str]:
    """Returns the row ids of claimed links from index `since` on. An id may occur twice."""
    key = part_key(operation_id, "links")
    with redis_errors(client):
        # The user for monitoring reads all links, and may not use GETRANGE.
        packed = client.getrange(key, since * _ID_BYTES, -1) if since else client.get(key)
    return list(_unpacked(cast("bytes | None", packed) or b""))


def add_links(client: Redis, operation_id: str, ids: Iterable[str]) -> None:
    """Adds links to the claimed links of an operation, by row id."""
    execute: Callable[..., object] = client.execute_command
    with redis_errors(client):
        for command in commands_to_add_links(operation_id, ids):
            execute(*command)


def commands_to_add_links(operation_id: str, ids: Iterable[str]) -> list[Command]:
    """Returns the Redis commands of `add_links`."""
    key = part_key(operation_id, "links")
    return [("APPEND", key, _packed(ids)), ("EXPIRE", key, LINKS_EXPIRY)]


def keep_at_work(
    client: Redis, operation_id: str, selected: Iterable[str], left_alone: Sequence[str], kept: int
) -> None:
    """Makes the operation count as at work for the next `HEARD` seconds.

    selected: the row ids of all links of the operation.
    left_alone: the row ids of all links that the operation will not queue.
    kept: how many of `left_alone` earlier calls have written.
    """
    selection, left = (part_key(operation_id, part) for part in ("selection", "left_alone"))
    with redis_errors(client), client.pipeline() as pipeline:
        if client.expire(selection, HEARD):
            pipeline.append(left, _packed(left_alone[kept:]))
        else:  # the first call, or what was kept is lost
            pipeline.set(selection, _packed(selected), ex=HEARD)
            pipeline.set(left, _packed(left_alone))
        pipeline.expire(left, HEARD)
        pipeline.hset(_AT_WORK, operation_id, "")
        pipeline.expire(_AT_WORK, HEARD)
        pipeline.execute()


def end_work(client: Redis, operation_id: str) -> None:
    """Forgets the links of an operation that is no longer at work."""
    with redis_errors(client):
        for part in ("selection", "left_alone"):
            client.expire(part_key(operation_id, part), 0)  # deletes it


def read_at_work(client: Redis, ids: Collection[str]) -> list[SharedLinks]:
    """Returns the operations that are at work on any of these links.

    Omits cancelled operations, and those of Docora's dashboard, which does not store their links.

    ids: the row ids of the links.
    """
    with redis_errors(client):
        known = cast("dict[bytes, bytes]", client.hgetall(_AT_WORK))
        if not known:
            return []
        operation_ids = sorted(map(text_of, known))
        pipeline = client.pipeline(transaction=False)
        for operation_id in operation_ids:
            for part in ("selection", "left_alone", "links"):
                pipeline.get(part_key(operation_id, part))
        answers = answers_of(pipeline)
    parts = dict(zip(operation_ids, batches(answers, 3), strict=True))
    shared = []
    for operation in read_operations(client, operation_ids):
        selected, left_alone, links = (
            {id_ for id_ in _unpacked(part or b"") if id_ in ids}
            for part in parts[operation.operation_id]
        )
        common = selected - left_alone
        if not common or operation.cancelled:
            continue
        queued = common & links
        shared.append(SharedLinks(operation, common - queued, queued))
    return shared


def _packed(ids: Iterable[str]) -> bytes:
    return bytes.fromhex("".join(ids).replace("-", ""))


def _unpacked(packed: bytes) -> Iterator[str]:
    text = packed.hex()  # faster than creating a UUID for each id
    for start in range(0, len(text) - 2 * _ID_BYTES + 1, 2 * _ID_BYTES):
        id_ = text[start : start + 2 * _ID_BYTES]
        yield f"{id_[:8]}-{id_[8:12]}-{id_[12:16]}-{id_[16:20]}-{id_[20:]}"
