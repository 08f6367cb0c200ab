"""The queue of link jobs: its interface, and what RQ's and Docora's own BullMQ queue share."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby, islice
from typing import ClassVar

from redis import Redis

from docora_ops.jobs import (
    ADVICE,
    Backend,
    BackendChoice,
    BackendSource,
    JobRecord,
    JobState,
    OtherQueue,
    QueuedJob,
    QueueOverview,
    Suspension,
)
from docora_ops.links import Payload
from docora_ops.queue.outcomes import OutcomeFilter, Outcomes
from docora_ops.queue.redis_client import (
    Command,
    Script,
    moment_of_timestamp,
    redis_errors,
    text_of,
)
from docora_ops.queue.redis_signs import SAMPLE, Signs, read_signs
from docora_ops.queue.rq_entries import QueueSweep
from docora_ops.settings import Settings

LEAST_WAITING = 20
"""The minimum number of jobs at the head of the queue to search for the oldest waiting job."""
RECENT = 900
"""Seconds during which a failed job counts as failed recently."""
_SET = BackendChoice(Backend.RQ, BackendSource.SETTING)


@dataclass(frozen=True, slots=True)
class QueueUse:
    """Who uses the queue at one moment.

    workers: the number of live workers that listen on the queue.
    other: the state of the other backend's queue.
    suspension: the suspension of the workers, if any.
    sample: the ids of up to 100 jobs that wait or (RQ only) have failed.
    """

    workers: int
    other: OtherQueue
    suspension: Suspension | None
    sample: Sequence[str]


@dataclass(frozen=True, slots=True)
class PushRequest:
    """A job to push.

    payload: the arguments of the job; None to push no job, but make sure that none is live.
    is_rescan: the rescan flag of the job.
    was_failed: whether the link was failed before the change that pushes the job.
    disproved: the evidence that the link's waiting job is misplaced: its `STATUS ENQUEUED_AT`;
        otherwise empty. The push replaces a job that is unchanged and still misplaced.
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
    """

    state: JobState
    error_message: str | None = None
    is_delayed: bool = False


class PushRefusedError(Exception):
    """Nothing was pushed, because some of the jobs can't be pushed.

    answers: the states of the jobs that can't be pushed, by job id.
    """

    def __init__(self, answers: Mapping[str, Answer]) -> None:
        super().__init__(answers)
        self.answers = answers


def answers_of_script(job_ids: Sequence[str], replies: Sequence[str]) -> list[Answer]:
    """Parses the replies of a script, one per job. Raises PushRefusedError if one is a refusal."""
    answers, refused = [], {}
    for job_id, reply in zip(job_ids, replies, strict=True):
        word, _, reason = reply.removeprefix("refused ").partition(":")
        error = f"its Redis key does not hold a job: {reason}" if reason else None
        state = JobState.WAITING if word == "delayed" else JobState(word)
        answers.append(Answer(state, error, is_delayed=word == "delayed"))
        if reply.startswith("refused "):
            refused[job_id] = answers[-1]
    if refused:
        raise PushRefusedError(refused)
    return answers


def arguments_of(commands: Sequence[Command]) -> list[str | int | bytes]:
    """Returns arguments of a script: for each command, the number of its words, then the words."""
    return [argument for command in commands for argument in (len(command), *command)]


def first_ids(
    ids_by_status: Iterable[tuple[str, Sequence[str]]], limit: int
) -> tuple[int, list[tuple[str, list[str]]]]:
    """Returns the number of jobs, and up to `limit` of their ids, grouped by status.

    The last status comes first. A job with two statuses counts once, with the later status.

    ids_by_status: the ids, read in the order of the statuses through which a job goes. A job that
        moves during the reads is then seen twice rather than missed.
    """
    statuses: dict[str, str] = {}
    for status, job_ids in reversed(list(ids_by_status)):
        for job_id in job_ids:
            statuses.setdefault(job_id, status)
    first = groupby(islice(statuses, limit), statuses.__getitem__)
    return len(statuses), [(status, list(job_ids)) for status, job_ids in first]


class LinkQueue(ABC):
    """The queue of link jobs. All methods raise RedisError."""

    backend: ClassVar[Backend]
    can_push: ClassVar[bool]
    """If False, Docora's scheduler queues pending links: changes only reset links, `push` queues
    nothing, and docora-ops can neither suspend workers nor remove jobs."""
    to_remove_others: ClassVar[str]
    """The shell command that removes the jobs of the other backend."""
    commands_of_push: ClassVar[Sequence[tuple[str | int, ...]]]
    """The Redis commands that a push needs, with their arguments, but without the key."""
    script_files: ClassVar[Sequence[str]]
    """The Lua files that look at jobs and push them."""
    script_keys: ClassVar[Mapping[str, object]]
    """The keys of the queue, for the script."""
    delayed_key: ClassVar[str]
    """The key of the sorted set of delayed jobs."""
    scores_per_second: ClassVar[int]
    """The score of a delayed job is the Unix time when it is due, times this number."""

    def __init__(
        self,
        settings: Settings,
        client: Redis,
        choice: BackendChoice = _SET,
        signs: Signs | None = None,
    ) -> None:
        """Reads nothing yet.

        choice: why this queue is in use.
        signs: who uses Redis, if that has just been read.
        """
        self._settings, self._client, self._signs = settings, client, signs
        self.choice, self.advice = choice, ADVICE[self.backend]

    @cached_property
    def script(self) -> Script:
        """The script that looks at jobs and pushes them."""
        return Script(self._client, *self.script_files)

    def read_use(self) -> QueueUse:
        """Reads who uses the queue now."""
        vars(self).pop("use", None)
        return self.use

    @cached_property
    def use(self) -> QueueUse:
        """Returns who used the queue at the last `read_use`. The first access reads it, too."""
        with redis_errors(self._client):
            signs, self._signs = self._signs or read_signs(self._client), None
            mine, others = (signs.rq, signs.bullmq) if self.can_push else (signs.bullmq, signs.rq)
            if self.can_push and signs.denial:
                raise signs.denial
            suspension = self._read_suspension()
        state = OtherQueue.LEFT_JOBS if others.jobs else OtherQueue.UNUSED
        if others.is_at_work:
            state = OtherQueue.WORKED_ON
        sample = [text_of(job_id) for job_ids in mine.samples for job_id in job_ids or ()]
        return QueueUse(mine.workers, state, suspension, sample[:SAMPLE])

    @abstractmethod
    def _read_suspension(self) -> Suspension | None:
        """Returns the suspension of the workers, if any. Raises the client's RedisError."""

    @property
    @abstractmethod
    def sweep(self) -> QueueSweep | None:
        """Returns the QueueSweep of this queue; None if only Docora may remove entries."""

    def look(self, job_ids: Sequence[str]) -> list[Answer]:
        """Returns the state of each job according to its own keys; writes nothing."""
        arguments = ["look", json.dumps(self.script_keys), *job_ids]
        return answers_of_script(job_ids, self.script.run(arguments) if job_ids else ())

    @abstractmethod
    def push(
        self,
        requests: Sequence[PushRequest],
        created_at: float,
        *,
        refuses_waiting: bool = False,
        front: bool = False,
        exempts: bool = False,
        changes_links: bool = True,
        commands: Sequence[Command] = (),
    ) -> list[Answer]:
        """Queues all jobs atomically. Returns the state of each job before the push.

        A waiting job keeps its place, unless it is `disproved`. Raises PushRefusedError if any job
        is running or unreadable.

        Call it while the rows of the links are locked in Postgres. Load the script before you lock
        them, because Docora may be waiting for these rows.

        created_at: Unix time by the clock of Redis, the only clock that all processes share.
        refuses_waiting: also raise PushRefusedError if any job waits.
        front: put each new job at the head of the queue, which reverses their order.
        exempts: exempt the jobs from the holds of their apps, if any.
        changes_links: whether the links are changed. If so, waiting jobs get all their tries back,
            and `commands` run even if all jobs already wait.
        commands: Redis commands to run atomically with the push.
        """

    @abstractmethod
    def docora_picks_up(self, status: str, answer: Answer) -> bool:
        """Tells whether Docora itself queues a link with this status and this state of its job.

        If it is unclear which backend is in use, returns True for every link that is not failed.
        """

    @abstractmethod
    def seconds_until_others_forgotten(self) -> int | None:
        """Returns how many seconds Redis would keep the other backend's workers if all died now.

        Returns None if there are no such workers, or if Redis forgets dead workers at once.
        """

    @abstractmethod
    def overview(self, limit: int) -> QueueOverview:
        """Reads the counts, the workers, the scheduler and the first `limit` jobs."""

    def jobs_of_apps(self, app_ids: Sequence[str], limit: int) -> tuple[int, list[QueuedJob]]:
        """Counts the live jobs of these apps, and reads the first `limit` of them."""
        with redis_errors(self._client):
            prefixes = tuple(f"{app_id}-" for app_id in app_ids)
            count, first = first_ids(self._live_ids(prefixes), limit)
            return count, [job for status, ids in first for job in self._read_jobs(ids, status)]

    @abstractmethod
    def _live_ids(self, prefixes: tuple[str, ...]) -> Iterator[tuple[str, list[str]]]:
        """Yields the ids of live jobs with these prefixes, by status, for `first_ids`."""

    def _read_jobs(self, job_ids: Sequence[str], status: str) -> list[QueuedJob]:
        jobs = self._jobs(job_ids, status)
        if status != "delayed":
            return jobs
        pipeline = self._client.pipeline(transaction=False)
        for job_id in job_ids:
            pipeline.zscore(self.delayed_key, job_id)
        return [
            replace(job, due_at=moment_of_timestamp(score / self.scores_per_second))
            if score is not None
            else job
            for job, score in zip(jobs, pipeline.execute(), strict=True)
        ]

    @abstractmethod
    def _jobs(self, job_ids: Sequence[str], status: str) -> list[QueuedJob]:
        """Reads these jobs, which all have this status. Does not set `due_at`."""

    @abstractmethod
    def job(self, job_id: str) -> JobRecord:
        """Reads everything that the queue records of one job."""

    @abstractmethod
    def outcomes(self, which: OutcomeFilter) -> Outcomes:
        """Reads how snapshots ended.

        With BullMQ, which has no record of outcomes, reads the failed jobs that are kept.
        """
