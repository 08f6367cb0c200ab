"""The state of a Docora at one moment, in numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from docora_ops.bulk import KnownOperation
from docora_ops.diagnosis import CheckState
from docora_ops.error_groups import ErrorGroup
from docora_ops.jobs import OtherQueue, QueueOverview
from docora_ops.links import AppCount, LinkStatus
from docora_ops.text import amount, duration

SLOW_MS = 250  # a server that takes longer to answer counts as slow
TOO_SLOW_MS = 2000  # a server that takes longer to answer is not used


@dataclass(frozen=True)
class LinkCounts:
    """The number of links by status, and of repositories whose circuit is open."""

    by_status: Mapping[LinkStatus, int]  # every status
    open_circuits: int
    pending_with_open_circuit: int = 0  # links

    @property
    def failed(self) -> int:
        """Counts the failed links."""
        return self.by_status[LinkStatus.FAILED]


@dataclass(frozen=True)
class DriftCounts:
    """The number of links without a live job: `status` looks twice, `metrics` once."""

    lost: int  # pending for five minutes, without a live job
    stuck: int  # scanning, without a live job
    at_least: bool = False  # too many to look at: `lost` is how many more than all jobs


class Stop(StrEnum):
    """What has stopped, where that is seen directly."""

    WORKERS = "workers"
    REFUSALS = "refusals"
    SCHEDULE = "schedule"

    @property
    def sentence(self) -> str:
        """Says what has stopped."""
        return {
            Stop.WORKERS: "no worker runs, and jobs wait",
            Stop.REFUSALS: "no worker takes jobs, and jobs wait",
            Stop.SCHEDULE: "docora-ops schedule has stopped, and links are due and not queued",
        }[self]


@dataclass(frozen=True)
class Freshness:
    """When links were last scanned, and how many are overdue. Postgres's clock gives all times.

    `overdue`: links in sync without a good scan for `overdue_after_seconds`, not counting the time
    of an open circuit. If no link at all was scanned in that time, pending links and links that
    were never scanned count, too, from their creation on. `due`: links that a scheduler is to
    queue now. `nothing_moves`: a link has been due for `nothing_moves_after_seconds`, and in all
    that time no job ran, began or ended, and no file was delivered.
    """

    read_at: datetime
    overdue: int
    overdue_apps: int
    overdue_at_least: bool  # too many to count: both numbers are lower bounds
    overdue_since: datetime | None  # the oldest last good scan or creation of an overdue link
    overdue_after_seconds: int  # the threshold in force
    cycle_seconds: int | None  # that a scan of all links took at the last pace; None: too few scans
    # A cycle takes longer than the rescan interval, some link waits for its scan, links are scanned
    # at all, and with RQ, neither `schedule` nor all workers have stopped.
    is_slow: bool
    last_scanned_at: datetime | None  # the last good scan of any link
    scanned_recently: int  # good scans of the last 15 minutes
    oldest_scan_seconds: int | None  # the longest time that a link in sync was not scanned
    due: int
    nothing_moves_after_seconds: int  # DOCORA_OPS_OVERDUE_AFTER, else by the last pace
    nothing_moves: bool = False  # needs Redis, too
    stopped: Stop | None = None  # seen in one look; needs Redis, too
    shortest_pass_seconds: int | None = None  # if DOCORA_OPS_OVERDUE_AFTER is shorter than that

    @property
    def slow_pass_seconds(self) -> int:
        """Returns the seconds of a cycle if it is too long, otherwise 0."""
        return self.cycle_seconds or 0 if self.is_slow else 0

    @property
    def slow_words(self) -> str:
        """Says how long a pass takes, and when links are overdue."""
        return (
            f"slow: a pass takes {duration(self.slow_pass_seconds)}; "
            f"links are overdue after {duration(self.overdue_after_seconds)}"
        )

    @property
    def too_short_words(self) -> str:
        """Says that links count as overdue although they are scanned in time."""
        return (
            f"DOCORA_OPS_OVERDUE_AFTER is {duration(self.overdue_after_seconds)}, and a pass takes "
            f"up to {duration(self.shortest_pass_seconds or 0)}: links count as overdue in between"
        )

    @property
    def overdue_words(self) -> str:
        """Returns `2 links of 1 app`, or `at least 100000 links of 12 apps`."""
        of_apps = f"{amount(self.overdue, 'link')} of {amount(self.overdue_apps, 'app')}"
        return f"at least {of_apps}" if self.overdue_at_least else of_apps

    @property
    def overdue_before(self) -> datetime:
        """The moment before which the last good scan of an overdue link was."""
        return self.read_at - timedelta(seconds=self.overdue_after_seconds)


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
class Status:
    """The state of a Docora. The fields of a server that is down are None.

    `failed_by_app` and `failed_by_error`: the first four of `failed_apps` apps and `failed_errors`
    errors. `good_until_at` and `good_until_seconds`: as in `ErrorGroup`, of all failed links.
    `drift`: None beside wrong or unclear workers, and on a standby.
    """

    postgres: str  # names the server and the database
    redis: str
    target: str | None = None
    schema: str | None = None  # of Docora's tables
    postgres_latency_ms: int | None = None  # how long one answer takes
    redis_latency_ms: int | None = None
    links_by_status: Mapping[LinkStatus, int] | None = None
    open_circuits: int | None = None
    pending_with_open_circuit: int | None = None  # links
    failed_apps: int | None = None
    failed_by_app: Sequence[AppCount] | None = None
    failed_errors: int | None = None
    failed_by_error: Sequence[ErrorGroup] | None = None
    good_until_at: datetime | None = None
    good_until_seconds: int | None = None
    standby: Standby | None = None  # None on a primary
    queue: QueueOverview | None = None
    other_queue: OtherQueue = OtherQueue.UNUSED
    last_operation: KnownOperation | None = None
    drift: DriftCounts | None = None
    freshness: Freshness | None = None
    schedule_state: CheckState | None = None  # of the last pass of `schedule`; None: not with RQ

    @property
    def has_only_others(self) -> bool:
        """Tells whether only workers of the other backend run."""
        queue = self.queue
        return bool(queue and not queue.workers and self.other_queue is OtherQueue.WORKED_ON)


@dataclass(frozen=True)
class TargetState:
    """A target, and with `targets --check` its state.

    `problem`: why its file or a server can't be used, or what is critical. The fields that are not
    known are None.
    """

    target: str
    file: str
    protected: bool | None = None
    postgres: str | None = None  # names the server and the database
    redis: str | None = None
    failed_links: int | None = None
    overdue_links: int | None = None
    worker_count: int | None = None
    problem: str | None = None


@dataclass(frozen=True)
class Metrics:
    """The numbers at one moment. Those of a server that is down are None.

    A server is up if it answered and permitted everything. `failed_by_app` and `failed_by_error`:
    None also if not asked for; the latter has the 20 most frequent errors only. `drift` needs both
    servers, and the right backend.
    """

    postgres_up: bool
    redis_up: bool
    links_by_status: Mapping[LinkStatus, int] | None
    failed_by_app: Sequence[AppCount] | None
    failed_by_error: Sequence[ErrorGroup] | None
    open_circuits: int | None
    queue_name: str | None
    jobs_by_status: Mapping[str, int] | None
    oldest_waiting_seconds: int | None
    workers_by_state: Mapping[str, int] | None
    workers_by_no_job_reason: Mapping[str, int] | None  # of those that take no job
    backend_ok: bool | None  # the workers that run are those of the backend
    drift: DriftCounts | None
    freshness: Freshness | None
    last_pass_at: datetime | None  # of `schedule`, with RQ, in the last week
    scrape_seconds: float
    target: str | None = None
