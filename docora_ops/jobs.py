"""Jobs of links, and the queue that they stand in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from docora_ops.text import duration

QUEUE_NAME = "snapshot-queue"  # in RQ and in BullMQ
BULLMQ_PREFIX = "bull"  # begins BullMQ's keys
RECENT = 900  # seconds whose ends of jobs a screen tells
JOB_FUNCTION = "docora_ops.worker.snapshot"  # RQ's workers call it for each job


class Backend(StrEnum):
    """The library that keeps the queue of snapshot jobs."""

    RQ = "rq"
    BULLMQ = "bullmq"  # Docora's own


class BackendSource(StrEnum):
    """The evidence for the choice of a backend."""

    SETTING = "setting"  # DOCORA_OPS_BACKEND
    WORKERS = "workers"
    TRACES = "traces"  # keys of one queue, and none of the other
    DEFAULT = "default"  # neither workers nor traces
    UNCLEAR = "unclear"


@dataclass(frozen=True)
class BackendChoice:
    """The backend that a command works with, and why."""

    backend: Backend
    source: BackendSource
    why: str = ""
    first: str = ""  # words before the advice to set the variable, where it is unclear

    @property
    def is_clear(self) -> bool:
        """Tells whether it is known which workers run the jobs."""
        return self.source is not BackendSource.UNCLEAR

    @property
    def sentence(self) -> str:
        """Returns what was found out; `source` must not be SETTING."""
        found = f": using {self.backend}, as {self.why}" if self.is_clear else f", and {self.why}"
        return f"DOCORA_OPS_BACKEND is not set{found}"

    @property
    def to_set(self) -> str:
        """Returns what to do if the backend is unclear."""
        return f"{self.first}set DOCORA_OPS_BACKEND to rq or bullmq: see docora-ops help workers"


@dataclass(frozen=True)
class Advice:
    """The sentences about one backend."""

    to_start_workers: str
    to_resume: str  # suspended workers
    only_others: str  # only workers of the other backend run
    to_switch: str  # to the other backend
    others_beside: str  # workers of both backends run
    to_stop_others: str


ADVICE: Mapping[Backend, Advice] = {
    Backend.RQ: Advice(
        to_start_workers="docora-ops worker",
        to_resume="docora-ops resume",
        only_others="this Docora runs BullMQ workers, and no RQ worker",
        to_switch="set DOCORA_OPS_BACKEND=bullmq",
        others_beside="a BullMQ worker of Docora runs beside the RQ queue: "
        "each link may be worked on twice",
        to_stop_others="run Docora with RUN_MODE=api",
    ),
    Backend.BULLMQ: Advice(
        to_start_workers="run Docora with RUN_MODE=all or worker",
        to_resume="see docora-ops help workers",
        only_others="workers of RQ listen on the queue, and none of BullMQ",
        to_switch="set DOCORA_OPS_BACKEND=rq",
        others_beside="a worker of RQ runs beside Docora's own: each link may be worked on twice",
        to_stop_others="stop the workers of RQ",
    ),
}


class JobState(StrEnum):
    """The state of a link's job, by the job's own keys."""

    NONE = "none"
    FINISHED = "finished"
    STALE = "stale"  # remains of a job that failed, was stopped or was abandoned
    WAITING = "waiting"
    RUNNING = "running"  # with RQ while the key of an execution lives, whatever its status says
    UNREADABLE = "unreadable"  # the job's key holds something else

    @property
    def is_live(self) -> bool:
        """Tells whether the job waits or runs."""
        return self in {JobState.WAITING, JobState.RUNNING}

    @property
    def is_over(self) -> bool:
        """Tells whether there is no job, or only the remains of one."""
        return self in {JobState.NONE, JobState.FINISHED, JobState.STALE}


@dataclass(frozen=True)
class QueuedJob:
    """A live job. None: the queue does not tell a field."""

    job_id: str
    status: str  # `active`, `waiting` or `delayed`
    name: str | None  # of the function that it calls
    app_id: str | None
    app_name: str | None
    repository_id: str | None
    repository_name: str | None
    created_at: datetime | None
    processed_at: datetime | None
    enqueued_at: datetime | None
    due_at: datetime | None = None  # of a delayed job


class NoJobCode(StrEnum):
    """Why a worker takes no job, for scripts."""

    SUSPENDED = "suspended"
    WRONG_CLOCK = "wrong_clock"
    WRONG_BACKEND = "wrong_backend"  # a BullMQ worker runs beside
    POSTGRES = "postgres"
    WRONG_KEY = "wrong_key"
    WRONG_PAIR = "wrong_pair"  # Redis belongs to another database
    HOST = "host"
    UNKNOWN = "unknown"  # to this version


@dataclass(frozen=True)
class NoJobReason:
    """Why a worker takes no job: by its own word, or by its state if it leaves no word."""

    code: NoJobCode
    message: str  # in a few words, such as `clock 3,600 s ahead`
    hint: str | None = None


@dataclass(frozen=True)
class Worker:
    """A live worker of the queue."""

    name: str
    state: str | None
    hostname: str | None
    pid: int | None
    last_heartbeat_at: datetime | None
    jobs: Sequence[QueuedJob]  # the jobs that it runs
    silent_seconds: int | None = None  # since the last heartbeat, if it has missed one
    clock_ahead_seconds: int | None = None  # of its host's clock, ahead of Redis's
    no_job_reason: NoJobReason | None = None  # None: takes jobs
    may_compare: bool = True  # False: its user may not read which database Redis belongs to


@dataclass(frozen=True)
class Refusal:
    """The workers that take no job, and why."""

    words: str  # such as `none takes jobs: clock 3,600 s ahead`
    is_total: bool  # no worker takes jobs
    troubles: Sequence[NoJobReason]  # one for each code but `suspended`, which somebody has ordered


def refusal_of(workers: Sequence[Worker]) -> Refusal | None:
    """Returns what is known of the workers that take no job, None if all of these take jobs."""
    found = [each.no_job_reason for each in workers if each.no_job_reason is not None]
    if not found:
        return None
    # Two workers of one host may measure its clock differently by a second.
    reasons = list({reason.code: reason for reason in reversed(found)}.values())[::-1]
    is_total = len(found) == len(workers)
    if is_total:
        count = "takes no job" if len(found) == 1 else "none takes jobs"
    else:
        count = "1 takes no job" if len(found) == 1 else f"{len(found)} take no job"
    messages = "; ".join(reason.message for reason in reasons)
    troubles = [each for each in reasons if each.code is not NoJobCode.SUSPENDED]
    return Refusal(f"{count}: {messages}", is_total, troubles)


def silence_of(workers: Sequence[Worker]) -> str | None:
    """Returns `last heartbeat 75 s ago` if these workers have missed heartbeats, else None."""
    silent = [each.silent_seconds for each in workers if each.silent_seconds is not None]
    if not silent:
        return None
    ago = f"last heartbeat {duration(min(silent))} ago"
    return ago if len(silent) == len(workers) else f"{len(silent)} of them: {ago}"


def lost_words(workers: Sequence[Worker], killed: Sequence[str]) -> str | None:
    """Returns `w1 is gone` and the silence of live workers; None if nothing is wrong.

    killed: the names of workers that are known to be dead.
    """
    gone = f"{killed[0]} is gone" if len(killed) == 1 else f"{len(killed)} are gone"
    return "; ".join(filter(None, (silence_of(workers), gone if killed else None))) or None


@dataclass(frozen=True)
class Scheduler:
    """The process that queues delayed jobs when they are due."""

    name: str
    hostname: str | None
    pid: int | None
    last_heartbeat_at: datetime | None


@dataclass(frozen=True)
class AnyWorker:
    """A live worker of any queue of this Redis."""

    name: str
    state: str | None
    queues: Sequence[str]


@dataclass(frozen=True)
class Suspension:
    """A suspension of workers: with RQ, of all workers of this Redis. None: unknown, or no end."""

    suspended_at: datetime | None
    ends_at: datetime | None
    remaining_seconds: int | None  # by the clock of Redis
    who: str | None
    reason: str | None

    @property
    def sentence(self) -> str:
        """Returns `workers are suspended by kim@ops1 for another 5 s: REASON`, as far as known."""
        seconds = self.remaining_seconds
        who = f" by {self.who}" if self.who else ""
        left = "" if seconds is None else f" for another {duration(seconds)}"
        reason = f": {self.reason}" if self.reason else ""
        return f"workers are suspended{who}{left}{reason}"


@dataclass(frozen=True)
class QueueOverview:
    """The queue at one moment."""

    backend: Backend
    waiting: int
    active: int
    completed_jobs: int
    failed_jobs: int
    delayed: int
    queue_name: str
    oldest_waiting_at: datetime | None
    oldest_waiting_seconds: int | None  # by the clock of Redis
    suspended: bool  # workers take no jobs
    suspension: Suspension | None
    workers: Sequence[Worker]
    scheduler: Scheduler | None
    jobs: Sequence[QueuedJob]  # the first ones: running, then waiting, then delayed
    last_failed_at: datetime | None  # the last end of the failed jobs that the queue still keeps
    last_pass_at: datetime | None = None  # of `docora-ops schedule`, with RQ
    last_pass_seconds: int | None = None  # since then, by the clock of Redis
    backend_source: BackendSource = BackendSource.SETTING
    # Jobs that failed in the last 15 minutes, at least: one that is queued again is not counted.
    failed_recently: int = 0
    live_runs: int = 0  # running jobs whose worker still shows that it is alive
    last_began_at: datetime | None = None  # the last begin that the jobs at hand still tell
    killed_workers: Sequence[str] = ()  # the names of those that are known to be dead
    jobs_of_apps: int | None = None  # live jobs of the chosen apps, the only ones in `jobs`

    @property
    def lost_words(self) -> str | None:
        """Says which workers are gone or have missed heartbeats; None if all are well."""
        return lost_words(self.workers, self.killed_workers)

    @property
    def unfinished(self) -> int:
        """Counts the jobs that are still to be done."""
        return self.waiting + self.active + self.delayed


MOST_SEARCHED = 10_000
"""Places at the head of a list that are searched for a job: a longer search would block Redis."""


@dataclass(frozen=True)
class JobPlace:
    """A place in the queue that holds the id of a job."""

    where: str  # `list`, `intermediate`, `execution`, or the name of a registry
    queue_name: str
    position: int | None = None  # in a list, counted from 1
    score_at: datetime | None = None  # when it is due, was put there, or expires
    alive: bool | None = None  # of an execution: its heartbeat has not expired
    worker: str | None = None  # of an execution


@dataclass(frozen=True)
class JobFailure:
    """The failure of one try of a job."""

    failed_at: datetime | None
    worker: str | None
    text: str  # the last lines of the traceback


@dataclass(frozen=True)
class JobRecord:
    """The queue's record of one job. Each field is None if it is not known, or there is no job."""

    status: str | None
    origin: str | None
    created_at: datetime | None
    enqueued_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    attempts: int | None  # tries so far; RQ does not count them
    retries_left: int | None
    worker: str | None
    expires_in: int | None  # seconds until it is deleted, if ever
    places: Sequence[JobPlace]
    last_failure: JobFailure | None


