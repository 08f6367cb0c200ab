"""The queue of Docora's workers: what RQ's and BullMQ's have in common, and which one is in use."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar

from redis import Redis

from docora_ops.errors import UnclearBackendError
from docora_ops.links import Backend, JobState, Link
from docora_ops.queue.connection import load_script, redis_errors, text_of
from docora_ops.settings import Settings


@dataclass(frozen=True, slots=True)
class Found:
    """What the queue held under a job id before a push. `detail`: why it is unreadable."""

    state: JobState
    detail: str = ""


@dataclass(frozen=True)
class QueueCounts:
    """The numbers of jobs in the queue, and whether its workers are suspended.

    oldest_waiting_at: when the job at the head of the list was queued; None if none waits.
    """

    waiting: int
    active: int
    delayed: int
    completed: int
    failed: int
    is_suspended: bool
    oldest_waiting_at: datetime | None = None


@dataclass(frozen=True)
class Worker:
    """A live worker of the queue.

    host: the host that it runs on; None if unknown.
    seen_seconds: seconds since its last sign of life; None if unknown.
    """

    name: str
    host: str | None = None
    job_id: str | None = None
    seen_seconds: int | None = None


@dataclass(frozen=True)
class QueuedJob:
    """The job of one link, as far as its keys tell. Moments are None where unknown."""

    job_id: str
    state: JobState
    status: str | None  # in the backend's own words
    created_at: datetime | None = None
    started_at: datetime | None = None
    due_at: datetime | None = None  # of a delayed job
    worker: str | None = None


class LinkQueue(ABC):
    """A queue of link jobs. All methods raise RedisError."""

    backend: ClassVar[Backend]
    script: ClassVar[str]  # the file of the Lua script

    def __init__(self, settings: Settings, client: Redis) -> None:
        self.settings = settings
        self.client = client
        self._script = load_script(client, self.script)

    def _run(self, arguments: Sequence[str | bytes]) -> list[Found]:
        """Runs the script, which answers `STATE` or `STATE:DETAIL` for each job."""
        with redis_errors(self.client):
            answers = map(text_of, self._script(args=arguments))
            parts = (answer.partition(":") for answer in answers)
            return [Found(JobState(state), detail) for state, _, detail in parts]

    @abstractmethod
    def look(self, job_ids: Sequence[str]) -> list[Found]:
        """Returns what the queue holds under each job id. Writes nothing."""

    @abstractmethod
    def push(
        self,
        links: Sequence[Link],
        is_rescan: Callable[[Link], bool],
        looked_at: datetime | None = None,
    ) -> list[Found]:
        """Queues the job of each link that has no live job, atomically.

        Returns what the queue held before. A waiting job is kept; a running or unreadable one is
        left alone.

        looked_at: two looks at the whole queue since this moment have found none of these jobs, so
            that a job queued before is not searched for in the list again.
        """

    @abstractmethod
    def live_ids(self) -> Iterator[Sequence[str]]:
        """Yields the ids of live jobs, page by page: each that is live throughout at least once."""

    @abstractmethod
    def counts(self) -> QueueCounts:
        """Counts the jobs by state."""

    @abstractmethod
    def workers(self) -> list[Worker]:
        """Returns the live workers."""

    @abstractmethod
    def is_suspended(self) -> bool:
        """Tells whether somebody has told the workers to take no jobs."""

    @abstractmethod
    def sample(self, limit: int) -> list[str]:
        """Returns up to `limit` ids of jobs in the queue."""

    @abstractmethod
    def has_keys(self) -> bool:
        """Tells whether the queue has ever been used in this Redis."""

    @abstractmethod
    def read_job(self, job_id: str) -> QueuedJob:
        """Returns what is known of the job with this id."""


def choose_queue(settings: Settings, client: Redis) -> LinkQueue:
    """Returns the queue that DOCORA_OPS_BACKEND names.

    `auto`: the one with workers, waiting or running jobs; otherwise, the one that has left keys;
    otherwise RQ. Raises UnclearBackendError if both are in use, RedisError.
    """
    from docora_ops.queue.bullmq import BullmqQueue
    from docora_ops.queue.rq import RqQueue

    queues: dict[Backend, LinkQueue] = {
        Backend.RQ: RqQueue(settings, client),
        Backend.BULLMQ: BullmqQueue(settings, client),
    }
    if settings.backend is not Backend.AUTO:
        return queues[settings.backend]
    for signs in (_in_use(queues), _with_keys(queues)):
        if len(signs) > 1:
            raise UnclearBackendError(
                "both RQ and BullMQ (Docora's own workers) are in use in this Redis",
                hint="set DOCORA_OPS_BACKEND to rq or bullmq",
            )
        if signs:
            return signs[0]
    return queues[Backend.RQ]


def other_backend_in_use(settings: Settings, client: Redis, backend: Backend) -> bool:
    """Tells whether the backend that is not `backend` has workers or live jobs. RedisError."""
    from docora_ops.queue.bullmq import BullmqQueue
    from docora_ops.queue.rq import RqQueue

    is_rq = backend is Backend.RQ
    other = BullmqQueue(settings, client) if is_rq else RqQueue(settings, client)
    return bool(_in_use({other.backend: other}))


def _in_use(queues: dict[Backend, LinkQueue]) -> list[LinkQueue]:
    return [
        queue
        for queue in queues.values()
        if (counts := queue.counts()).waiting + counts.active + counts.delayed or queue.workers()
    ]


def _with_keys(queues: dict[Backend, LinkQueue]) -> list[LinkQueue]:
    return [queue for queue in queues.values() if queue.has_keys()]
