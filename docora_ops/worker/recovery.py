"""Updates the links of jobs that were cut off or killed."""

import logging
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import asdict, replace

from rq.job import Job

from docora_ops.actions.change import CUT_OFF
from docora_ops.actions.repairs import STUCK_ERROR, recover_abandoned
from docora_ops.database import Database
from docora_ops.database.link_scans import Failure, fail_scan, release_scan
from docora_ops.errors import DocoraOpsError
from docora_ops.jobs import JobEnd
from docora_ops.queue import Redis, RqQueue, connect
from docora_ops.queue.outcomes import SnapshotOutcome
from docora_ops.settings import Settings
from docora_ops.text import inert
from docora_ops.worker import host
from docora_ops.worker.clone import RepositoryLock
from docora_ops.worker.log import log, record, tell
from docora_ops.worker.tries import Tries


class LinkRecovery:
    """Updates the links of jobs that were cut off or killed, and links left without a job.

    Logs and records how the jobs ended.
    """

    def __init__(self, settings: Settings, client: Redis) -> None:
        self._settings = settings
        self._client = client

    def count_killed_job(self, job: Job, reason: str) -> None:
        """Counts a failure of the job's link, unless the job itself has counted one.

        Counts none for a job that had not begun and has tries left. If the link is now failed or
        gone, no further try follows. If the link can't be updated, logs the error, and makes sure
        that another try follows.
        """
        if (ids := _ids(job)) is None:  # of another program
            log.warning("job %s: failed: %s", inert(job.id), reason)
            return
        tries, limit = Tries(job), self._settings.max_retry_attempts
        error = f"the snapshot was cut off: {reason}"
        ending = None
        try:
            with closing(Database(self._settings)) as database:
                ending = fail_scan(database, Failure(*ids, error, tries.left, limit))
            result = f"the link is {ending.status}"
        except DocoraOpsError as trouble:
            # Another job holds the link, or Postgres is away: the next try updates the link.
            result = f"not marked: {trouble.message}"
        end = tries.settle(ending, limit)
        counted = ending if ending and ending.is_counted else None
        link_id, number = (counted.link_id, counted.retry_count) if counted else (None, None)
        outcome = SnapshotOutcome(
            host.now(), *ids, link_id, end, number, limit, error, worker=job.worker_name
        )
        if counted is not None:
            record(self._client, outcome)
        text = f"{'failed: ' if counted else ''}{reason}; {result}; {tries.outlook}"
        tell(job.kwargs, text, logging.WARNING, outcome)

    def release_cut_off_job(self, job: Job) -> None:
        """Makes the link of a cut-off job pending, and counts no failure.

        Takes the try back, so that RQ then queues the job again at once.
        """
        Tries(job).give_back()
        if (ids := _ids(job)) is None:
            return
        # If this fails, the next try updates the link.
        with suppress(DocoraOpsError), closing(Database(self._settings)) as database:
            release_scan(database, *ids)
        worker = job.worker_name
        outcome = SnapshotOutcome(host.now(), *ids, None, JobEnd.CUT_OFF, worker=worker)
        text = "cut off, and queued again at once; no failure is counted"
        tell(job.kwargs, text, logging.WARNING, outcome)
        record(self._client, outcome)

    def release_lock(self, job: Job) -> None:
        """Releases the lock of the repository if the killed job held it."""
        if _ids(job) is not None:
            full_name = f"{job.kwargs.get('owner')}/{job.kwargs.get('name')}"
            RepositoryLock(self._client, full_name, job.id).release()

    def recover_abandoned_links(self, beat: Callable[[], None]) -> None:
        """Counts a failure of each link that is `scanning` without a live job.

        Queues the link again unless it is failed now. Raises ServerError.

        beat: called after each link, and every second during waits, because many links take long.
        """
        # Not with `self._client`, whose timeouts RQ has raised: rows are locked during a push.
        with (
            closing(Database(self._settings)) as database,
            closing(connect(self._settings)) as client,
        ):
            queue, limit = RqQueue(self._settings, client), self._settings.max_retry_attempts
            for item in recover_abandoned(database, queue, limit):
                beat()
                if item is None:
                    continue
                ref, error, is_queued = item.ref, item.error_message, item.outcome.is_put_to_work
                ids = ref.app_id, ref.repository_id, ref.id
                end = JobEnd.TRIED_AGAIN if is_queued else JobEnd.FAILED
                outcome = SnapshotOutcome(host.now(), *ids, end, error_message=error)
                text = f"left behind without a job; {error or 'it is queued again'}"
                tell(asdict(ref), text, logging.WARNING, outcome)
                if is_queued or error == CUT_OFF:  # a failure was counted
                    record(self._client, replace(outcome, error_message=STUCK_ERROR))


def _ids(job: Job) -> tuple[str, str] | None:
    """Returns the ids of app and repository from the arguments of a job; None for other jobs."""
    with suppress(Exception):  # unpickling may raise anything
        app_id, repository_id = job.kwargs.get("app_id"), job.kwargs.get("repository_id")
        if isinstance(app_id, str) and isinstance(repository_id, str):
            return app_id, repository_id
    return None
