"""`schedule` and `repair`: queue what is due, and mend drift."""

import time
from collections.abc import Generator

from docora_ops.actions.changes import (
    Batch,
    change_links,
    new_operation,
    run_bulk,
    run_single,
)
from docora_ops.actions.docora import Docora
from docora_ops.actions.drift import find_drift, jobless_links
from docora_ops.errors import WrongBackendError
from docora_ops.links import LIVE_STATUSES, Backend, Change, Link, Outcome, State
from docora_ops.queue import operations as record
from docora_ops.queue.operations import Operation


def run_pass(docora: Docora) -> Generator[Batch]:
    """Queues what Docora's scheduler would queue, then mends drift, and records the pass.

    Yields after each batch. The two parts are operations of their own, and only begin if they have
    links.

    Raises WrongBackendError beside BullMQ, PostgresError, RedisError, WrongPairError.
    """
    change, due = _due(docora)
    if due:
        operation = new_operation(docora, change.action, "links that are due")
        yield from run_bulk(docora, change, due, operation)
    yield from repair_drift(docora)
    record.record_pass(docora.redis)


def due_links(docora: Docora) -> list[Outcome]:
    """Returns what a pass would do with the links that are due. Raises as `run_pass`."""
    change, due = _due(docora)
    return [
        outcome
        for outcomes in change_links(docora, change, due, dry_run=True)
        for outcome in outcomes
    ]


def _due(docora: Docora) -> tuple[Change, list[str]]:
    """Returns the row ids of the links that are due and have no live job."""
    if docora.queue.backend is not Backend.RQ:
        raise WrongBackendError(
            "this Docora uses BullMQ, whose jobs Docora's own scheduler queues",
            hint="leave the work to it; or stop Docora's workers (RUN_MODE=api), and set "
            "DOCORA_OPS_BACKEND=rq: docora-ops help workers",
        )
    change = Change.schedule(docora.settings.rescan_interval_ms)
    return change, list(jobless_links(docora, change.which).values())


def repair_drift(docora: Docora, reason: str | None = None) -> Generator[Batch]:
    """Queues every link that should have a live job and has none, as one operation.

    Yields nothing if there is none. Raises PostgresError, RedisError, WrongPairError.
    """
    drift = find_drift(docora)
    if drift.ids:
        change = Change.repair()
        operation = new_operation(docora, change.action, "links without a live job", reason=reason)
        yield from run_bulk(docora, change, drift.ids, operation, looked_at=drift.looked_at)


def repair_link(
    docora: Docora, link: Link, *, reason: str | None = None, dry_run: bool = False
) -> tuple[Outcome, Operation | None]:
    """Queues one link if it should have a live job, and has none in two looks.

    Raises PostgresError, RedisError, WrongPairError, UnqueueableError.
    """
    if link.status not in LIVE_STATUSES:
        return Outcome(link.id, link, State.SKIPPED, f"its status is {link.status}"), None
    [found] = docora.queue.look([link.job_id])
    if not found.state.is_live:
        time.sleep(docora.settings.drift_grace)
    change, ids = Change.repair(), (link.app_id, link.repository_id)
    return run_single(docora, change, *ids, reason=reason, dry_run=dry_run)
