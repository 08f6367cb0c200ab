"""Counting the links that nobody works on, for the first screen and the metrics."""

from __future__ import annotations

from collections import Counter

from docora_ops.actions.look import look_at_jobs
from docora_ops.database import Database
from docora_ops.database.drift_rows import some_unfinished_links
from docora_ops.jobs import JobState
from docora_ops.links import LinkStatus
from docora_ops.overview import DriftCounts
from docora_ops.queue import LinkQueue

_MOST = 5000
"""Links whose jobs are looked at: more would take longer than the rest of a screen."""


def count_drift(database: Database, queue: LinkQueue) -> DriftCounts | None:
    """Counts lost and stuck links with one look; None if too many links are unfinished for that.

    A job that a worker may be taking counts as live, which `doctor` looks at twice instead.
    Raises PostgresError, RedisError.
    """
    links = some_unfinished_links(database, _MOST + 1)
    if len(links) > _MOST:
        return None
    statuses = dict(links)
    found = Counter(
        statuses[ref]
        for ref, answer in look_at_jobs(database, queue, list(statuses))
        if answer.state is JobState.NONE
    )
    return DriftCounts(found[LinkStatus.PENDING_SNAPSHOT], found[LinkStatus.SCANNING])
