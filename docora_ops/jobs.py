"""Jobs of links, and the RQ queue that they stand in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from docora_ops.links import Outcome


class JobState(StrEnum):
    """Where the job of a link stands in the queue.

    `NONE`: no job, or only a dead leftover, which a detailed look calls `STALE`. `DOUBTFUL`:
    `queued` yet in no list, so either an orphan or just now in a worker's hand. `UNREADABLE`: the
    job's key holds something else.
    """

    NONE = "none"
    STALE = "stale"
    WAITING = "waiting"
    RUNNING = "running"
    DOUBTFUL = "doubtful"
    UNREADABLE = "unreadable"


PLANNED_OUTCOMES = {
    JobState.NONE: Outcome.QUEUED,
    JobState.STALE: Outcome.REPLACED_STALE,
    JobState.WAITING: Outcome.ALREADY_QUEUED,
}
"""What a push would do, by the state that a detailed look finds."""


@dataclass(frozen=True)
class QueuedJob:
    """One job that runs or is going to. What is None, the queue does not say."""

    id: str
    status: str
    """`active`, `waiting` or `delayed`."""
    name: str | None
    """The function that it calls."""
    app_name: str | None
    repository: str | None
    created_at: datetime | None
    enqueued_at: datetime | None
    started_at: datetime | None
    due_at: datetime | None = None
    """Of a delayed one."""


@dataclass(frozen=True)
class Worker:
    """One process that has said that it listens on the queue."""

    name: str
    state: str | None
    hostname: str | None
    pid: str | None
    last_heartbeat: datetime | None
    alive: bool
    """False: it was killed, and what it has recorded of itself is gone."""
    jobs: Sequence[QueuedJob]
    """What it is at work on."""


@dataclass(frozen=True)
class Scheduler:
    """The process that queues delayed jobs when they are due."""

    name: str
    hostname: str | None
    pid: str | None
    last_heartbeat: datetime | None


@dataclass(frozen=True)
class QueueOverview:
    """The queue at one moment."""

    queue: str
    waiting: int
    active: int
    completed: int
    failed: int
    delayed: int
    seen_at: datetime
    """By the clock of Redis."""
    oldest_waiting_at: datetime | None
    workers: Sequence[Worker]
    scheduler: Scheduler | None
    jobs: Sequence[QueuedJob]
    """The first of those that run, wait and are delayed, in this order."""

    @property
    def oldest_waiting_seconds(self) -> int | None:
        """How long the oldest of the jobs that are next has waited."""
        if self.oldest_waiting_at is None:
            return None
        return max(0, int((self.seen_at - self.oldest_waiting_at).total_seconds()))


@dataclass(frozen=True)
class JobPlace:
    """One place in RQ where the id of a job stands."""

    where: str
    """`list`, `intermediate`, `execution`, or the name of a registry."""
    queue: str
    position: int | None = None
    """In a list, from its head, counted from 1."""
    at: datetime | None = None
    """The time that stands beside it: when it is due, was put there, or expires."""
    alive: bool | None = None
    """Of an execution: whether its heartbeat has not expired."""
    worker: str | None = None
    """Of an execution."""


@dataclass(frozen=True)
class JobFailure:
    """How a try of a job ended."""

    at: datetime | None
    worker: str | None
    text: str
    """The last lines of its traceback."""


@dataclass(frozen=True)
class JobRecord:
    """What RQ has of one job. All None where there is no job."""

    id: str
    status: str | None
    origin: str | None
    created_at: datetime | None
    enqueued_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    retries_left: int | None
    worker: str | None
    expires_in: int | None
    """Seconds that it is kept, if not for good."""
    places: Sequence[JobPlace]
    last_failure: JobFailure | None


class BullmqQueue(StrEnum):
    """The state of Docora's own queue, which BullMQ keeps."""

    UNUSED = "unused"
    LEFT_JOBS = "left_jobs"
    """Jobs wait for a BullMQ worker, and none runs: the dashboard leaves some."""
    WORKED_ON = "worked_on"
    """A BullMQ worker runs: each link may be worked on twice."""


@dataclass(frozen=True)
class Surroundings:
    """The workers of the RQ queue, and the state of the BullMQ queue."""

    workers: int
    """Live workers that listen on the queue."""
    bullmq: BullmqQueue
