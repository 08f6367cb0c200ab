"""Compares how many snapshots the workers manage with how many are due. Only reads."""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import ceil

from docora_ops.actions.freshness import Freshness
from docora_ops.jobs import JobEnd, QueueOverview
from docora_ops.queue.outcomes import PERIOD, Counts
from docora_ops.settings import Settings
from docora_ops.text import amount

LOOKS_BACK = 3600 + 2 * PERIOD
"""Seconds of counts to read: the last hour, and an incomplete period at either end."""
_SCANS = (JobEnd.SYNCED, JobEnd.FAILED, JobEnd.FAILED_AGAIN, JobEnd.TRIED_AGAIN)
_WAITING_PASSES = 2  # scan intervals; a job that has waited longer was queued by an earlier pass
_BUSY = 0.9  # share of slots, because some busy slots are between two jobs


@dataclass(frozen=True)
class Capacity:
    """The pace of the workers, the pace that is needed, and the number of missing slots.

    managed_per_minute: the snapshots per minute in the best 10 minutes of the last hour; None if no
        10 minutes of that hour are fully recorded.
    due_per_minute: the snapshots per minute that scan each link once in `RESCAN_INTERVAL_MS` plus
        `SCAN_INTERVAL_MS`.
    slots: how many jobs can run at a time, not counting workers that take no jobs.
    missing_slots: how many more slots are needed to reach `due_per_minute`; 0 if unknown.
    """

    managed_per_minute: float | None
    due_per_minute: float
    slots: int
    missing_slots: int

    @property
    def words(self) -> str:
        """Returns a text such as `40 snapshots a minute, 120 due: 10 more slots are needed`."""
        due = f"{self.due_per_minute:,}".removesuffix(".0")
        if self.managed_per_minute is None:
            return f"{due} snapshots a minute due; the pace is not known"
        managed = f"{self.managed_per_minute:,}".removesuffix(".0")
        missing = self.missing_slots
        needed = ""
        if missing:
            needed = f": {amount(missing, 'more slot is', 'more slots are')} needed"
        elif self.managed_per_minute < self.due_per_minute:
            needed = ": enough slots, no job waits long for one"
        return f"{managed} snapshots a minute, {due} due{needed}"


def capacity(
    record: Counts, freshness: Freshness, queue: QueueOverview, settings: Settings
) -> Capacity:
    """Compares how many snapshots the workers manage with how many are due.

    Reports missing slots only if nearly all slots are busy, jobs of an earlier pass of `schedule`
    still wait, and neither a suspension nor a hold is in force. Otherwise, the workers may manage
    less for other reasons: too few jobs were queued, or an app has used up its share of the slots.
    Never reports more missing slots than waiting jobs.

    record: the counts of snapshots that ended in at least the last `LOOKS_BACK` seconds.
    """
    by_period: Counter[datetime] = Counter()
    now = queue.read_at or freshness.read_at  # by the clock of the record
    for count in record.counts:
        age = (now - count.started_at).total_seconds()
        if count.outcome in _SCANS and PERIOD <= age < LOOKS_BACK:
            by_period[count.started_at] += count.count
    # In the first 10 minutes after a stop, the workers may have run for only a few seconds.
    whole = [count for at, count in by_period.items() if by_period[at - timedelta(seconds=PERIOD)]]
    managed = max(whole) * 60 / PERIOD if whole else None
    cycle = (settings.rescan_interval_ms + settings.scan_interval_ms) / 60_000
    due = freshness.links_to_scan / cycle
    busy = [bool(worker.jobs) for worker in queue.workers if worker.no_job_reason is None]
    slots = len(busy)
    waits = (queue.oldest_waiting_seconds or 0) * 1000 > _WAITING_PASSES * settings.scan_interval_ms
    can_tell = not (queue.suspension or queue.held)
    are_busy = sum(busy) > _BUSY * slots
    missing = 0
    if managed and managed < due and can_tell and waits and are_busy:
        missing = min(ceil(slots * due / managed) - slots, queue.waiting)
    return Capacity(managed and round(managed, 1), round(due, 1), slots, missing)
