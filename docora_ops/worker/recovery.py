"""Updates the links of jobs that were cut off or killed."""

from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import datetime

from redis.client import Pipeline
from rq.job import Job

from docora_ops.actions.change import CUT_OFF
from docora_ops.actions.repairs import STUCK_ERROR, recover_abandoned
from docora_ops.database import Database
from docora_ops.database.link_scans import (
    Ending,
    Failure,
    Refusal,
    fail_killed_scan,
    release_cut_off_scan,
)
from docora_ops.errors import DocoraOpsError
from docora_ops.jobs import JobEnd
from docora_ops.links import LinkRef
from docora_ops.queue import Redis, RqQueue
from docora_ops.queue.outcomes import SnapshotOutcome
from docora_ops.settings import Settings
from docora_ops.text import inert
from docora_ops.worker import host
from docora_ops.worker.clone import RepositoryLock
from docora_ops.worker.log import fields_of_link, log, name_of_link, record
from docora_ops.worker.rq_faults import OneStepRetry

_KEPT_DELAY = 10  # seconds until the next try of a job that has no delays of its own


class SnapshotJob(OneStepRetry):
    """A job whose next try follows at once if it was cut off."""

    was_cut_off = False

    # RQ sends one more heartbeat of a job that has ended, in a round trip of its own.
    def heartbeat(
        self, timestamp: datetime, ttl: int, pipeline: Pipeline | None = None, xx: bool = False
    ) -> None:
        """Sends a heartbeat in a pipeline, and none without."""
        if pipeline is not None:
            super().heartbeat(timestamp, ttl, pipeline, xx)

    def get_retry_interval(self) -> int:
        """Returns the seconds until the next try."""
        return 0 if self.was_cut_off else super().get_retry_interval()


@dataclass
class Tries:
    """The tries that a job has left. RQ reads their number after a failure.

    job: None if no worker of RQ runs the snapshot; then no try is left.
    """

    job: Job | None

    @property
    def left(self) -> int:
        """The number of tries after this one."""
        return (self.job and self.job.retries_left) or 0

    @property
    def worker(self) -> str | None:
        """The name of the worker that runs or ran this try."""
        return self.job.worker_name if self.job else None

    @property
    def outlook(self) -> str:
        """Tells when the next try is, for the log."""
        if self.job is None or not self.left:
            return "no further try"
        return f"tried again in {self.job.get_retry_interval()} s"

    def give_back(self) -> None:
        """Has another try follow as if this one had not begun; with our workers, at once."""
        left = self.left + 1
        self.keep()
        if self.job is not None:
            self.job.retries_left = left
        if isinstance(self.job, SnapshotJob):
            self.job.was_cut_off = True

    def end(self) -> None:
        """Makes this try the last one."""
        if self.job is not None:
            self.job.retries_left = 0

    def keep(self) -> None:
        """Has another try follow, even if none is left."""
        if self.job is not None:
            self.job.retries_left = max(self.left, 1)
            self.job.retry_intervals = self.job.retry_intervals or [_KEPT_DELAY]


