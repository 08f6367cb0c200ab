"""Compares the pace of the workers with what is due. Only reads."""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import ceil

from docora_ops.actions.freshness import Freshness
from docora_ops.jobs import JobEnd, QueueOverview
from docora_ops.queue.outcomes import PERIOD, Counts
from docora_ops.settings import Settings

LOOKS_BACK = 3600 + 2 * PERIOD
"""Seconds: the best 10 minutes of the last hour show best what the workers manage."""
_SCANS = (JobEnd.SYNCED, JobEnd.FAILED, JobEnd.FAILED_AGAIN, JobEnd.TRIED_AGAIN)
_WAITING_PASSES = 2  # scan intervals: a job that has waited for as long was due in an earlier pass
_BUSY = 0.9  # of many busy slots, some are between two jobs


@dataclass(frozen=True)
class Capacity:
    """The pace of the workers, and the pace that is due, in snapshots per minute.

    managed_per_minute: in the best 10 minutes of the last hour.
    due_per_minute: so that each link is scanned once in `RESCAN_INTERVAL_MS` and the
        `SCAN_INTERVAL_MS` until the next pass.
    slots: the jobs that the workers that take jobs run at a time.
    missing_slots: how many more they would need, at the same pace.
    """

    managed_per_minute: float
    due_per_minute: float
    slots: int
    missing_slots: int

    @property
    def words(self) -> str:
        """Returns `40 snapshots a minute, 120 due: 10 more slots are needed`."""
        pace = (self.managed_per_minute, self.due_per_minute)
        managed, due = (f"{number:,}".removesuffix(".0") for number in pace)
        missing = self.missing_slots
        needed = "1 more slot is" if missing == 1 else f"{missing} more slots are"
        return f"{managed} snapshots a minute, {due} due" + (
            f": {needed} needed" if missing else ""
        )


def capacity(
    record: Counts, freshness: Freshness, queue: QueueOverview, settings: Settings
) -> Capacity | None:
    """Returns what the workers manage; None if the last hour has no complete record of 10 minutes.

    What they manage is less than what is due also if nothing more was queued, or if each app has
    its share of the slots. Slots are missing only if, at the same time, jobs of an earlier pass of
    `schedule` still wait while all slots are busy, and at most one for each job that waits.

    record: the counts of the last `LOOKS_BACK` seconds, or of a longer time.
    """
    by_period: Counter[datetime] = Counter()
    now = queue.read_at or freshness.read_at  # by the clock of the record
    for count in record.counts:
        age = (now - count.started_at).total_seconds()
        if count.outcome in _SCANS and PERIOD <= age < LOOKS_BACK:
            by_period[count.started_at] += count.count
    # In the first 10 minutes after a stop, the workers may have run for a few seconds only.
    whole = [count for at, count in by_period.items() if by_period[at - timedelta(seconds=PERIOD)]]
    if not whole:
        return None
    managed = max(whole) * 60 / PERIOD
    cycle = (settings.rescan_interval_ms + settings.scan_interval_ms) / 60_000
    due = freshness.links_to_scan / cycle
    busy = [bool(worker.jobs) for worker in queue.workers if worker.no_job_reason is None]
    slots = len(busy)
    waits = (queue.oldest_waiting_seconds or 0) * 1000 > _WAITING_PASSES * settings.scan_interval_ms
    may_tell = not (queue.suspension or freshness.held)  # held apps have links that are not due
    are_busy = sum(busy) > _BUSY * slots
    is_too_little = may_tell and waits and are_busy and managed < due
    missing = ceil(slots * due / managed) - slots if is_too_little else 0
    return Capacity(round(managed, 1), round(due, 1), slots, min(missing, queue.waiting))
