"""A record of outcomes, as workers would have written it in the past."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from docora_ops.demo.world import write_record
from docora_ops.jobs import JobEnd
from docora_ops.queue.outcomes import SnapshotOutcome
from tests.support.docora import Docora

APP_ID = "app_0000000000000000000000aa"


def outcome(
    at: datetime, end: JobEnd, *, app_id: str = APP_ID, repository_id: str = "repo_1", **others: Any
) -> SnapshotOutcome:
    return SnapshotOutcome(at, app_id, repository_id, link_id=None, outcome=end, **others)


def record(docora: Docora, outcomes: Iterable[SnapshotOutcome]) -> None:
    """Replaces the stream, whose entries get the times at which the snapshots ended."""
    write_record(docora.redis, outcomes)


def spread(
    now: datetime, minutes: Iterable[float], end: JobEnd = JobEnd.FAILED, **others: Any
) -> list[SnapshotOutcome]:
    """An outcome so many minutes before `now`, for each number."""
    return [outcome(now - timedelta(minutes=each), end, **others) for each in minutes]
