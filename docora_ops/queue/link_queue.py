"""The interface of the queue of link jobs, common to RQ and Docora's own BullMQ queue."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
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
    QueueOverview,
    Suspension,
)
from docora_ops.links import Payload
from docora_ops.queue.outcomes import ALL_OUTCOMES, OutcomeFilter, Outcomes
from docora_ops.queue.pair_mark import StoredMark
from docora_ops.queue.redis_answers import Command
from docora_ops.queue.rq_entries import QueueSweep

LEAST_WAITING = 20
"""The minimum number of jobs at the head of the queue to search for the oldest waiting job."""
SAMPLE = 100
"""The maximum number of jobs in `QueueUse.sample`."""
RECENT = 900
"""Seconds during which a failed job counts as failed recently."""


@dataclass(frozen=True, slots=True)
class QueueUse:
    """Who uses the queue at one moment.

    workers: the number of live workers that listen on the queue.
    other: the state of the other backend's queue.
    suspension: the suspension of the workers, if any.
    sample: the ids of up to 100 jobs that wait or (RQ only) have failed.
    mark: the mark that names the database of this Redis.
    """

    workers: int
    other: OtherQueue
    suspension: Suspension | None
    sample: Sequence[str]
    mark: StoredMark


@dataclass(frozen=True, slots=True)
class PushRequest:
    """A job to push.

    payload: the arguments of the job; None to push no job, but make sure that none is live.
    is_rescan: the rescan flag of the job.
    was_failed: whether the link was failed before the change that pushes the job.
    disproved: `STATUS ENQUEUED_AT` of a waiting job that two looks found in no place from which
        workers take jobs; otherwise empty. The push replaces the job, unless it has changed or is
        in one of these places now.
    """

    job_id: str
    payload: Payload | None
    is_rescan: bool
    was_failed: bool = False
    disproved: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """The state of one job: for a push, its state before the push.

    error_message: what is wrong with an unreadable job.
    is_delayed: whether the job waits, but not in a list.
    is_left: whether the job can't be pushed, so that the push has pushed no job at all.
    """

    job_id: str
    state: JobState
    error_message: str | None = None
    is_delayed: bool = False
    is_left: bool = False


def answers_of_script(job_ids: Sequence[str], replies: Sequence[str]) -> list[Answer]:
    """Parses the replies of a script, one per job."""
    answers = []
    for job_id, reply in zip(job_ids, replies, strict=True):
        word, _, reason = reply.removeprefix("left ").partition(":")
        error = f"its Redis key does not hold a job: {reason}" if reason else None
        is_delayed, is_left = word == "delayed", reply.startswith("left ")
        state = JobState.WAITING if is_delayed else JobState(word)
        answers.append(Answer(job_id, state, error, is_delayed, is_left))
    return answers


def arguments_of(commands: Sequence[Command]) -> list[str | int | bytes]:
    """Returns arguments of a script: for each command, the number of its words, then the words."""
    return [argument for command in commands for argument in (len(command), *command)]


def first_ids(
    ids_by_status: Iterable[tuple[str, Sequence[str]]], limit: int
) -> tuple[int, list[tuple[str, list[str]]]]:
    """Returns the number of jobs, and up to `limit` ids grouped by status, the last status first.

    A job that was seen with two statuses counts once, with the later one.

    ids_by_status: in the order in which jobs move, so that a job that moves during the reads is
        seen twice rather than missed.
    """
    statuses: dict[str, str] = {}
    for status, job_ids in reversed(list(ids_by_status)):
        for job_id in job_ids:
            statuses.setdefault(job_id, status)
    first = groupby(islice(statuses, limit), statuses.__getitem__)
    return len(statuses), [(status, list(job_ids)) for status, job_ids in first]


class LinkQueue(Protocol):
    """The queue of link jobs. All methods raise RedisError."""

    backend: ClassVar[Backend]
    can_push: ClassVar[bool]
    """If False, Docora's scheduler queues pending links: changes only reset links, `push` queues
    nothing, and docora-ops can neither suspend workers nor remove jobs."""
    advice: ClassVar[Advice]
    to_remove_others: ClassVar[str]
    """The shell command that removes the jobs of the other backend."""
    commands_of_push: ClassVar[Sequence[tuple[str | int, ...]]]
    """The Redis commands that a push needs, with their arguments, but without the key."""
    choice: BackendChoice
    """Why this queue is in use."""
    where: str
    """Host and database number of Redis."""
    mark_to_leave: Mapping[str, Mapping[str, object]]
    """The mark that pushes leave in Redis to name the database (see `pair_mark`); may be empty."""

    @property
    def use(self) -> QueueUse:
        """Returns the last result of `read_use`; calls it first if there is none."""

    def read_use(self) -> QueueUse:
        """Reads who uses the queue now."""

    @property
    def sweep(self) -> QueueSweep | None:
        """Returns the QueueSweep of this queue; None if only Docora may remove entries."""

    def look(self, job_ids: Sequence[str]) -> list[Answer]:
        """Returns the state of each job according to its own keys; writes nothing."""

    def push(
        self,
        requests: Sequence[PushRequest],
        *,
        leaves_waiting: bool = False,
        front: bool = False,
        exempts: bool = False,
        changes_links: bool = True,
        commands: Sequence[Command] = (),
    ) -> list[Answer]:
        """Queues all jobs atomically, or none if any can't be pushed: see `Answer.is_left`.

        Running and unreadable jobs can't be pushed. A waiting job keeps its place, unless it is
        `disproved`. Returns the state of each job before the push.

        Call it with the rows of the links locked in Postgres. Waits at most 4 s for a reply of
        Redis, because Docora may be waiting for these rows.

        leaves_waiting: also treat waiting jobs as jobs that can't be pushed.
        front: put each new job at the head of the queue, which reverses their order.
        exempts: exempt the jobs from the holds of their apps, if any.
        changes_links: give waiting jobs all their tries back, and run `commands` even if all jobs
            already wait.
        commands: Redis commands to run atomically with the push.
        """

    def docora_picks_up(self, status: str, answer: Answer) -> bool:
        """Tells whether Docora itself queues a link with this status and this state of its job.

        If it is unclear which backend is in use, returns True for every link that is not failed.
        """

    def seconds_until_others_forgotten(self) -> int | None:
        """Returns in how many seconds Redis forgets the other backend's workers if all died now.

        None if the other backend has no workers, or if Redis forgets dead workers at once.
        """

    def overview(self, limit: int) -> QueueOverview:
        """Reads the counts, the workers, the scheduler and the first `limit` jobs."""

    def jobs_of_apps(self, app_ids: Sequence[str], limit: int) -> tuple[int, list[QueuedJob]]:
        """Counts the live jobs of these apps, and reads the first `limit` of them."""

    def job(self, job_id: str) -> JobRecord:
        """Reads everything that the queue records of one job."""

    def outcomes(self, which: OutcomeFilter = ALL_OUTCOMES) -> Outcomes:
        """Reads how snapshots ended.

        With BullMQ, which has no record of outcomes, reads the failed jobs that are kept.
        """

    def pages_of_jobs(self) -> Iterator[tuple[list[str], bool]]:
        """Yields pages of all jobs' ids, and for each page whether its jobs should have links.

        Finished jobs, for example, may outlast their links.
        """
