"""Jobs that were cut off or killed, and what becomes of their links."""

import signal
from contextlib import closing
from types import FrameType
from typing import Any

from rq.job import Job

from docora_ops.actions.fix_drift import recover_abandoned
from docora_ops.database import Database
from docora_ops.database.link_rows import names_of
from docora_ops.database.link_scans import (
    Failure,
    Refusal,
    fail_killed_scan,
    release_cut_off_scan,
)
from docora_ops.errors import DocoraOpsError
from docora_ops.interrupts import CUT_OFF
from docora_ops.queue import Redis, RqQueue
from docora_ops.settings import Settings
from docora_ops.text import inert
from docora_ops.worker.log import link_name, log, name_of_arguments
from docora_ops.worker.rq_faults import OneStepRetry

_KEPT_DELAY = 10
"""Seconds until the next try of a job that has no delays of its own."""


class CutOff(BaseException):
    """The worker ends and waits no longer for its job, which only has to clean up.

    No Exception, so that nothing in between takes it for a failure.
    """


class SnapshotJob(OneStepRetry):
    """A job that its worker can cut off."""

    was_cut_off = False

    def perform(self) -> Any:
        """Runs the job. Raises CutOff on the signal that a work-horse holds back until then."""
        mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, {CUT_OFF})
        try:
            return super().perform()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def try_again_at_once(self) -> None:
        """Makes the next try follow at once, and this one not count."""
        self.was_cut_off = True
        self.retries_left = (self.retries_left or 0) + 1

    def get_retry_interval(self) -> int:
        """Returns the seconds until the next try."""
        return 0 if self.was_cut_off else super().get_retry_interval()


def cut_off(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    """Handles the signal in a work-horse."""
    signal.signal(number, signal.SIG_IGN)  # else a second one would cut off the cleaning up
    raise CutOff


class Tries:
    """The tries that a job has left: none without a job. RQ reads them after a failure."""

    def __init__(self, job: Job | None) -> None:
        self._job = job

    @property
    def left(self) -> int:
        """The number of tries after this one."""
        return 0 if self._job is None else self._job.retries_left or 0

    @property
    def outlook(self) -> str:
        """Tells in words when the next try is."""
        if self._job is None or not self.left:
            return "no further try"
        delay = self._job.get_retry_interval()
        return f"tried again in {delay} s" if delay else "tried again at once"

    def end(self) -> None:
        """Makes this try the last one."""
        if self._job is not None:
            self._job.retries_left = 0

    def keep(self) -> None:
        """Makes sure that another try follows."""
        if self._job is not None:
            self._job.retries_left = max(self.left, 1)
            self._job.retry_intervals = self._job.retry_intervals or [_KEPT_DELAY]


class LinkRecovery:
    """Counts the failures that killed jobs could not count themselves. Logs errors of Postgres."""

    def __init__(self, settings: Settings, client: Redis) -> None:
        self._settings = settings
        self._queue = RqQueue(settings, client)

    def count_killed_job(self, job: Job, reason: str) -> None:
        """Counts a failure of the job's link, and ends or keeps the tries of the job accordingly.

        Logs the failure of a job of another program, which has no link.
        """
        found = _ids_and_name(job)
        if found is None:
            log.warning("job %s: failed: %s", inert(job.id), reason)
            return
        app_id, repository_id, name = found
        tries, limit = Tries(job), self._settings.max_retry_attempts
        error = f"the snapshot was cut off: {reason}"
        try:
            with closing(Database(self._settings)) as database:
                failure = Failure(app_id, repository_id, error, tries.left, limit)
                ending = fail_killed_scan(database, failure)
        except DocoraOpsError as trouble:
            # Another job holds the link, or Postgres is away: the next try updates the link.
            tries.keep()
            outlook = f"{inert(trouble.message)}; {tries.outlook}"
            log.warning("%s: failed: %s; not marked: %s", name, reason, outlook)
            return
        if isinstance(ending, Refusal) or ending.is_final:
            tries.end()
        status = getattr(ending, "status", "gone")
        log.warning("%s: failed: %s; the link is %s; %s", name, reason, status, tries.outlook)

    def release_cut_off_job(self, job: Job) -> None:
        """Makes the link pending. The job still counts as running, and is queued afterwards."""
        found = _ids_and_name(job)
        if found is None:
            return
        app_id, repository_id, name = found
        left = ""
        try:
            with closing(Database(self._settings)) as database:
                release_cut_off_scan(database, app_id, repository_id)
        except DocoraOpsError as error:  # the next try updates the link
            left = f" ({inert(error.message)}; not marked as pending)"
        log.warning("%s: cut off, and queued again at once; no failure is counted%s", name, left)

    def recover_abandoned_links(self) -> None:
        """Queues links again that are `scanning` without a job."""
        limit = self._settings.max_retry_attempts
        try:
            with closing(Database(self._settings)) as database:
                recovered = recover_abandoned(database, self._queue, limit)
                names = names_of(database, [item.ref for item in recovered])
        except DocoraOpsError as error:
            log.warning("links left behind can't be looked for: %s", inert(error.message))
            return
        for item, (app, repository) in zip(recovered, names, strict=True):
            name = link_name(app, repository) if app and repository else inert(item.ref.job_id)
            outcome = inert(item.error_message or "it is queued again")
            log.warning("%s: left behind by a killed worker; %s", name, outcome)


def _ids_and_name(job: Job) -> tuple[str, str, str] | None:
    """Returns the app id, the repository id and the link's name; None for a job of another kind."""
    try:
        arguments = job.kwargs
    except Exception:  # noqa: BLE001 - unpickling may raise anything
        return None
    app_id, repository_id = arguments.get("app_id"), arguments.get("repository_id")
    if isinstance(app_id, str) and isinstance(repository_id, str):
        return app_id, repository_id, name_of_arguments(arguments)
    return None
