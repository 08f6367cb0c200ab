"""Dry runs of bulk operations."""

from __future__ import annotations

from sys import intern

from docora_ops.actions.bulk.batch import Batch
from docora_ops.actions.decision import decide
from docora_ops.actions.look import look_at_jobs
from docora_ops.database import Database
from docora_ops.database.circuits import circuits_to_reset
from docora_ops.database.link_rows import count_deliveries, names_of
from docora_ops.links import Action, PlannedLink
from docora_ops.queue import LinkQueue


def plan_batch(
    database: Database,
    queue: LinkQueue,
    action: Action,
    planned: list[PlannedLink],
    batch: Batch,
    *,
    reset_circuit: bool,
) -> None:
    """Records or postpones each link as BatchExecution would, and changes nothing.

    Adds the recorded links to `planned`.
    """
    refs = batch.record_invalid()
    for ref, answer in look_at_jobs(database, queue, refs, waiting=batch.waiting, detailed=True):
        batch.record_decision(ref, decide(answer, batch.evidence_of(ref)), answer)
    queued = [item.ref for item in batch.recorded if item.outcome.succeeded]
    if reset_circuit:
        batch.circuits_reset = circuits_to_reset(database, {ref.repository_id for ref in queued})
    if action is Action.RESYNC:
        batch.deliveries_cleared = count_deliveries(database, queued)
    names = names_of(database, [item.ref for item in batch.recorded])
    for item, (app_name, repository_name) in zip(batch.recorded, names, strict=True):
        ref = item.ref
        # One string for all links of an app: there may be a million.
        link = (intern(ref.app_id), app_name or "", ref.repository_id, repository_name or "")
        planned.append(PlannedLink(*link, item.outcome, item.error_message))
