"""The jobs of links, the queue and its workers."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from docora_ops.links import link_name
from docora_ops.text import duration, to_minute

QUEUE_NAME = "snapshot-queue"  # in RQ and in BullMQ
_LONG = 10  # seconds; most jobs wait and run for less
_WEEK = timedelta(days=7)


class Backend(StrEnum):
    """The library that keeps the queue of snapshot jobs."""

    RQ = "rq"
    BULLMQ = "bullmq"  # Docora's own


class BackendSource(StrEnum):
    """The evidence for the choice of a backend."""

    SETTING = "setting"  # DOCORA_OPS_BACKEND
    WORKERS = "workers"
    TRACES = "traces"  # keys of only one queue exist
    DEFAULT = "default"  # neither workers nor traces
    UNCLEAR = "unclear"


@dataclass(frozen=True)
class BackendChoice:
    """The backend that a command works with, and why."""

    backend: Backend
    source: BackendSource
    why: str = ""
    first: str = ""  # what to do before setting the variable, if the choice is unclear

    @property
    def is_clear(self) -> bool:
        """Tells whether it is known which backend is in use: RQ's or BullMQ's."""
        return self.source is not BackendSource.UNCLEAR

    @property
    def sentence(self) -> str:
        """Says which backend is in use, and why; `source` must not be SETTING."""
        why = f": using {self.backend}, as {self.why}" if self.is_clear else f", and {self.why}"
        return f"DOCORA_OPS_BACKEND is not set{why}"

    @property
    def to_set(self) -> str:
        """Says what to do if the backend is unclear."""
        return f"{self.first}set DOCORA_OPS_BACKEND to rq or bullmq: see docora-ops help workers"


@dataclass(frozen=True)
class Advice:
    """Sentences and hints about one backend."""

    to_start_workers: str
    to_resume: str  # suspended workers
    only_others: str  # only workers of the other backend run
    to_switch: str  # to the other backend
    others_beside: str  # workers of both backends run
    to_stop_others: str
    no_worker: str
    no_worker_short: str
    others_left_jobs: str  # the other queue has jobs, but no worker; empty if that is harmless
    to_drop_jobs: str  # of deleted links
    to_queue_behind_circuit: str  # pending links with an open circuit; empty if none is held back


ADVICE: Mapping[Backend, Advice] = {
    Backend.RQ: Advice(
        to_start_workers="docora-ops worker",
        to_resume="docora-ops resume",
        only_others="this Docora runs BullMQ workers, and no RQ worker",
        to_switch="set DOCORA_OPS_BACKEND=bullmq",
        others_beside="a BullMQ worker of Docora runs beside the RQ queue: "
        "each link may be worked on twice",
        to_stop_others="run Docora with RUN_MODE=api",
        no_worker=f"no worker listens on the queue {QUEUE_NAME}",
        no_worker_short="none",
        others_left_jobs="Docora's BullMQ queue holds jobs, and no BullMQ worker runs to take "
        "them: docora-ops schedule, run each minute, queues their links; docora-ops doctor has the "
        "command that removes the jobs",
        to_drop_jobs=f"let a worker take them (failed ones after rq requeue --all -q {QUEUE_NAME})",
        to_queue_behind_circuit="",
    ),
    Backend.BULLMQ: Advice(
        to_start_workers="run Docora with RUN_MODE=all or worker",
        to_resume="see docora-ops help workers",
        only_others="workers of RQ listen on the queue, and none of BullMQ",
        to_switch="set DOCORA_OPS_BACKEND=rq",
        others_beside="a worker of RQ runs beside Docora's own: each link may be worked on twice",
        to_stop_others="stop the workers of RQ",
        no_worker="no BullMQ worker is seen",
        no_worker_short="none seen",
        others_left_jobs="",
        to_drop_jobs="wait until Docora's workers have taken these jobs",
        to_queue_behind_circuit="docora-ops retry-all-failed --reset-circuit",
    ),
}


class JobState(StrEnum):
    """The state of a link's job, according to the job's own keys."""

    NONE = "none"
    FINISHED = "finished"
    STALE = "stale"  # remains of a job that failed, was stopped or was abandoned
    WAITING = "waiting"
    RUNNING = "running"  # with RQ, while the key of an execution exists, regardless of the status
    UNREADABLE = "unreadable"  # the job's key holds anything but a job

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
    """A live job. Fields that the queue does not record are None.

    files_sent, files_total: None until a running job knows which files to send. BullMQ's workers
        and older versions of docora-ops do not report them.
    error_message: the error of a delayed job's last try, from Postgres.
    """

    job_id: str
    status: str  # `active`, `waiting` or `delayed`
    name: str | None  # the function that it calls
    app_id: str | None
    app_name: str | None
    repository_id: str | None
    repository_name: str | None
    created_at: datetime | None
    processed_at: datetime | None
    enqueued_at: datetime | None
    due_at: datetime | None = None  # of a delayed job
    files_sent: int | None = None
    files_total: int | None = None
    error_message: str | None = None

    def seconds_in_state(self, now: datetime | None) -> int | None:
        """Returns how many seconds the job has run or waited; None if unknown."""
        since = self.processed_at if self.status == "active" else self.enqueued_at
        return max(0, int((now - since).total_seconds())) if now and since else None

    @property
    def files_words(self) -> str | None:
        """Returns how many files a running job has sent: `2,311 of 60,000`; None if unknown."""
        if self.files_sent is None or self.files_total is None:
            return None
        return f"{self.files_sent:,} of {self.files_total:,}"


def longest_wait(waiting: Sequence[QueuedJob], now: float) -> tuple[datetime | None, int | None]:
    """Returns when the oldest of the waiting jobs was queued, and how many seconds ago.

    now: Unix time by the clock of Redis.
    """
    oldest = min(filter(None, (job.enqueued_at for job in waiting)), default=None)
    return oldest, max(0, int(now - oldest.timestamp())) if oldest else None


class NoJobCode(StrEnum):
    """Why a worker takes no job, for scripts."""

    SUSPENDED = "suspended"
    WRONG_CLOCK = "wrong_clock"
    WRONG_BACKEND = "wrong_backend"  # a BullMQ worker is also running
    POSTGRES = "postgres"
    WRONG_KEY = "wrong_key"
    HOST = "host"
    UNKNOWN = "unknown"  # a reason unknown to this version


@dataclass(frozen=True)
class NoJobReason:
    """Why a worker takes no job, as reported. RQ's own workers report only a suspension."""

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
    clock_ahead_seconds: int | None = None  # of its host's clock, compared with Redis's
    no_job_reason: NoJobReason | None = None  # None if it takes jobs
    may_record: bool = True  # whether its user may write the record of outcomes
    obeys_holds: bool = False  # whether it leaves the jobs of held apps alone

    @property
    def may_be_dead(self) -> bool:
        """Tells whether a worker of docora-ops is silent.

        RQ's own workers, which do not report their clock, may miss a heartbeat while they work.
        """
        return self.silent_seconds is not None and self.clock_ahead_seconds is not None


