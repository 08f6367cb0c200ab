"""Updates links whose job was killed or whose worker is gone."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import closing

from docora_ops.actions.repair.abandoned import recover_abandoned
from docora_ops.database import Database
from docora_ops.database.link_scans import Refusal, fail_killed_scan
from docora_ops.errors import DocoraOpsError
from docora_ops.queue import LinkQueue, Redis
from docora_ops.settings import Settings
from docora_ops.text import inert
from docora_ops.worker.tries import Tries

log = logging.getLogger("rq.worker.snapshot")


class LinkRecovery:
    """Counts the failures that killed jobs could not count themselves. Logs errors of Postgres."""

    def __init__(self, settings: Settings, client: Redis) -> None:
        self._settings = settings
        self._queue = LinkQueue(settings, client)

    def count_killed_job(
        self, app_id: str, repository_id: str, tries: Tries, *, reason: str, stopped: bool = False
    ) -> None:
        """Counts a failure of the link, and ends or keeps the tries of the job accordingly.

        `stopped`: an operator has stopped the job, so it gets no further try.
        """
        name = inert(f"{app_id} {repository_id}")
        try:
            with closing(Database(self._settings)) as database:
                ending = fail_killed_scan(
                    database,
                    app_id,
                    repository_id,
                    f"the snapshot was cut off: {reason}",
                    tries_left=0 if stopped else tries.left,
                    max_attempts=self._settings.max_retry_attempts,
                )
        except DocoraOpsError as error:
            # Another job holds the link, or Postgres is away: the next try updates the link.
            tries.keep()
            log.warning("%s: %s; not marked: %s", name, reason, inert(error.message))
            return
        if isinstance(ending, Refusal) or ending.is_final:
            tries.end()
        log.warning("%s: %s; the link is %s", name, reason, getattr(ending, "status", "gone"))

    def recover_abandoned_links(self, keep_alive: Callable[[], object]) -> None:
        """Queues links again that are `scanning` without a job.

        Calls `keep_alive` now and then; only errors of that call are raised.
        """
        try:
            with closing(Database(self._settings)) as database:
                recovered = recover_abandoned(
                    database, self._queue, self._settings.max_retry_attempts, keep_alive
                )
        except DocoraOpsError as error:
            log.warning("links left behind can't be looked for: %s", inert(error.message))
            return
        for item in recovered:
            log.warning(
                "%s: left behind by a killed worker; %s",
                inert(item.ref.job_id),
                inert(item.error_message or "it is queued again"),
            )
