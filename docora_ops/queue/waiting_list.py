"""The ids in the queue's list and the expired executions, each read once for many looks at jobs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import cast

from redis import Redis
from rq.utils import utcformat

NOT_IN_LIST = -1
LIST_NOT_READ = -2
TWICE_IN_LIST = -3

_CLOCK_SKEW = timedelta(seconds=30)
"""By how much the clock of a producer, which writes `enqueued_at`, may lag behind that of Redis."""
_WALKS = 100
"""How often the scripts of one command may search the whole list for ids that were not in it."""


class WaitingList:
    """The index of each id in a queue's list when the list was read.

    LPOS searches the list for each id, which takes quadratic time for many ids.
    """

    def __init__(self, read_at: datetime, ids: Iterable[bytes], expired: ExpiredExecutions) -> None:
        self.expired = expired
        self.walks_left = _WALKS
        self.cutoff = utcformat(read_at - _CLOCK_SKEW)
        """A job whose `enqueued_at` is earlier was enqueued before the list was read."""
        self._hints: dict[bytes, int] = {}
        for index, job_id in enumerate(ids):
            self._hints[job_id] = TWICE_IN_LIST if job_id in self._hints else index

    @classmethod
    def read(cls, client: Redis, list_key: str, wip_key: str) -> WaitingList:
        """Reads the list `list_key` and the expired executions in the registry `wip_key`."""
        expired = ExpiredExecutions.read(client, wip_key)
        seconds, microseconds = client.time()
        read_at = datetime.fromtimestamp(seconds, UTC) + timedelta(microseconds=microseconds)
        return cls(read_at, cast("list[bytes]", client.lrange(list_key, 0, -1)), expired)

    def hint(self, job_id: str) -> int:
        """Returns the index of the id, `TWICE_IN_LIST` or `NOT_IN_LIST`."""
        return self._hints.get(job_id.encode(), NOT_IN_LIST)


class ExpiredExecutions:
    """The executions in RQ's registry of running jobs whose heartbeat had expired at a moment."""

    def __init__(self, read_at: int, members: Mapping[str, Sequence[str]]) -> None:
        self._read_at = read_at
        self._members = members

    @classmethod
    def read(cls, client: Redis, wip_key: str) -> ExpiredExecutions:
        """Reads the expired executions in the registry `wip_key`."""
        now = client.time()[0]
        expired = client.zrange(wip_key, cast("int", "-inf"), now, byscore=True)
        members: dict[str, list[str]] = {}
        for member in cast("list[bytes]", expired):
            # Scripts take UTF-8 only: RQ removes other members.
            text = member.decode(errors="replace")
            members.setdefault(text.partition(":")[0], []).append(text)
        return cls(now, members)

    def config(self, job_ids: Iterable[str]) -> dict[str, object]:
        """Returns the arguments that tell a script the expired executions of these jobs."""
        found = {job_id: self._members[job_id] for job_id in job_ids if job_id in self._members}
        return {"expired_at": self._read_at, "expired": found}