@dataclass(frozen=True)
class NoJobSummary:
    """The workers that take no job, and why."""

    words: str  # such as `none takes jobs: clock 3,600 s ahead`
    is_total: bool  # no worker takes jobs
    troubles: Sequence[NoJobReason]  # one for each code except `suspended`, which is intended


def refusal_of(workers: Sequence[Worker]) -> NoJobSummary | None:
    """Summarizes the workers that take no job; returns None if all take jobs."""
    known = [worker.no_job_reason for worker in workers if worker.no_job_reason is not None]
    if not known:
        return None
    # One reason for each code: workers of one host may measure its clock a second apart.
    reasons = list({reason.code: reason for reason in reversed(known)}.values())[::-1]
    is_total = len(known) == len(workers)
    if is_total:
        count = "takes no job" if len(known) == 1 else "none takes jobs"
    else:
        count = "1 takes no job" if len(known) == 1 else f"{len(known)} take no job"
    messages = "; ".join(reason.message for reason in reasons)
    troubles = [reason for reason in reasons if reason.code is not NoJobCode.SUSPENDED]
    return NoJobSummary(f"{count}: {messages}", is_total, troubles)


@dataclass(frozen=True)
class AnyWorker:
    """A live worker of any queue in this Redis."""

    name: str
    state: str | None
    queues: Sequence[str]


