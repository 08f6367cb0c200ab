"""Bringing links in order whose job was killed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import closing

from docora_ops.actions.repair.abandoned import recover_abandoned
from docora_ops.database import Database
from docora_ops.database.snapshots import Refusal, fail_killed_scan
from docora_ops.errors import DocoraOpsError
from docora_ops.queue import LinkQueue, Redis
from docora_ops.settings import Settings
from docora_ops.text import inert
from docora_ops.worker.tries import Tries

log = logging.getLogger("rq.worker.snapshot")


class LinkCaretaker:
    """Does for a killed job what it could not do itself."""

    def __init__(self, settings: Settings, client: Redis) -> None:
        self._settings = settings
        self._queue = LinkQueue(settings, client)

    def job_was_killed(
        self, app_id: str, repository_id: str, tries: Tries, *, what: str, stopped: bool = False
    ) -> None:
        """Count the failure of its link, and have RQ try the job again or not. Raises nothing."""
        name = inert(f"{app_id} {repository_id}")
        try:
            with closing(Database(self._settings)) as database:
                ending = fail_killed_scan(
                    database,
                    app_id,
                    repository_id,
                    f"the snapshot was cut off: {what}",
                    tries_left=0 if stopped else tries.left,
                    max_attempts=self._settings.max_retry_attempts,
                )
        except DocoraOpsError as error:
            # Another job has the link, or Postgres is away: whoever comes next finds out.
            tries.keep()
            log.warning("%s: %s; not marked: %s", name, what, inert(error.message))
            return
        if isinstance(ending, Refusal) or ending.is_final:
            tries.end()
        log.warning("%s: %s; the link is %s", name, what, getattr(ending, "status", "gone"))

    def tidy_up(self, keep_alive: Callable[[], object]) -> None:
        """Queue links again that are marked as being scanned and are not.

        Raises nothing but what `keep_alive` raises, which is called now and then.
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
                "%s: left behind by a killed worker; now it is %s",
                inert(item.ref.job_id),
                item.ending.status,
            )
