"""The queue that the jobs of links stand in: what RQ's and Docora's own BullMQ have in common."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby, islice
from typing import ClassVar, Protocol

from docora_ops.jobs import (
    Advice,
    Backend,
    BackendChoice,
    JobRecord,
    JobState,
    OtherQueue,
    QueuedJob,
    QueueHealth,
    QueueOverview,
    Suspension,
)
from docora_ops.links import Outcome, Payload
from docora_ops.queue.pair_mark import StoredMark
from docora_ops.queue.redis_answers import Command
from docora_ops.queue.rq_entries import QueueSweep

LEAST_WAITING = 20
"""Jobs at the head of the queue whose moments are compared: not only the oldest stand there."""
SAMPLE = 100
"""Jobs in `QueueUse.sample`."""
RECENT = 900
"""Seconds for which a failed job counts as having failed recently."""


@dataclass(frozen=True, slots=True)
class QueueUse:
    """Who uses the queue at one moment.

    workers: the number of live workers that listen on the queue.
    other: whether the queue of the other backend holds jobs, and whether a worker runs there.
    suspension: the order to take no jobs, if any.
    sample: the ids of up to 100 jobs that wait or, with RQ, have failed.
    mark: names the database that this Redis belongs to.
    """

    workers: int
    other: OtherQueue
    suspension: Suspension | None
    sample: Sequence[str]
    mark: StoredMark


@dataclass(frozen=True, slots=True)
class PushRequest:
    """A job to push.

    payload: arguments of the job; None only confirms that no job is live.
    is_rescan: the rescan flag of the job.
    disproved: status and `enqueued_at`, with a blank between them, of a waiting job that two looks
        have found in no place where a worker takes it. If neither has changed, and the job still
        stands nowhere, the push replaces it.
    """

    job_id: str
    payload: Payload | None
    is_rescan: bool
    disproved: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """The state of one job, and the outcome of a push.

    reason: why the job is unreadable.
    outcome: of a push, None for a look.
    is_delayed: the job waits, but not in a list.
    is_left: the job can't be pushed, so no job of this push was.
    """

    job_id: str
    state: JobState
    reason: str = ""
    outcome: Outcome | None = None
    is_delayed: bool = False
    is_left: bool = False


def longest_wait(waiting: Sequence[QueuedJob], now: float) -> tuple[datetime | None, int | None]:
    """Returns since when the oldest of the waiting jobs waits, and for how many seconds.

    now: seconds since 1970 by the clock of Redis.
    """
    oldest = min(filter(None, (job.enqueued_at for job in waiting)), default=None)
    return oldest, max(0, int(now - oldest.timestamp())) if oldest else None


def first_ids(
    ids_by_status: Iterable[tuple[str, Sequence[str]]], limit: int
) -> tuple[int, list[tuple[str, list[str]]]]:
    """Counts the jobs, and returns a status and the ids of the first `limit` jobs that have it.

    ids_by_status: the ids of each place in the order in which a job passes the places, so that a
        job that moves on meanwhile is seen twice rather than not at all.
    """
    statuses: dict[str, str] = {}
    for status, job_ids in reversed(list(ids_by_status)):
        for job_id in job_ids:
            statuses.setdefault(job_id, status)
    first = groupby(islice(statuses, limit), statuses.__getitem__)
    return len(statuses), [(status, list(job_ids)) for status, job_ids in first]


class LinkQueue(Protocol):
    """The queue that the jobs of links stand in. All calls raise RedisError."""

    backend: ClassVar[Backend]
    can_push: ClassVar[bool]
    """False: Docora's scheduler queues pending links. A change only resets them, `push` only tells
    which jobs are live, and nobody can suspend the workers or remove jobs."""
    advice: ClassVar[Advice]
    commands_of_push: ClassVar[Sequence[tuple[str | int, ...]]]
    """The commands that a push needs, with their arguments, but without the key."""
    choice: BackendChoice
    """Why this is the queue in use."""
    where: str
    """Host and database of Redis."""
    mark_to_leave: Mapping[str, Mapping[str, object]]
    """The mark that pushes leave in Redis to name the database: see `pair_mark`; may be empty."""

    @property
    def use(self) -> QueueUse:
        """Who uses the queue, as read last: when a command first asks, or by `read_use`."""

    def read_use(self) -> QueueUse:
        """Reads anew who uses the queue."""

    @property
    def sweep(self) -> QueueSweep | None:
        """Finds and removes entries of the whole queue. None: the entries are Docora's."""

    def look(self, job_ids: Sequence[str]) -> list[Answer]:
        """Returns the state of each job by its own keys; writes nothing."""

    def prepare(self) -> None:
        """Gets ready for pushes, which have rows locked. Costs one round trip."""

    def push(
        self,
        requests: Sequence[PushRequest],
        *,
        leaves_waiting: bool = False,
        front: bool = False,
        changes_links: bool = True,
        commands: Sequence[Command] = (),
    ) -> list[Answer]:
        """Queues all jobs atomically, or none if some have to be left: see `Answer.is_left`.

        A running or unreadable job is left. A waiting job keeps its place, unless it is disproved.
        Called with the rows locked: Redis has 4 s. Call `prepare` before.

        leaves_waiting: leave waiting jobs, too.
        front: put new jobs at the head of the queue, so that the last one is the first.
        changes_links: write the commands even if all jobs wait already.
        commands: what to write with the jobs, before anything is removed.
        """

    def docora_picks_up(self, status: str, answer: Answer) -> bool:
        """Tells whether Docora itself queues a link that has this status and this job.

        Also true if it is unclear which workers run, and Docora's may.
        """

    def seconds_until_others_forgotten(self) -> int | None:
        """Returns how long Redis would count the other backend's workers if they died just now.

        Returns None if there are none, or if Redis forgets them at once.
        """

    def health(self) -> QueueHealth:
        """Reads what `doctor` checks."""

    def overview(self, limit: int) -> QueueOverview:
        """Reads the counts, the workers, the scheduler and the first `limit` jobs."""

    def jobs_of_apps(self, app_ids: Sequence[str], limit: int) -> tuple[int, list[QueuedJob]]:
        """Counts the live jobs of these apps, and reads the first `limit` of them."""

    def job(self, job_id: str) -> JobRecord:
        """Reads all that the queue has of one job."""

    def pages_of_jobs(self) -> Iterator[tuple[list[str], bool]]:
        """Yields the ids of all jobs in pages, and whether they are to be run or have failed."""
