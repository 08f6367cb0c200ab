"""Dry runs of bulk operations."""

from __future__ import annotations

from sys import intern

from docora_ops.actions.bulk.batch import Batch
from docora_ops.actions.decision import decide
from docora_ops.actions.look import look_at_jobs
from docora_ops.database import Database
from docora_ops.database.link_rows import count_deliveries, names_of
from docora_ops.links import Action, PlannedLink
from docora_ops.queue import LinkQueue


class BatchPlan:
    """Finds what BatchExecution would do, and changes nothing."""

    def __init__(self, database: Database, queue: LinkQueue, action: Action) -> None:
        self._database = database
        self._queue = queue
        self._action = action
        self.links: list[PlannedLink] = []

    def handle(self, batch: Batch) -> None:
        """Records or postpones each link. Raises PostgresError, RedisError."""
        refs = batch.record_invalid()
        for ref, answer in look_at_jobs(
            self._database, self._queue, refs, waiting=batch.waiting, detailed=True
        ):
            batch.record_decision(ref, decide(answer, batch.evidence_of(ref)), answer)
        if self._action is Action.RESYNC:
            queued = [item.ref for item in batch.recorded if item.outcome.succeeded]
            batch.deliveries_cleared = count_deliveries(self._database, queued)
        names = names_of(self._database, [item.ref for item in batch.recorded])
        self.links += (
            PlannedLink(
                # One string for all links of an app: there may be a million.
                intern(item.ref.app_id),
                app_name or "",
                item.ref.repository_id,
                repository_name or "",
                item.outcome,
                item.error_message,
            )
            for item, (app_name, repository_name) in zip(batch.recorded, names, strict=True)
        )
