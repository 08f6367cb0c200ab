"""Recovery of stuck links by workers: links that are being scanned, and have no live job."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from docora_ops.actions.bulk.batch import Batch, LinkOutcome
from docora_ops.actions.bulk.execute import BatchExecution
from docora_ops.actions.decision import STUCK_ERROR
from docora_ops.database import Database
from docora_ops.database.link_rows import claim_unfinished_links, held_job_ids
from docora_ops.database.link_scans import scanning_links
from docora_ops.jobs import JobState
from docora_ops.links import Action, LinkRef, Outcome
from docora_ops.queue import LinkQueue
from docora_ops.settings import SECOND_LOOK_DELAY

_LOOKED_AT_ONCE = 500
_CLAIMED_AT_ONCE = 20
_ANSWERED = frozenset({Outcome.QUEUED, Outcome.REPLACED_STALE, Outcome.FAILED})
_FIRST = "00000000-0000-0000-0000-000000000000"


def recover_abandoned(
    database: Database,
    queue: LinkQueue,
    max_attempts: int,
    keep_alive: Callable[[], object] = lambda: None,
) -> list[LinkOutcome]:
    """Counts a failure for each stuck link and queues it again, as `repair` does.

    From `max_attempts` failures on a link is `failed` instead. Looks twice before it changes a
    link. Calls `keep_alive` before each batch. Returns the links that were stuck still. Raises
    PostgresError, RedisError; the links so far are recovered then.
    """
    evidence = _stuck_links(database, queue)
    if not evidence:
        return []
    time.sleep(SECOND_LOOK_DELAY)
    claim = partial(claim_unfinished_links, error=STUCK_ERROR, max_attempts=max_attempts)
    execution = BatchExecution(database, queue, Action.REPAIR, claim)
    waiting = queue.read_waiting()
    refs = list(evidence)
    earlier = {ref.id: text for ref, text in evidence.items()}
    recovered = []
    for start in range(0, len(refs), _CLAIMED_AT_ONCE):
        keep_alive()
        batch = Batch(refs[start : start + _CLAIMED_AT_ONCE], waiting, earlier)
        execution.handle(batch)
        recovered += [item for item in batch.recorded if item.outcome in _ANSWERED]
    return recovered


def _stuck_links(database: Database, queue: LinkQueue) -> dict[LinkRef, str]:
    """Returns the evidence of doubtful jobs by link; empty for a link without a job."""
    found = {}
    last = _FIRST
    while page := scanning_links(database, last, _LOOKED_AT_ONCE):
        last = page[-1].id
        refs = [ref for ref in page if ref.has_valid_job_id]
        job_ids = [ref.job_id for ref in refs]
        held = held_job_ids(database, job_ids)
        for ref, answer in zip(refs, queue.look(job_ids), strict=True):
            if ref.job_id not in held and answer.state in {JobState.NONE, JobState.DOUBTFUL}:
                found[ref] = answer.evidence
    return found
