"""Recovery of stuck links by workers: links that are being scanned, and have no live job."""

from __future__ import annotations

import time
from functools import partial

from docora_ops.actions.bulk.batch import Batch, LinkOutcome
from docora_ops.actions.bulk.execute import BatchExecution
from docora_ops.actions.decision import STUCK_ERROR
from docora_ops.actions.look import look_at_jobs
from docora_ops.database import Database
from docora_ops.database.link_rows import claim_unfinished_links
from docora_ops.database.link_scans import scanning_links
from docora_ops.jobs import JobState
from docora_ops.links import Action, Outcome
from docora_ops.queue import LinkQueue
from docora_ops.settings import SECOND_LOOK_DELAY

_ANSWERED = frozenset({Outcome.QUEUED, Outcome.REPLACED_STALE, Outcome.NOT_QUEUED})


def recover_abandoned(database: Database, queue: LinkQueue, max_attempts: int) -> list[LinkOutcome]:
    """Counts a failure for each stuck link and queues it again, as `repair` does.

    From `max_attempts` failures on a link is `failed` instead. Looks twice before it changes a
    link. Returns the links that were stuck still. Raises PostgresError, RedisError; the links so
    far are recovered then.
    """
    stuck = [
        (ref, answer.evidence)
        for ref, answer in look_at_jobs(database, queue, scanning_links(database))
        if answer.state in {JobState.NONE, JobState.DOUBTFUL}
    ]
    if not stuck:
        return []
    time.sleep(SECOND_LOOK_DELAY)
    claim = partial(claim_unfinished_links, error=STUCK_ERROR, max_attempts=max_attempts)
    execution = BatchExecution(database, queue, Action.REPAIR, claim)
    waiting = queue.read_waiting()
    recovered = []
    for ref, evidence in stuck:
        # One link at a time: others may wait for a lock meanwhile.
        batch = Batch([ref], waiting, {ref.id: evidence})
        execution.handle(batch)
        recovered += [item for item in batch.recorded if item.outcome in _ANSWERED]
    return recovered