class OtherQueue(StrEnum):
    """The state of the queue of the other backend, which should not be in use."""

    UNUSED = "unused"
    LEFT_JOBS = "left_jobs"  # jobs wait, and no worker runs to take them
    WORKED_ON = "worked_on"  # a worker runs


def when_docora_queues(workers: int, scan_interval: str) -> str:
    """Returns when Docora's scheduler queues a link; `workers`: those of BullMQ."""
    return f"within {scan_interval}" if workers else "once a worker of Docora runs"


@dataclass(frozen=True)
class QueueHealth:
    """The state of the queue. Unknown values are None."""

    waiting: int
    oldest_waits_for: float | None  # seconds since the oldest of the first jobs was queued
    workers: int
    suspension: Suspension | None
    has_scheduler: bool = True
    first_delayed_in: float | None = None  # seconds until it is due, below 0 if it is overdue
    other: OtherQueue = OtherQueue.UNUSED
    lost: str | None = None  # which workers are gone or have missed heartbeats
    live_workers: Sequence[Worker] = ()  # of RQ
    to_remove_others: str = ""  # the shell command that removes the jobs of the other backend
    bullmq_version: str | None = None  # empty if the queue's metadata does not name it
    active: int = 0  # jobs of BullMQ
    delayed: int = 0  # jobs of BullMQ
    last_failed_at: datetime | None = None
    oldest_waiting_at: datetime | None = None
    last_pass_seconds: int | None = None  # since the last pass of `docora-ops schedule`
    live_runs: int = 0
    last_began_at: datetime | None = None

    @property
    def has_only_others(self) -> bool:
        """Tells whether only workers of the other backend run."""
        return not self.workers and self.other is OtherQueue.WORKED_ON