@dataclass(frozen=True)
class Suspension:
    """A suspension of workers (with RQ, of all workers of this Redis). Unknown fields are None.

    ends_at, remaining_seconds: also None if the suspension has no end.
    """

    suspended_at: datetime | None
    ends_at: datetime | None
    remaining_seconds: int | None  # by the clock of Redis
    who: str | None
    reason: str | None

    @property
    def sentence(self) -> str:
        """Returns `workers are suspended by kim@ops1 for another 5s: REASON`, as far as known."""
        seconds = self.remaining_seconds
        who = f" by {self.who}" if self.who else ""
        left = "" if seconds is None else f" for another {duration(seconds)}"
        reason = f": {self.reason}" if self.reason else ""
        return f"workers are suspended{who}{left}{reason}"


@dataclass(frozen=True)
class Hold:
    """A hold of one app: no worker takes its jobs. Times are by the clock of Redis.

    until_at: None if only `release` ends the hold.
    """

    since_at: datetime | None
    until_at: datetime | None
    who: str
    reason: str | None

    def is_forgotten(self, now: datetime) -> bool:
        """Tells whether a hold without an end has lasted for over a week.

        Also true if its beginning is unknown, because its entry in Redis can't be read.
        """
        return not self.until_at and (self.since_at is None or now - self.since_at > _WEEK)

    @property
    def until(self) -> str:
        """Returns when the hold ends: `2026-12-01T08:00Z`, or `for ever`."""
        return to_minute(self.until_at) if self.until_at else "for ever"

    @property
    def by(self) -> str:
        """Returns `kim@ops1: REASON`."""
        return f"{self.who}: {self.reason}" if self.reason else self.who

    @property
    def words(self) -> str:
        """Returns `by kim@ops1 until 2026-12-01T08:00Z: REASON`."""
        until = f"until {self.until}" if self.until_at else self.until
        return f"by {self.who} {until}" + (f": {self.reason}" if self.reason else "")

    @property
    def sentence(self) -> str:
        """Returns `held by kim@ops1 until 2026-12-01T08:00Z: REASON`."""
        return f"held {self.words}"


@dataclass(frozen=True)
class HeldApp:
    """A held app. `app_name`: None if the app is gone, or if its name was not read."""

    app_id: str
    app_name: str | None
    held: Hold


class OtherQueue(StrEnum):
    """The state of the queue of the other backend, which should not be in use."""

    UNUSED = "unused"
    LEFT_JOBS = "left_jobs"  # jobs wait, but no worker runs
    WORKED_ON = "worked_on"  # a worker runs


