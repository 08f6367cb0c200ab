"""Drift: a pending or scanning link whose job neither waits nor runs."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from docora_ops.actions.docora import Docora
from docora_ops.database import links as rows
from docora_ops.links import LIVE_STATUSES, Backend, LinkFilter, LinkStatus, batches

_BATCH = 10_000


@dataclass(frozen=True)
class Drift:
    """The links that should have a live job and have none.

    ids: their row ids.
    looked_at: when the first of the two looks began, by the clock of Postgres.
    """

    ids: list[str]
    looked_at: datetime


def find_drift(docora: Docora) -> Drift:
    """Looks for drift twice, `drift_grace` seconds apart, so that normal activity does not count.

    Beside BullMQ, only scanning links count: Docora's scheduler queues the pending ones.

    Time and memory grow with the number of pending and scanning links, and of jobs. Raises
    PostgresError, RedisError.
    """
    statuses: Sequence[LinkStatus] = LIVE_STATUSES
    if docora.queue.backend is Backend.BULLMQ:
        statuses = [LinkStatus.SCANNING]
    looked_at = rows.now(docora.database)
    suspects = jobless_links(docora, LinkFilter(statuses=statuses))
    if suspects:
        time.sleep(docora.settings.drift_grace)
        for page in docora.queue.live_ids():
            for job_id in page:
                suspects.pop(hash(job_id), None)
    ids = []
    with docora.database.transaction():
        for batch in batches(list(suspects.values()), _BATCH):
            results = rows.read_results(docora.database, batch)
            ids += [id_ for id_, status, *_ in results if status in statuses]
    return Drift(ids, looked_at)


def jobless_links(docora: Docora, which: LinkFilter) -> dict[int, str]:
    """Returns the row ids, by the hash of the job id, of matching links that have no live job.

    Raises PostgresError, RedisError.
    """
    # Hashes take a quarter of the memory of ids. There are too few jobs for two equal hashes.
    live = {hash(job_id) for page in docora.queue.live_ids() for job_id in page}
    jobs = rows.select_jobs(docora.database, which)
    return {hash(job_id): id_ for job_id, id_ in jobs if hash(job_id) not in live}


def count_drift(docora: Docora) -> int:
    """Counts the links that should have a live job and have none. Raises as `find_drift`."""
    return len(find_drift(docora).ids)
