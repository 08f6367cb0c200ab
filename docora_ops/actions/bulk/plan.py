"""Dry runs of bulk operations."""

from __future__ import annotations

from collections.abc import Sequence
from sys import intern

from docora_ops.actions.bulk.batch import Batch, LinkOutcome
from docora_ops.actions.decision import decide
from docora_ops.database import Database
from docora_ops.database.link_rows import count_deliveries, describe_links, held_job_ids
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
        job_ids = [ref.job_id for ref in refs]
        held = held_job_ids(self._database, job_ids)
        answers = self._queue.look(job_ids, waiting=batch.waiting, detailed=True)
        for ref, answer in zip(refs, answers, strict=True):
            is_locked = ref.job_id in held
            outcome = decide(answer, is_locked=is_locked, earlier=batch.evidence_of(ref))
            batch.record_decision(ref, outcome, answer)
        if self._action is Action.RESYNC:
            queued = [item.ref for item in batch.recorded if item.outcome.succeeded]
            batch.deliveries_cleared = count_deliveries(self._database, queued)
        self._describe(batch.recorded)

    def _describe(self, recorded: Sequence[LinkOutcome]) -> None:
        names = describe_links(self._database, [item.ref.id for item in recorded])
        for item in recorded:
            app_name, repository = names.get(item.ref.id, ("", ""))
            self.links.append(
                PlannedLink(
                    # One string for all links of an app: there may be a million.
                    app_id=intern(item.ref.app_id),
                    app_name=intern(app_name),
                    repository_id=item.ref.repository_id,
                    repository_name=repository,
                    outcome=item.outcome,
                    error_message=item.error_message,
                )
            )