@dataclass(frozen=True)
class QueueOverview:
    """The queue at one moment."""

    backend: Backend
    waiting: int
    active: int
    completed_jobs: int
    failed_jobs: int
    delayed: int
    oldest_waiting_at: datetime | None  # of the jobs of apps that are not held
    oldest_waiting_seconds: int | None  # by the clock of Redis
    suspended: bool  # workers take no jobs
    suspension: Suspension | None
    other_queue: OtherQueue
    workers: Sequence[Worker]
    scheduler: str | None  # the process of RQ that queues delayed jobs when they are due
    jobs: Sequence[QueuedJob]  # the first jobs: running, then waiting, then delayed
    first_due_at: datetime | None  # of the delayed jobs
    last_failed_at: datetime | None  # the latest end of a failed job that the queue still keeps
    last_pass_at: datetime | None = None  # the last pass of `docora-ops schedule`, with RQ
    last_pass_seconds: int | None = None  # since then, by the clock of Redis
    backend_source: BackendSource = BackendSource.SETTING
    # A lower bound of the jobs that failed in the last 15 minutes: jobs queued again do not count.
    failed_recently: int = 0
    live_runs: int = 0  # running jobs whose worker is still alive
    last_began_at: datetime | None = None  # the latest start of a job that the queue still keeps
    killed_workers: Sequence[str] = ()  # names of workers known to be dead
    held: Sequence[HeldApp] = ()
    jobs_of_apps: int | None = None  # live jobs of the chosen apps, to which `jobs` is limited
    read_at: datetime | None = None  # by the clock of Redis
    bullmq_version: str | None = None  # empty if the BullMQ queue's metadata does not name it

    @property
    def has_only_others(self) -> bool:
        """Tells whether only workers of the other backend run."""
        return not self.workers and self.other_queue is OtherQueue.WORKED_ON

    @property
    def lost_words(self) -> str | None:
        """Says which workers are silent or gone: `last heartbeat 1m15s ago; w1 is gone`.

        Returns None if no worker is silent or gone.
        """
        silences = (worker.silent_seconds for worker in self.workers)
        silent = [seconds for seconds in silences if seconds is not None]
        words = []
        if silent:
            of_them = "" if len(silent) == len(self.workers) else f"{len(silent)} of them: "
            words.append(f"{of_them}last heartbeat {duration(min(silent))} ago")
        if killed := self.killed_workers:
            words.append(f"{killed[0]} is gone" if len(killed) == 1 else f"{len(killed)} are gone")
        return "; ".join(words) or None

    @property
    def has_scheduler(self) -> bool:
        """Tells whether anything queues RQ's delayed jobs when they are due.

        RQ's scheduler and each worker of docora-ops do so.
        """
        # Only workers of docora-ops report their clock.
        ours = any(worker.clock_ahead_seconds is not None for worker in self.workers)
        return ours or self.scheduler is not None

    @property
    def recovers_links(self) -> bool:
        """Tells whether a live worker of docora-ops recovers the links of killed workers.

        Suspended workers recover links, too.
        """
        return any(
            worker.clock_ahead_seconds is not None
            and worker.silent_seconds is None
            and (not worker.no_job_reason or worker.no_job_reason.code is NoJobCode.SUSPENDED)
            for worker in self.workers
        )

    @property
    def spare_slots(self) -> int:
        """Counts the idle workers if a job has waited for at least 10 s.

        The workers leave the job because its app already has its full share. They take any other
        job within a second or two.
        """
        if (self.oldest_waiting_seconds or 0) < _LONG:
            return 0
        takers = [worker for worker in self.workers if worker.no_job_reason is None]
        idle = [worker for worker in takers if worker.state == "idle" and worker.obeys_holds]
        return sum(worker.silent_seconds is None for worker in idle)

    @property
    def takes_jobs(self) -> bool:
        """Tells whether a worker takes jobs. Silent workers of docora-ops do not count."""
        takers = [worker for worker in self.workers if worker.no_job_reason is None]
        return not all(worker.may_be_dead for worker in takers)

    @property
    def is_idle(self) -> bool:
        """Tells whether RQ workers take jobs, but no job waits or runs.

        If so, the workers wait for a pass of `schedule`.
        """
        has_jobs = self.waiting or self.active
        return self.backend is Backend.RQ and self.takes_jobs and not has_jobs

    @property
    def unfinished(self) -> int:
        """Counts the jobs that have not ended."""
        return self.waiting + self.active + self.delayed


