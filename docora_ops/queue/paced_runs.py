"""Runs with `--in-flight` that are under way: `schedule` leaves their links to them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

from redis import Redis

from docora_ops.queue.progress import links_key, packed_ids, unpacked_ids
from docora_ops.queue.redis_client import answers_of, redis_errors
from docora_ops.queue.values import text_of

PACED_RUNS = "docora-ops:paced-runs"
"""The operation ids of runs that were heard of lately; of some, the selection has expired."""
HEARD = 60
"""Seconds for which a run counts as under way without a further sign of life."""


@dataclass(frozen=True)
class PacedLinks:
    """The links of a run that is under way, by their row ids."""

    operation_id: str
    selected: frozenset[str]
    queued: frozenset[str]
    """The selected links whose turn has come."""


class PacedRuns:
    """Makes runs known, and finds them. All calls raise RedisError."""

    def __init__(self, client: Redis) -> None:
        self._client = client

    def keep(self, operation_id: str, selected: Iterable[str]) -> None:
        """Makes the run and its links known for the next `HEARD` seconds."""
        key = selection_key(operation_id)
        with redis_errors(self._client):
            if not self._client.expire(key, HEARD):
                self._client.set(key, packed_ids(selected), ex=HEARD)
            self._client.sadd(PACED_RUNS, operation_id)
            self._client.expire(PACED_RUNS, HEARD)

    def end(self, operation_id: str) -> None:
        """Makes the run unknown."""
        with redis_errors(self._client):
            self._client.delete(selection_key(operation_id))

    def read(self) -> list[PacedLinks]:
        """Returns the runs that are under way, each with its links."""
        with redis_errors(self._client):
            known = cast("set[bytes]", self._client.smembers(PACED_RUNS))
            operation_ids = sorted(map(text_of, known))
            pipeline = self._client.pipeline(transaction=False)
            for operation_id in operation_ids:
                pipeline.get(selection_key(operation_id))
                pipeline.get(links_key(operation_id))
            found = answers_of(pipeline)
        return [
            PacedLinks(operation_id, *(frozenset(unpacked_ids(each or b"")) for each in links))
            for operation_id, *links in zip(operation_ids, found[::2], found[1::2], strict=True)
            if links[0]
        ]


def selection_key(operation_id: str) -> str:
    """Returns the key of all links of a run that is under way: 16 bytes for each row id."""
    return f"docora-ops:operation:{operation_id}:selection"
