"""The queue that the jobs of links stand in: one shape for RQ and for Docora's own BullMQ."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any, ClassVar, cast

from redis import Redis

from docora_ops.jobs import (
    Backend,
    BackendChoice,
    BackendSource,
    JobRecord,
    JobState,
    OtherQueue,
    QueuedJob,
    QueueHealth,
    QueueOverview,
)
from docora_ops.links import LinkStatus, Outcome, Payload
from docora_ops.queue.audit_stream import AuditEntry
from docora_ops.queue.backend import (
    BULLMQ,
    BULLMQ_PLACES,
    LIST,
    REGISTRIES,
    TO_REMOVE_BULLMQ_JOBS,
    TO_REMOVE_RQ_JOBS,
    bullmq_workers,
    count_rq_workers,
    permitted,
    sees_bullmq_worker,
)
from docora_ops.queue.pair_mark import PAIR_KEY, DatabaseIdentity, encode_mark
from docora_ops.queue.redis_client import (
    Command,
    Script,
    describe,
    redis_errors,
    server_time,
    text_of,
)
from docora_ops.queue.sweep import QueueSweep
from docora_ops.settings import Settings

LAST_SCHEDULE = "docora-ops:schedule"
"""Holds the time of the last pass of `schedule`, in seconds since 1970 by the clock of Redis."""
_PASS_EXPIRY = 7 * 86_400  # seconds


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


class LinkQueue(ABC):
    """The queue that the jobs of links stand in. All calls raise RedisError."""

    backend: ClassVar[Backend]
    can_push: ClassVar[bool] = True
    """False: Docora's scheduler queues pending links, and a change only resets them."""
    is_docoras: ClassVar[bool] = False  # its scheduler queues pending links: a push only looks
    script_files: ClassVar[Sequence[str]]

    def __init__(
        self, settings: Settings, client: Redis, choice: BackendChoice | None = None
    ) -> None:
        self._settings = settings
        self._client = client
        self._script = Script(client, *self.script_files)
        self.mark_to_leave: Mapping[str, Mapping[str, object]] = {}
        self.choice = choice or BackendChoice(self.backend, BackendSource.SETTING)

    def leave_mark(
        self, identity: DatabaseIdentity, who: str, was: str = "", entry: AuditEntry | None = None
    ) -> None:
        """Has the next change leave a mark that names the database.

        was: the text of the mark that it may replace.
        entry: the audit entry, if the database is another one.
        """
        mark: dict[str, object] = {"key": PAIR_KEY, "text": encode_mark(identity, who), "was": was}
        self.mark_to_leave = {"mark": mark | ({"entry": entry} if entry else {})}

    @property
    def where(self) -> str:
        """Host and database of Redis."""
        return describe(self._client)

    @property
    def sweep(self) -> QueueSweep | None:
        """Finds and removes entries of the whole queue. None: the entries are Docora's."""
        return None

    @abstractmethod
    def sample(self, count: int) -> list[str]:
        """Returns the ids of at most `count` jobs that wait or, with RQ, have failed."""

    @abstractmethod
    def look(self, job_ids: Sequence[str]) -> list[Answer]:
        """Returns the state of each job by its own keys; writes nothing."""

    def prepare(self) -> None:
        """Gets ready for pushes, which have rows locked. Costs one round trip."""
        self._script.load()

    @abstractmethod
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

    def keep_pass(self) -> None:
        """Records that a pass of `schedule` has ended now."""
        client = self._client
        with redis_errors(client):
            client.set(LAST_SCHEDULE, int(server_time(client)), ex=_PASS_EXPIRY)

    def docora_picks_up(self, status: str, answer: Answer) -> bool:  # noqa: ARG002
        """Tells whether Docora puts a link with this status and this job to work by itself.

        Where it is unclear which workers run, it may.
        """
        return not self.choice.is_clear and status != LinkStatus.FAILED

    def count_workers(self) -> int:
        """Counts the live workers that listen on the queue."""
        client = self._client
        with redis_errors(client):
            return len(bullmq_workers(client)) if self.is_docoras else count_rq_workers(client)

    def read_other(self) -> OtherQueue:
        """Tells whether the queue of the other backend holds jobs, and whether a worker runs."""
        client = self._client
        with redis_errors(client):
            if self.is_docoras:
                workers = permitted(lambda: count_rq_workers(client))
                jobs = permitted(lambda: client.exists(LIST, REGISTRIES["scheduled"]))
            else:
                workers = sees_bullmq_worker(client)
                jobs = client.exists(*(BULLMQ + name for name in BULLMQ_PLACES[:4]))
        if workers:
            return OtherQueue.WORKED_ON
        return OtherQueue.LEFT_JOBS if jobs else OtherQueue.UNUSED

    def health(self) -> QueueHealth:
        """Reads what `doctor` checks."""
        found, client = self.overview(1), self._client
        first: Sequence[tuple[bytes, float]] = ()
        version = None
        with redis_errors(client):
            if self.is_docoras:
                meta = cast("dict[bytes, bytes]", client.hgetall(f"{BULLMQ}meta"))
                version = text_of(meta.get(b"version", b"")) if meta else None
            else:
                first = cast("Any", client.zrange(REGISTRIES["scheduled"], 0, 0, withscores=True))
            now = server_time(client)
        return QueueHealth(
            waiting=found.waiting,
            oldest_waits_for=found.oldest_waiting_seconds,
            workers=len(found.workers),
            suspension=found.suspension,
            # Our workers, which tell how far off their clock is, queue delayed jobs themselves.
            has_scheduler=found.scheduler is not None
            or any(worker.clock_ahead_seconds is not None for worker in found.workers),
            first_delayed_in=first[0][1] - now if first else None,
            other=self.read_other(),
            lost=found.lost_words,
            live_workers=found.workers,
            to_remove_others=TO_REMOVE_RQ_JOBS if self.is_docoras else TO_REMOVE_BULLMQ_JOBS,
            bullmq_version=version,
            active=found.active,
            delayed=found.delayed,
            last_failed_at=found.last_failed_at,
            oldest_waiting_at=found.oldest_waiting_at,
            last_pass_seconds=found.last_pass_seconds,
            live_runs=found.live_runs,
            last_began_at=found.last_began_at,
        )

    @abstractmethod
    def overview(self, limit: int) -> QueueOverview:
        """Reads the counts, the workers, the scheduler and the first `limit` jobs."""

    def jobs_of_apps(self, app_ids: Sequence[str], limit: int) -> tuple[int, list[QueuedJob]]:
        """Counts the live jobs of these apps, and reads the first `limit` of them."""
        prefixes = tuple(f"{app_id}-" for app_id in app_ids)
        with redis_errors(self._client):
            statuses: dict[str, str] = {}
            for status, ids in reversed(list(self._live_ids(prefixes))):
                for job_id in ids:
                    statuses.setdefault(job_id, status)
            first = list(statuses)[:limit]
            jobs = [
                job
                for status, ids in groupby(first, statuses.__getitem__)
                for job in self._read_jobs(list(ids), status)
            ]
        return len(statuses), jobs

    @abstractmethod
    def _live_ids(self, prefixes: tuple[str, ...]) -> Iterator[tuple[str, list[str]]]:
        """Yields a status, and the ids of jobs that have it and begin with one of the prefixes.

        Goes through the places in the order in which a job passes them: one that moves on meanwhile
        is seen twice rather than not at all. The ids are in the order in which workers take them.
        """

    @abstractmethod
    def _read_jobs(self, job_ids: Sequence[str], status: str) -> list[QueuedJob]:
        """Reads these jobs, which have this status."""

    @abstractmethod
    def job(self, job_id: str) -> JobRecord:
        """Reads all that the queue has of one job."""

    @abstractmethod
    def pages_of_jobs(self) -> Iterator[tuple[list[str], bool]]:
        """Yields the ids of all jobs in pages, and whether they are to be run or have failed."""