@dataclass(frozen=True)
class Backlog:
    """The jobs of one repository or app that keep workers busy while other jobs wait.

    name: the repository, the app or, for a single job, the link.
    """

    name: str
    jobs: int
    seconds: int  # since the oldest of these jobs began
    files: str | None  # `files_words` of that job
    workers: int
    waiting: int

    @property
    def sentence(self) -> str:
        """Returns `2 of 2 workers on big/huge for 3m (2,311 of 60,000 files); 44 wait`."""
        files = f" ({self.files} files)" if self.files else ""
        wait = "1 waits" if self.waiting == 1 else f"{self.waiting:,} wait"
        on = f"{self.jobs} of {self.workers} workers on {self.name}"
        return f"{on} for {duration(self.seconds)}{files}; {wait}"


def backlog_of(queue: QueueOverview) -> Backlog | None:
    """Summarizes the long jobs, which have run for at least 10 s.

    Names the repository with the most long jobs, unless an app has more; then names the app.

    Leaves out silent workers: the job of a killed worker is no cause.

    Returns None if there is no long job, if no other job has waited for 10 s, or with BullMQ, whose
    jobs do not name their workers.
    """
    if not queue.waiting or (queue.oldest_waiting_seconds or 0) < _LONG:
        return None
    workers = [worker for worker in queue.workers if worker.silent_seconds is None]
    running = [job for worker in workers for job in worker.jobs]
    ages = {job: job.seconds_in_state(queue.read_at) or 0 for job in running}
    long = sorted((job for job in running if ages[job] >= _LONG), key=ages.__getitem__)[::-1]
    if not long:
        return None
    repositories = Counter(job.repository_name or job.job_id for job in long)
    apps = Counter(job.app_name or job.job_id for job in long)
    name, count = repositories.most_common(1)[0]
    of_name = [job for job in long if name in {job.repository_name, job.job_id}]
    if apps.most_common(1)[0][1] > count:
        name, count = apps.most_common(1)[0]
        of_name = [job for job in long if job.app_name == name]
    first = of_name[0]
    if count == 1 and first.app_name and first.repository_name:
        name = link_name(first.app_name, first.repository_name)
    return Backlog(name, count, ages[first], first.files_words, len(workers), queue.waiting)


@dataclass(frozen=True)
class JobPlace:
    """A place in the queue that holds the id of a job."""

    where: str  # `list`, `intermediate`, `execution`, or the name of a registry
    position: int | None = None  # in a list, counted from 1
    score_at: datetime | None = None  # the score: when the entry is due, was added, or expires
    alive: bool | None = None  # for an execution: whether its heartbeat has not expired
    worker: str | None = None  # for an execution


@dataclass(frozen=True)
class JobFailure:
    """The failure of one try of a job, without secrets."""

    failed_at: datetime | None
    worker: str | None
    text: str  # with RQ, the last lines of the traceback
    error_message: str  # the line of `text` that names the error


@dataclass(frozen=True)
class JobRecord:
    """The queue's record of one job.

    Fields other than `places` are None if they are unknown, or if there is no job.
    """

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


class JobEnd(StrEnum):
    """Possible ends of a snapshot job."""

    SYNCED = "synced"
    FAILED = "failed"  # the last try failed, so the link is failed
    FAILED_AGAIN = "failed_again"  # as FAILED, but the link was failed before it was queued
    TRIED_AGAIN = "tried_again"  # this try failed; the next one follows
    CUT_OFF = "cut_off"  # by a signal or a fault of the host: queued again, no failure counted
    HELD = "held"  # stopped by the hold of its app: queued again, no failure counted
    WAITS = "waits"  # for another job that fetches the repository: queued again, not recorded
    NOTHING_TO_DO = "nothing_to_do"  # the link or its app is gone, or another job is at work on it


def when_docora_queues(workers: int, scan_interval: str) -> str:
    """Says when Docora's scheduler queues a link. `workers`: the number of BullMQ workers."""
    return f"within {scan_interval}" if workers else "once a worker of Docora runs"
