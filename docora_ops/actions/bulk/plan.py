"""Batches of a dry run: what a writer would do."""

from __future__ import annotations

from collections.abc import Sequence
from sys import intern

from docora_ops.actions.bulk.batch import Batch, Settled, separate
from docora_ops.actions.job_ids import job_id_held, require_job_id_not_held
from docora_ops.database import Database
from docora_ops.database.link_rows import count_deliveries, describe_links, held_job_ids
from docora_ops.errors import InvalidJobIdError
from docora_ops.jobs import PLANNED_OUTCOMES, JobState
from docora_ops.links import Action, Outcome, PlannedLink
from docora_ops.queue import Answer, LinkQueue


class BatchPlanner:
    """Says what a writer would do, and changes nothing."""

    def __init__(self, database: Database, queue: LinkQueue, operation: Action) -> None:
        self._database = database
        self._queue = queue
        self._operation = operation
        self.planned: list[PlannedLink] = []
        self._planned_job_ids: set[str] = set()

    def handle(self, batch: Batch) -> None:
        """Settle each link or put it off. Raises PostgresError, RedisError."""
        able, sharing = separate(self._database, batch)
        if not batch.final:
            batch.put_off |= dict.fromkeys((ref.id for ref in sharing), 0)
            sharing = []
        for ref in sharing:
            try:
                require_job_id_not_held(self._queue, ref)
                if ref.job_id in self._planned_job_ids:
                    raise job_id_held(ref)
            except InvalidJobIdError as error:
                batch.settle(ref, Outcome.FAILED, error.message)
            else:
                self._planned_job_ids.add(ref.job_id)
                able.append(ref)
        job_ids = [ref.job_id for ref in able]
        held = held_job_ids(self._database, job_ids)
        answers = self._queue.look(job_ids, waiting=batch.waiting, detailed=True)
        for ref, answer in zip(able, answers, strict=True):
            outcome = PLANNED_OUTCOMES.get(answer.state)
            if batch.still_doubtful(ref, answer):
                outcome = Outcome.REPLACED_STALE
            if ref.job_id in held:
                batch.leave(ref, Answer(ref.job_id, JobState.RUNNING))
            elif outcome is None:
                batch.leave(ref, answer)
            else:
                batch.settle(ref, outcome)
        if self._operation is Action.RESYNC:
            queued = [item.ref for item in batch.settled if item.outcome.succeeded]
            batch.deliveries_cleared = count_deliveries(self._database, queued)
        self._describe(batch.settled)

    def _describe(self, settled: Sequence[Settled]) -> None:
        names = describe_links(self._database, [item.ref.id for item in settled])
        for item in settled:
            app_name, repository = names.get(item.ref.id, ("", ""))
            self.planned.append(
                PlannedLink(
                    # One string for all links of an app: there may be a million.
                    app_id=intern(item.ref.app_id),
                    app_name=intern(app_name),
                    repository_id=item.ref.repository_id,
                    repository=repository,
                    outcome=item.outcome,
                    error=item.error,
                )
            )
