"""Judges which links are overdue, and whether links are scanned at all. Writes nothing."""

from dataclasses import replace
from datetime import datetime, timedelta

from docora_ops.actions.docora import Docora
from docora_ops.database.freshness import (
    MOST_OVERDUE,
    count_overdue,
    has_due_link,
    has_waiting_link,
    oldest_scan,
    read_scans,
)
from docora_ops.diagnosis import CheckState
from docora_ops.jobs import Backend, QueueHealth, QueueOverview
from docora_ops.overview import Freshness, LinkCounts
from docora_ops.settings import Settings

RECENTLY = 900
"""Seconds whose good scans tell how fast links are scanned."""
_FEW_SCANS, _LONGEST_OF_FEW = 10, 3
"""With fewer recent scans than 10, the threshold is at most 3 times the configured one."""
_MISSED_PASSES = 5
"""Scan intervals without a pass of `schedule` that are worth a warning."""


def links_freshness(docora: Docora, links: LinkCounts) -> Freshness:
    """Returns how fresh the links are by their rows alone.

    `nothing_moves` does not take the failed jobs into account, nor `is_slow` schedule and workers:
    see `beside_queue`.
    """
    settings, database = docora.settings, docora.database
    rescan = settings.rescan_interval_ms
    scans = read_scans(database, links.by_status, rescan_interval_ms=rescan, recently=RECENTLY)
    now, cycle = scans.read_at, None
    if scans.first_recent_at:
        # A link tells its last scan only: links that were scanned twice would look half as fast.
        span = max(1.0, (now - scans.first_recent_at).total_seconds())
        cycle = round(scans.wanted * span / scans.scanned_recently)
    # A pass that takes long is no alarm: each link may miss one of them.
    configured = settings.overdue_after_seconds
    seconds = max(configured, 2 * (cycle or 0))
    # Workers that are merely slow scan more. If scheduler or workers have stopped, a few links that
    # somebody retries must not hide that.
    if scans.scanned_recently < _FEW_SCANS:
        seconds = min(seconds, _LONGEST_OF_FEW * configured)
    before = now - timedelta(seconds=seconds)
    overdue = count_overdue(database, before)
    oldest = overdue.oldest_scan_at or oldest_scan(database, before)
    # A link that is due waits for the next pass of the scheduler. And links that are scanned in one
    # go may make the last minutes look slow: so some link must have waited for as long, too.
    usual = (rescan + 2 * settings.scan_interval_ms) / 1000
    is_slow = cycle is not None and cycle > usual
    nothing_moves = scans.due > 0 and not _is_after(scans.last_scanned_at, before)
    return Freshness(
        read_at=now,
        overdue=overdue.links,
        overdue_apps=overdue.apps,
        overdue_at_least=overdue.links >= MOST_OVERDUE,
        overdue_since=overdue.since,
        overdue_after_seconds=seconds,
        cycle_seconds=cycle,
        is_slow=is_slow and has_waiting_link(database, now - timedelta(seconds=usual)),
        last_scanned_at=scans.last_scanned_at,
        scanned_recently=scans.scanned_recently,
        oldest_scan_seconds=int((now - oldest).total_seconds()) if oldest else None,
        due=scans.due,
        nothing_moves=nothing_moves and has_due_link(database, before, rescan),
    )


def beside_queue(
    docora: Docora, found: Freshness, queue: QueueOverview | QueueHealth | None
) -> Freshness:
    """Judges by the queue, too, whether nothing moves, and whether links are scanned slowly.

    A job that is queued again is no longer among the failed ones. So jobs that have waited for less
    than the threshold count as movement.
    With RQ, links are not scanned slowly but not at all if no worker runs, or if the last pass of
    `schedule` is too old and no job waits.

    queue: None if it is unknown; then it may move.
    """
    if queue is None:
        return replace(found, nothing_moves=False)
    before = found.overdue_before
    moves = _is_after(queue.last_failed_at, before) or _is_after(queue.oldest_waiting_at, before)
    is_slow = found.is_slow
    if is_slow and docora.backend.backend is Backend.RQ:
        state = judge_pass(queue.last_pass_seconds, found, docora.settings)
        # Another program may schedule: then jobs wait for workers that are too slow.
        is_slow = bool(queue.workers and (state is CheckState.OK or queue.waiting))
    return replace(found, nothing_moves=found.nothing_moves and not moves, is_slow=is_slow)


def judge_pass(seconds: int | None, freshness: Freshness | None, settings: Settings) -> CheckState:
    """Judges how long ago the last pass of `schedule` was.

    An old pass is critical only if links wait: otherwise another program queues what is due, and
    somebody has run `schedule` once by hand.

    seconds: since that pass; None: none was seen.
    freshness: as judged beside the queue; None: unknown.
    """
    if seconds is not None and seconds > settings.overdue_after_seconds:
        waits = freshness is not None and (freshness.overdue > 0 or freshness.nothing_moves)
        return CheckState.CRITICAL if waits else CheckState.WARNING
    is_old = seconds is None or seconds > _MISSED_PASSES * settings.scan_interval_ms / 1000
    return CheckState.WARNING if is_old else CheckState.OK


def _is_after(moment: datetime | None, before: datetime) -> bool:
    return moment is not None and moment >= before
