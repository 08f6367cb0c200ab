"""The row ids of the links that bulk operations have claimed, or are at work on.

All functions raise RedisError.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
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
        # The user for monitoring may not use GETRANGE.
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
    client: Redis, operation_id: str, selected: Iterable[str], *, is_changed: bool
) -> None:
    """Makes the operation count as at work for the next `HEARD` seconds.

    selected: the row ids of the links that the operation has queued or will queue.
    is_changed: whether these are other links than at the last call.
    """
    key = part_key(operation_id, "selection")
    with redis_errors(client):
        if is_changed or not client.expire(key, HEARD):
            client.set(key, _packed(selected), ex=HEARD)
        client.hset(_AT_WORK, operation_id, "")
        client.expire(_AT_WORK, HEARD)


def end_work(client: Redis, operation_id: str) -> None:
    """Forgets the links of an operation that is no longer at work."""
    with redis_errors(client):
        client.expire(part_key(operation_id, "selection"), 0)  # deletes it


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
            pipeline.get(part_key(operation_id, "selection"))
            pipeline.get(part_key(operation_id, "links"))
        answers = answers_of(pipeline)
    parts = dict(zip(operation_ids, batches(answers, 2), strict=True))
    shared = []
    for operation in read_operations(client, operation_ids):
        selected, links = parts[operation.operation_id]
        common = {id_ for id_ in _unpacked(selected or b"") if id_ in ids}
        if not common or operation.cancelled:
            continue
        queued = {id_ for id_ in _unpacked(links or b"") if id_ in common}
        shared.append(SharedLinks(operation, common - queued, queued))
    return shared


def _packed(ids: Iterable[str]) -> bytes:
    return bytes.fromhex("".join(ids).replace("-", ""))


def _unpacked(packed: bytes) -> Iterator[str]:
    text = packed.hex()  # faster than creating a UUID for each id
    for start in range(0, len(text) - 2 * _ID_BYTES + 1, 2 * _ID_BYTES):
        id_ = text[start : start + 2 * _ID_BYTES]
        yield f"{id_[:8]}-{id_[8:12]}-{id_[12:16]}-{id_[16:20]}-{id_[20:]}"
