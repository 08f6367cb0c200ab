"""The ids that wait in the queue's list, read once and kept in eight bytes each.

And the executions whose heartbeat has expired, which a crash may leave by the hundred thousand.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import cast

from redis import Redis
from rq.utils import utcformat

NOT_IN_LIST = -1
LIST_NOT_READ = -2
TWICE_IN_LIST = -3

_CHUNK = 10_000
_OVERLAP = 500
_ANCHOR = 8
_POSITION_BITS = 24
_POSITION_MASK = (1 << _POSITION_BITS) - 1
_HASH_MASK = ((1 << 64) - 1) ^ _POSITION_MASK
_CLOCK_SKEW = timedelta(seconds=30)
"""By how much the clock of a producer, by which RQ writes `enqueued_at`, may lag behind Redis's."""
_WALKS = 100
"""How often the scripts of a run may walk over the whole list for ids that the list leaves open."""


class WaitingList:
    """Where each id stood in a queue's list when it was read.

    LPOS walks the list for each id, which is quadratic; this asks once. An entry is 40 bits of
    the id's hash and 24 bits of its place, sorted within 256 buckets. A hash that fits by chance
    costs one wrong hint, which the script notices. An id that is not found was not in the list.
    """

    def __init__(
        self, cutoff: str, ids_from_tail: Iterable[bytes], expired: ExpiredExecutions
    ) -> None:
        self.expired = expired
        self.walks_left = _WALKS
        self.cutoff = cutoff
        """A job whose `enqueued_at` is earlier was enqueued before the list was read."""
        self._length = 0
        buckets: list[array[int]] = [array("Q") for _ in range(256)]
        for job_id in ids_from_tail:
            hashed = hash(job_id) & _HASH_MASK
            buckets[hashed >> 56].append(hashed | min(self._length, _POSITION_MASK))
            self._length += 1
        self._buckets = [array("Q", sorted(bucket)) for bucket in buckets]

    @classmethod
    def read(cls, client: Redis, list_key: str, wip_key: str) -> WaitingList:
        """Read the list `list_key`, in chunks, so that its length costs little memory."""
        expired = ExpiredExecutions.read(client, wip_key)
        seconds, microseconds = client.time()
        read_at = datetime.fromtimestamp(seconds, UTC) + timedelta(microseconds=microseconds)
        cutoff = utcformat(read_at - _CLOCK_SKEW)
        try:
            return cls(cutoff, _ids_from_tail(client, list_key), expired)
        except _ListMovedError:
            ids = cast("list[bytes]", client.lrange(list_key, 0, -1))
            return cls(cutoff, reversed(ids), expired)

    def hint(self, job_id: str) -> int:
        """The index at which the id stood, `TWICE_IN_LIST` or `NOT_IN_LIST`."""
        hashed = hash(job_id.encode()) & _HASH_MASK
        bucket = self._buckets[hashed >> 56]
        place = bisect_left(bucket, hashed)
        if place < len(bucket) and bucket[place] & _HASH_MASK == hashed:
            if place + 1 < len(bucket) and bucket[place + 1] & _HASH_MASK == hashed:
                return TWICE_IN_LIST
            return max(self._length - 1 - (bucket[place] & _POSITION_MASK), 0)
        return NOT_IN_LIST


class ExpiredExecutions:
    """The executions in RQ's registry of running jobs whose heartbeat had expired at a moment."""

    def __init__(self, read_at: int, members: Mapping[str, Sequence[str]]) -> None:
        self._read_at = read_at
        self._members = members

    @classmethod
    def read(cls, client: Redis, wip_key: str) -> ExpiredExecutions:
        """Read the registry `wip_key` from its end, in chunks that overlap.

        Executions that end meanwhile move those before them by some places.
        """
        now = client.time()[0]
        # Without values: each member once, in order, though all of them may be of one job.
        members: dict[str, dict[str, None]] = {}
        last = -1
        while True:
            entries = cast(
                "list[tuple[bytes, float]]",
                client.zrange(wip_key, last - _CHUNK + 1, last, withscores=True),
            )
            for member, expires_at in entries:
                if expires_at <= now:
                    # What is not UTF-8 can't be told to a script: that entry is left to RQ.
                    text = member.decode(errors="replace")
                    members.setdefault(text.partition(":")[0], {})[text] = None
            if len(entries) < _CHUNK:
                return cls(now, {job_id: list(found) for job_id, found in members.items()})
            last -= _CHUNK - _OVERLAP

    def config(self, job_ids: Iterable[str]) -> dict[str, object]:
        """Returns what a script needs to know of the expired executions of these jobs."""
        found = {job_id: self._members[job_id] for job_id in job_ids if job_id in self._members}
        return {"expired_at": self._read_at, "expired": found}


class _ListMovedError(Exception):
    """The list changed so much between two chunks that an id may have been missed."""


def _ids_from_tail(client: Redis, list_key: str) -> Iterator[bytes]:
    """The list's ids from its tail to its head.

    Workers pop the head, which moves nothing that is still to come. Pushes and removals do, so
    each chunk overlaps the one before, and has to show that one's last ids again, in their order.
    """
    seen = 0
    anchor: list[bytes] = []
    while True:
        end = -seen - 1 + (_OVERLAP if seen else 0)
        ids = cast("list[bytes]", client.lrange(list_key, -seen - _CHUNK, end))
        if anchor:
            ids = ids[: _last_index(ids, anchor)]
        if not ids:
            return
        yield from reversed(ids)
        seen += len(ids)
        anchor = (ids + anchor)[:_ANCHOR]


def _last_index(ids: list[bytes], anchor: list[bytes]) -> int:
    for index in range(len(ids) - len(anchor), -1, -1):
        if ids[index : index + len(anchor)] == anchor:
            return index
    raise _ListMovedError
