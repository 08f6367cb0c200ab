"""What the commands that only read find: failed links, the queue, everything about one link.

Secrets have been cut out of every text and URL in here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Generic, TypeVar

from docora_ops.models import JobState, LinkRef

Row = TypeVar("Row")


@dataclass(frozen=True)
class Page(Generic[Row]):
    """Some rows of a list that may be long."""

    rows: Sequence[Row]
    number: int
    """Counted from 1."""
    limit: int
    total: int
    """Rows of all pages."""

    @property
    def pages(self) -> int:
        """How many pages there are; an empty list has one."""
        return max(1, -(-self.total // self.limit))


@dataclass(frozen=True, slots=True)
class FailedLink:
    """One failed link, and where its job stands."""

    ref: LinkRef
    app_name: str
    repository: str
    github_url: str
    error: str | None
    error_left_out: int
    """Characters at the end of the error that are left out."""
    retry_count: int
    last_scanned_at: datetime | None
    """The end of the last good scan."""
    created_at: datetime
    circuit_open_until: datetime | None
    job: JobState = JobState.NONE

    @property
    def timestamp(self) -> datetime:
        """What is known to have been good last: when it failed is not recorded."""
        return self.last_scanned_at or self.created_at


@dataclass(frozen=True)
class ErrorGroup:
    """Failed links whose errors differ only in paths, numbers and ids."""

    error: str | None
    """With `*` for what differs; None: no error is recorded."""
    links: int
    apps: int


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


@dataclass(frozen=True)
class Snapshot:
    """The last scan of a repository."""

    commit_sha: str
    branch: str
    scanned_at: datetime | None
    files: int


@dataclass(frozen=True)
class LinkHistory:
    """What the tables have of a link, beyond what its job needs."""

    created_at: datetime
    last_scanned_at: datetime | None
    consecutive_failures: int
    delivered_files: int
    last_delivered_at: datetime | None
    snapshot: Snapshot | None


@dataclass(frozen=True)
class LinkDetails:
    """Everything about one link."""

    ref: LinkRef
    app_name: str
    base_url: str
    repository: str
    github_url: str
    has_token: bool
    status: str
    error: str | None
    retry_count: int
    circuit_open_until: datetime | None
    history: LinkHistory
    lock_is_held: bool
    """A worker holds the link in Postgres."""
    state: JobState
    job: JobRecord


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
