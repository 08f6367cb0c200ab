"""The queue that the jobs of links stand in: one shape for RQ and for Docora's own BullMQ."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar

from redis import Redis

from docora_ops.jobs import (
    Backend,
    BackendChoice,
    BackendSource,
    JobRecord,
    JobState,
    OtherQueue,
    QueueHealth,
    QueueOverview,
    Suspension,
)
from docora_ops.links import LinkStatus, Outcome, Payload
from docora_ops.queue.audit_stream import AuditEntry, write_entry
from docora_ops.queue.redis_client import describe
from docora_ops.queue.waiting_list import ExpiredExecutions, WaitingList
from docora_ops.settings import Settings

if TYPE_CHECKING:
    from docora_ops.queue.sweep import QueueSweep


@dataclass(frozen=True, slots=True)
class PushRequest:
    """A job to push. Without a payload, the push only confirms that the job is live.

    `seen`: evidence of a job that was doubtful at an earlier look; unchanged, the job is stale.
    `is_repeated`: it was pushed a moment ago, after the waiting list was read. `row_id`: of the
    link, if an operation claims it.
    """

    job_id: str
    payload: Payload | None
    is_rescan: bool
    seen: str = ""
    is_repeated: bool = False
    row_id: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """The state of one job, and the outcome of a push.

    `outcome`: None for a running, doubtful or unreadable job, and after a look at RQ. `evidence`:
    `enqueued_at` of a doubtful job of RQ, or of one that may have been queued since the list was
    read; it changes when the job is queued anew. `is_delayed`: of a waiting job.
    `has_replaced`: the push removed a finished or stale job. `reason`: why the job is unreadable.
    """

    job_id: str
    state: JobState
    outcome: Outcome | None = None
    evidence: str = ""
    is_delayed: bool = False
    has_replaced: bool = False
    reason: str = ""


class LinkQueue(ABC):
    """The queue that the jobs of links stand in. All calls raise RedisError."""

    backend: ClassVar[Backend]

    @property
    def is_docoras(self) -> bool:
        """Tells whether Docora's own scheduler queues pending links: a push only looks at jobs."""
        return self.backend is Backend.BULLMQ

    def __init__(
        self, settings: Settings, client: Redis, choice: BackendChoice | None = None
    ) -> None:
        self._settings = settings
        self._client = client
        self.choice = choice or BackendChoice(self.backend, BackendSource.SETTING)

    @property
    def where(self) -> str:
        """Host and database of Redis."""
        return describe(self._client)

    @property
    def scan_interval(self) -> str:
        """The time within which Docora's scheduler queues a pending link, in words."""
        return self._settings.scan_interval

    def record(self, audit: AuditEntry) -> None:
        """Writes an audit entry by itself."""
        write_entry(self._client, audit)

    @property
    def sweep(self) -> QueueSweep | None:
        """Finds and removes entries of the whole queue. None: the entries are Docora's."""
        return None

    @abstractmethod
    def read_waiting(self) -> WaitingList:
        """Reads the ids in the queue's list."""

    @abstractmethod
    def sample(self, count: int) -> list[str]:
        """Returns the ids of at most `count` jobs that wait or, with RQ, have failed."""

    @abstractmethod
    def read_expired(self) -> ExpiredExecutions:
        """Reads the expired executions, before rows are locked: there may be many."""

    @abstractmethod
    def look(
        self,
        job_ids: Sequence[str],
        *,
        waiting: WaitingList | None = None,
        expired: ExpiredExecutions | None = None,
        detailed: bool = False,
        by_status: bool = False,
        rows_locked: bool = False,
    ) -> list[Answer]:
        """Returns the state of each job; writes nothing.

        `waiting`: the list as read before; without it each id is searched. `expired`: the expired
        executions as read before, if `waiting` is not given. `detailed`: tells a finished and
        a stale job from none. `by_status`: believes RQ's status and searches no list.
        `rows_locked`: Redis has 4 s.
        """

    @abstractmethod
    def prepare(self) -> None:
        """Connects and loads the script before rows are locked."""

    @abstractmethod
    def push(
        self,
        requests: Sequence[PushRequest],
        *,
        waiting: WaitingList | None = None,
        expired: ExpiredExecutions | None = None,
        front: bool = False,
        operation_id: str | None = None,
        audit: Mapping[Outcome, AuditEntry] = MappingProxyType({}),
    ) -> list[Answer]:
        """Sees to it that each job is queued, unless it is live; each job atomically.

        Called with the rows locked: Redis has 4 s. A running, doubtful or unreadable job is left
        alone, and its answer has no outcome. `front`: puts the jobs at the head, so that the last
        one is the first. `operation_id`: the operation that keeps the row ids of the links.
        `audit`: audit entries by outcome, `FAILED` for a job that was to be confirmed and is not
        live; the first outcome that is among them writes its entry.
        """

    def docora_picks_up(self, status: str, answer: Answer) -> bool:  # noqa: ARG002
        """Tells whether Docora puts a link with this status and this job to work by itself.

        Where it is unclear which workers run, it may.
        """
        return not self.choice.is_clear and status != LinkStatus.FAILED

    @abstractmethod
    def count_workers(self) -> int:
        """Counts the live workers that listen on the queue."""

    @abstractmethod
    def read_suspension(self) -> Suspension | None:
        """Returns the order to all workers to take no jobs, if there is one."""

    @abstractmethod
    def read_other(self) -> OtherQueue:
        """Tells whether the queue of the other backend holds jobs, and whether a worker runs."""

    @abstractmethod
    def health(self) -> QueueHealth:
        """Reads what `doctor` checks."""

    @abstractmethod
    def overview(self, limit: int) -> QueueOverview:
        """Reads the counts, the workers, the scheduler and the first `limit` jobs."""

    @abstractmethod
    def job(self, job_id: str) -> JobRecord:
        """Reads all that the queue has of one job."""

    @abstractmethod
    def pages_of_jobs(self) -> Iterator[tuple[list[str], bool]]:
        """Yields the ids of all jobs, some thousand at a time.

        The flag tells whether they are to be run or have failed. An id may come twice.
        """

    @abstractmethod
    def made_for_links(self, job_ids: Collection[str]) -> set[str]:
        """Returns the ids of jobs that call our function with the ids of a link."""