class LinkRecovery:
    """Counts the failures of jobs that were killed before they could. Logs errors of Postgres."""

    def __init__(self, settings: Settings, client: Redis) -> None:
        self._settings = settings
        self._client = client
        self._queue = RqQueue(settings, client)

    def count_killed_job(self, job: Job, reason: str) -> None:
        """Counts a failure of the job's link, and ends its tries if the link is failed now."""
        if (link := _ids_and_name(job)) is None:  # of another program
            log.warning("job %s: failed: %s", inert(job.id), reason)
            return
        app_id, repository_id, name = link
        end = JobEnd.TRIED_AGAIN
        tries, limit = Tries(job), self._settings.max_retry_attempts
        error = f"the snapshot was cut off: {reason}"
        failure = Failure(app_id, repository_id, error, tries.left, limit)
        try:
            with closing(Database(self._settings)) as database:
                ending = fail_killed_scan(database, failure)
        except DocoraOpsError as trouble:
            # Another job holds the link, or Postgres is away: the next try updates the link.
            tries.keep()
            result = f"not marked: {inert(trouble.message)}"
        else:
            if isinstance(ending, Refusal) or ending.is_final:
                end = JobEnd.NOTHING_TO_DO if isinstance(ending, Refusal) else JobEnd.FAILED
                tries.end()
            if isinstance(ending, Ending) and ending.is_counted:
                if ending.is_final and ending.retry_count > limit:
                    end = JobEnd.FAILED_AGAIN
                ref = LinkRef(ending.link_id, app_id, repository_id)
                number, worker = ending.retry_count, tries.worker
                self._record(ref, end, error, try_number=number, worker=worker)
            result = f"the link is {getattr(ending, 'status', 'gone')}"
        fields = fields_of_link(job.kwargs) | {"outcome": end, "error_message": error}
        log.warning("%s: failed: %s; %s; %s", name, reason, result, tries.outlook, extra=fields)

    def release_cut_off_job(self, job: SnapshotJob) -> None:
        """Makes the link pending and has the next try follow at once; counts no failure."""
        Tries(job).give_back()
        if (link := _ids_and_name(job)) is not None:
            app_id, repository_id, name = link
            # If this fails, the next try updates the link.
            with suppress(DocoraOpsError), closing(Database(self._settings)) as database:
                release_cut_off_scan(database, app_id, repository_id)
            fields = fields_of_link(job.kwargs) | {"outcome": JobEnd.CUT_OFF}
            text = "%s: cut off, and queued again at once; no failure is counted"
            log.warning(text, name, extra=fields)
            ref = LinkRef("", app_id, repository_id)
            self._record(ref, JobEnd.CUT_OFF, worker=Tries(job).worker)

    def _record(
        self,
        ref: LinkRef,
        end: JobEnd,
        error: str | None = None,
        *,
        try_number: int | None = None,
        worker: str | None = None,
    ) -> None:
        """Adds the end of a link's job to the record of outcomes."""
        ids, tries = (ref.app_id, ref.repository_id, ref.id or None), None
        if try_number is not None:
            tries = self._settings.max_retry_attempts
        outcome = SnapshotOutcome(host.now(), *ids, end, try_number, tries, error, worker=worker)
        record(self._client, outcome)

    def release_lock(self, job: Job) -> None:
        """Releases the lock of the repository if the job, whose process was killed, held it."""
        if _ids_and_name(job) is not None:
            full_name = f"{job.kwargs.get('owner')}/{job.kwargs.get('name')}"
            RepositoryLock(self._client, full_name, job.id).release()

    def recover_abandoned_links(self, beat: Callable[[], None]) -> None:
        """Queues links that are `scanning` without a job. Raises ServerError.

        beat: called after each link, because many links may take long.
        """
        with closing(Database(self._settings)) as database:
            limit = self._settings.max_retry_attempts
            for item in recover_abandoned(database, self._queue, limit):
                beat()
                if item is None:
                    continue
                outcome = inert(item.error_message or "it is queued again")
                job_id = inert(item.ref.job_id)
                ids = {"app_id": item.ref.app_id, "repository_id": item.ref.repository_id}
                end = JobEnd.TRIED_AGAIN if item.outcome.succeeded else JobEnd.FAILED
                fields = fields_of_link(ids) | {"outcome": end, "error_message": item.error_message}
                log.warning("%s: left behind by a killed worker; %s", job_id, outcome, extra=fields)
                if item.outcome.succeeded or item.error_message == CUT_OFF:  # a failure was counted
                    self._record(item.ref, end, STUCK_ERROR)


def _ids_and_name(job: Job) -> tuple[str, str, str] | None:
    """Returns app id, repository id and the name of the link; None for another kind of job."""
    try:
        arguments = job.kwargs
    except Exception:  # noqa: BLE001 - unpickling may raise anything
        return None
    app_id, repository_id = arguments.get("app_id"), arguments.get("repository_id")
    if isinstance(app_id, str) and isinstance(repository_id, str):
        return app_id, repository_id, name_of_link(arguments)
    return None
