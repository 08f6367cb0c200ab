"""The state of a Docora at one moment, in numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from docora_ops.bulk import KnownOperation
from docora_ops.errors import ServerError
from docora_ops.jobs import OtherQueue, QueueOverview
from docora_ops.link_lists import ErrorGroup
from docora_ops.links import AppCount, LinkStatus
from docora_ops.pages import Page
from docora_ops.text import duration

_WORKER_STATES = ("started", "idle", "busy", "suspended")
"""RQ's words."""
_UNKNOWN, _SILENT = "unknown", "silent"

SLOW_MS = 250
"""Milliseconds. A server that takes longer for one answer is slow,"""
TOO_SLOW_MS = 2000
"""and one that takes longer than this can hardly be worked with."""


@dataclass(frozen=True)
class LinkCounts:
    """The number of links by status, and of repositories whose circuit is open."""

    by_status: Mapping[LinkStatus, int]  # every status
    open_circuits: int
    pending_with_open_circuit: int = 0  # links

    @property
    def total(self) -> int:
        """Counts the links."""
        return sum(self.by_status.values())

    @property
    def failed(self) -> int:
        """Counts the failed links."""
        return self.by_status[LinkStatus.FAILED]


@dataclass(frozen=True)
class DriftCounts:
    """The number of links that nobody works on, as one look finds them.

    `at_least`: too many links are unfinished to look at each. Then `lost` counts the links, lost or
    stuck, that outnumber all jobs, and `stuck` is 0.
    """

    lost: int  # pending for five minutes, without a live job
    stuck: int  # scanning, without a live job
    at_least: bool = False


@dataclass(frozen=True)
class Standby:
    """The lag of a Postgres standby behind its primary."""

    unreplayed_bytes: int | None  # of what it has received; None if it has received nothing
    last_change_seconds: int | None  # since the last change that it shows; grows on an idle primary

    def __str__(self) -> str:
        """Says how old the data may be."""
        age = self.last_change_seconds
        last = "no change replayed yet" if age is None else f"last change {duration(age)} ago"
        left = self.unreplayed_bytes
        return f"a standby, {last}" + (f", {left:,} bytes to replay" if left else "")


@dataclass(frozen=True)
class LinkOverview:
    """The links in Postgres, with the apps and the errors that have most failed links."""

    counts: LinkCounts
    failed_by_app: Page[AppCount]
    failed_by_error: Page[ErrorGroup]
    standby: Standby | None = None  # None on a primary


@dataclass(frozen=True)
class Status:
    """The state of a Docora. The fields of a server that is down are None; `errors` says why."""

    postgres: str  # names the server and the database
    redis: str
    errors: Sequence[ServerError]
    schema: str | None = None  # of Docora's tables
    links: LinkOverview | None = None
    queue: QueueOverview | None = None
    last_operation: KnownOperation | None = None
    drift: DriftCounts | None = None  # also None beside wrong or unclear workers, or on a standby
    other_queue: OtherQueue = OtherQueue.UNUSED
    postgres_latency_ms: int | None = None  # how long one answer takes
    redis_latency_ms: int | None = None

    @property
    def has_only_others(self) -> bool:
        """Tells whether only workers of the other backend run."""
        queue = self.queue
        return queue is not None and self.other_queue.is_the_only_one(len(queue.workers))


@dataclass(frozen=True)
class Trend:
    """The changes since a watch began. The fields of a server that is down are None."""

    seconds: float
    synced: int | None
    failed: int | None
    jobs: int | None
    jobs_per_second: float | None  # above 0 while the queue drains
    seconds_left: float | None  # until the queue is empty, if it drains


class Server(StrEnum):
    """The servers that docora-ops reads."""

    POSTGRES = "postgres"
    REDIS = "redis"


@dataclass(frozen=True)
class Metrics:
    """The numbers at one moment. Numbers of a server that is down are None."""

    links: LinkCounts | None
    failed_by_app: Sequence[AppCount] | None  # None also if not asked for
    queue: QueueOverview | None
    backend_ok: bool | None  # the workers that run are those of the backend
    drift: DriftCounts | None  # needs both servers, and the right backend
    scrape_seconds: float
    errors: Mapping[Server, ServerError]  # of the servers that are down

    @property
    def up(self) -> Mapping[Server, bool]:
        """Tells which servers answered and permitted everything."""
        return {server: server not in self.errors for server in Server}

    @property
    def workers(self) -> Mapping[str, int] | None:
        """Counts the live workers by state. Redis may hold any text there: it counts as unknown.

        A worker that has missed a heartbeat counts as silent, whatever it was doing before.
        """
        if self.queue is None:
            return None
        counts = dict.fromkeys((*_WORKER_STATES, _UNKNOWN, _SILENT), 0)
        for worker in self.queue.workers:
            state = worker.state if worker.state in _WORKER_STATES else _UNKNOWN
            counts[state if worker.silent_seconds is None else _SILENT] += 1
        return counts
