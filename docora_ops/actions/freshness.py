"""Judges which links are overdue, and whether links are scanned at all. Writes nothing.

A cycle is one scan of all links that should be scanned regularly.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from docora_ops.actions.docora import Docora
from docora_ops.actions.link_jobs import look_at_jobs
from docora_ops.database.freshness import (
    MOST_OVERDUE,
    Scans,
    count_overdue,
    has_waiting_link,
    last_delivery,
    long_due_links,
    read_gaps,
    read_scans,
)
from docora_ops.errors import ConfigurationError, DocoraOpsError, RedisError
from docora_ops.jobs import QueueOverview
from docora_ops.links import LinkRef, LinkStatus
from docora_ops.queue.audit_stream import read_last_change
from docora_ops.settings import Settings
from docora_ops.text import amount, duration

RECENTLY = 900
"""Seconds before the last scan in which the pace of scanning is measured."""
_FEW_SCANS, _LONGEST_OF_FEW = 10, 3
"""With fewer than 10 scans in `RECENTLY`, the threshold is at most 3 times the default."""
_MISSED_PASSES = 5
"""Scan intervals without a pass of `schedule` after which to warn."""
_STILL_INTERVALS, _STILL_GAPS, _LEAST_STILL = 3, 3, 120
"""Movement is expected within 3 scan intervals, 3 times the longest gap or 120 s, whichever is
longest."""
_SAMPLE = 20
"""Due links of one status whose jobs are looked at."""
_WITHOUT_MOMENT = (LinkStatus.PENDING_SNAPSHOT, LinkStatus.FAILED)
"""Statuses in which a row does not tell since when its link is due."""

Gaps = Sequence[tuple[datetime, timedelta]]
"""The end and the length of each gap between two scans."""


@dataclass(frozen=True)
class Freshness:
    """When links were last scanned, and how many are overdue. Postgres's clock gives all times.

    overdue: synced links without a good scan for `overdue_after_seconds`. The time runs from the
        last good scan, or from when the repository's circuit closed if that is later. If no link at
        all was scanned in this time, pending links and links that were never scanned also count;
        for a link that was never scanned, the time runs from its creation.
    is_slow: a cycle takes longer than the rescan interval plus two scan intervals, and a link has
        waited that long for its scan. False if nothing moves or, with RQ, if `schedule` or all
        workers have stopped.
    oldest_scan_seconds: the seconds since the oldest last good scan of an overdue link; if there is
        none, of a synced link.
    schedule_stopped: the last pass of `schedule` is too old, and a link that has been due for too
        long has no live job. Judged by one look, so a timer that is just restarting also counts.
    due: links that a scheduler should queue now.
    nothing_moves: a link has been due for `nothing_moves_after_seconds`, during which no job ran,
        began or ended, and no file was delivered.
    """

    read_at: datetime
    overdue: int
    overdue_apps: int
    overdue_at_least: bool  # too many to count: both numbers are lower bounds
    overdue_since: datetime | None  # the oldest last good scan or creation of an overdue link
    overdue_after_seconds: int  # the threshold in force
    cycle_seconds: int | None  # length of a cycle at the last pace; None: too few scans
    is_slow: bool
    last_scanned_at: datetime | None  # the last good scan of any link
    scanned_recently: int  # good scans in the last 15 minutes
    oldest_scan_seconds: int | None
    links_to_scan: int  # links that should be scanned regularly, also those of held apps
    due: int
    nothing_moves_after_seconds: int  # see `still_threshold`
    nothing_moves: bool = False  # needs Redis, too
    schedule_stopped: bool = False  # needs Redis, too
    held: Sequence[str] = ()  # ids of held apps, whose links are neither due nor overdue

    @property
    def last_scanned_seconds(self) -> int | None:
        """Returns the time since the last good scan of any link."""
        at = self.last_scanned_at
        return int((self.read_at - at).total_seconds()) if at else None

    @property
    def slow_cycle_seconds(self) -> int:
        """Returns the seconds that a cycle takes at the last pace if `is_slow`, otherwise 0."""
        return self.cycle_seconds or 0 if self.is_slow else 0

    @property
    def slow_words(self) -> str:
        """Says how long a cycle takes, and when links are overdue."""
        return (
            f"slow: a cycle takes {duration(self.slow_cycle_seconds)}; "
            f"links are overdue after {duration(self.overdue_after_seconds)}"
        )

    @property
    def overdue_words(self) -> str:
        """Returns `2 links of 1 app`, or `at least 100000 links of 12 apps`."""
        of_apps = f"{amount(self.overdue, 'link')} of {amount(self.overdue_apps, 'app')}"
        return f"at least {of_apps}" if self.overdue_at_least else of_apps


def read_held(docora: Docora) -> tuple[list[str], DocoraOpsError | None]:
    """Returns the ids of the held apps, or no ids and the error if Redis can't be used.

    After an error, the caller need not wait for Redis again.
    """
    try:
        return list(docora.read_holds()), None
    except (ConfigurationError, RedisError) as error:
        return [], error


def links_freshness(docora: Docora, held: Sequence[str]) -> Freshness:
    """Returns the freshness of the links according to their rows alone.

    `is_slow` is provisional: `beside_queue` clears it if scanning has stopped. `beside_queue`
    also sets `nothing_moves` and `schedule_stopped`, which are False here.

    held: ids of held apps, whose links are neither due nor overdue.
    """
    settings, database = docora.settings, docora.database
    scans, gaps, seconds = _read_pace(docora, held)
    now, cycle = scans.read_at, cycle_seconds(scans, gaps)
    overdue = count_overdue(database, now - timedelta(seconds=seconds), held)
    oldest = overdue.oldest_scan_at
    usual = (settings.rescan_interval_ms + 2 * settings.scan_interval_ms) / 1000
    return Freshness(
        read_at=now,
        overdue=overdue.links,
        overdue_apps=overdue.apps,
        overdue_at_least=overdue.links >= MOST_OVERDUE,
        overdue_since=overdue.since,
        overdue_after_seconds=seconds,
        cycle_seconds=cycle,
        # Scanning many links at once can make the last minutes look slow, so a link must also have
        # waited for `usual` seconds.
        is_slow=cycle is not None
        and cycle > usual
        and has_waiting_link(database, now - timedelta(seconds=usual), held),
        last_scanned_at=scans.last_scanned_at,
        scanned_recently=scans.scanned_recently,
        oldest_scan_seconds=int((now - oldest).total_seconds()) if oldest else None,
        links_to_scan=scans.wanted,
        due=scans.due,
        nothing_moves_after_seconds=still_threshold(settings, gaps),
        held=held,
    )


def read_overdue_before(docora: Docora) -> datetime:
    """Returns the threshold as a time: links last scanned before it are overdue."""
    with docora.database.consistent_reads():
        scans, _, seconds = _read_pace(docora, [])
    return scans.read_at - timedelta(seconds=seconds)


def _read_pace(docora: Docora, held: Sequence[str]) -> tuple[Scans, Gaps, int]:
    """Reads when links were scanned, and the seconds after which a link is overdue."""
    database, settings = docora.database, docora.settings
    rescan = settings.rescan_interval_ms
    scans = read_scans(database, held, rescan_interval_ms=rescan, recently=RECENTLY)
    gaps = read_gaps(database, scans.last_scanned_at) if scans.last_scanned_at else []
    return scans, gaps, overdue_threshold(settings, cycle_seconds(scans, gaps), scans.before_last)


def cycle_seconds(scans: Scans, gaps: Gaps) -> int | None:
    """Returns the seconds that a cycle takes at the last pace; None if too few scans are known.

    The last pace is that of the minutes before the last scan of any link. A row keeps only the last
    scan of its link, so no earlier pace is known. A stop after the last scan does not change the
    pace. The longest gap is left out, because it may have been a stop.
    """
    if scans.last_scanned_at is None or scans.first_at is None or scans.before_last < _FEWEST_SCANS:
        return None
    longest = max((gap for at, gap in gaps if at > scans.first_at), default=timedelta())
    span = scans.last_scanned_at - scans.first_at - longest
    intervals = scans.before_last - (2 if longest else 1)
    return round(scans.wanted * max(1.0, span.total_seconds()) / intervals)


_FEWEST_SCANS = 3
"""Scans needed for a pace: the gap between only two scans may have been a stop."""


def overdue_threshold(settings: Settings, cycle: int | None, scans: int) -> int:
    """Returns the seconds without a good scan after which a link is overdue.

    `DOCORA_OPS_OVERDUE_AFTER` takes precedence. Otherwise, the threshold is at least two cycles, so
    that slow scanning is no alarm. With few scans, the threshold is limited, because a few
    retried links must not hide that scanning has stopped.

    cycle: seconds of a cycle; None if unknown.
    scans: the number of scans from which the cycle was computed.
    """
    threshold = settings.overdue_after_seconds
    if settings.overdue_after:
        return threshold
    seconds = max(threshold, 2 * (cycle or 0))
    return min(seconds, _LONGEST_OF_FEW * threshold) if scans < _FEW_SCANS else seconds


def still_threshold(settings: Settings, gaps: Gaps) -> int:
    """Returns the seconds without movement after which `nothing_moves` is an alarm."""
    if settings.overdue_after:
        return settings.overdue_after
    longest = max((gap.total_seconds() for _, gap in gaps), default=0.0)
    intervals = _STILL_INTERVALS * settings.scan_interval_ms / 1000
    return round(max(intervals, _STILL_GAPS * longest, _LEAST_STILL))


@dataclass(frozen=True)
class Activity:
    """When due links and jobs last moved, read at one moment.

    before: the start of the period in which movement is expected.
    due_since: when a synced link became due; only if earlier than `before`.
    unqueued_since: the earliest time at which a pending or failed link without a live job can have
        become due; only if earlier than `before`.
    waiting_since: when the oldest waiting job of an app that is not held was queued.
    moved_at: the times of the last good scan, the last failed job, the last start of a job and the
        last delivered file.
    changed_at: when the last audit entry was written, not counting passes of `schedule`.
    released_at: when a suspension or hold last ended.
    """

    before: datetime
    due_since: datetime | None = None
    unqueued_since: datetime | None = None
    waiting_since: datetime | None = None
    moved_at: Sequence[datetime | None] = ()
    changed_at: datetime | None = None
    released_at: datetime | None = None
    live_runs: int = 0
    is_suspended: bool = False

    @property
    def moves(self) -> bool:
        """Tells whether a job runs, or has begun, ended or delivered a file since `before`."""
        moments = filter(None, self.moved_at)
        return self.live_runs > 0 or any(moment >= self.before for moment in moments)


def judge(activity: Activity) -> bool:
    """Tells whether nothing moves: a link has been due since `before`, and nothing has moved since.

    False while workers are suspended, because the suspension has an alarm of its own. After a
    suspension or hold, links count as due only from its end on.
    """
    since = [activity.due_since, activity.waiting_since]
    if activity.unqueued_since:  # a later change may have made the link pending
        since.append(max(filter(None, (activity.unqueued_since, activity.changed_at))))
    due_since = min(filter(None, since), default=None)
    if due_since and activity.released_at:
        due_since = max(due_since, activity.released_at)
    is_due = due_since is not None and due_since < activity.before
    return is_due and not (activity.moves or activity.is_suspended)


def beside_queue(docora: Docora, freshness: Freshness, queue: QueueOverview) -> Freshness:
    """Sets `nothing_moves` and `schedule_stopped`, and clears `is_slow` if scanning has stopped.

    Scanning has stopped if `nothing_moves` or `schedule_stopped` is True. With RQ, scanning has
    also stopped if no worker takes jobs, or if the last pass of `schedule` is too old and no job
    waits.

    Raises PostgresError, RedisError.
    """
    settings, last_pass = docora.settings, queue.last_pass_seconds
    nothing_moves = judge(_read_activity(docora, freshness, queue))
    schedule_stopped, can_push = False, docora.queue_to_read.can_push
    limit = max(_MISSED_PASSES * settings.scan_interval_ms / 1000, settings.overdue_after or 0)
    if can_push and last_pass is not None and last_pass > limit:
        before = freshness.read_at - timedelta(seconds=limit)
        statuses = (LinkStatus.SYNCED, *_WITHOUT_MOMENT)
        schedule_stopped = bool(_unqueued_since(docora, statuses, before, freshness.held))
    is_slow = freshness.is_slow and not (nothing_moves or schedule_stopped)
    if is_slow and can_push:
        is_scheduled = not has_missed_passes(last_pass, settings)
        # If another program schedules, waiting jobs show that the workers are too slow.
        is_slow = queue.takes_jobs and (is_scheduled or queue.waiting > 0)
    return replace(
        freshness,
        nothing_moves=nothing_moves,
        schedule_stopped=schedule_stopped,
        is_slow=is_slow,
    )


def _read_activity(docora: Docora, freshness: Freshness, queue: QueueOverview) -> Activity:
    """Reads what `judge` needs. Stops early if anything moves, because most screens call this."""
    database, rescan = docora.database, docora.settings.rescan_interval_ms
    before = freshness.read_at - timedelta(seconds=freshness.nothing_moves_after_seconds)
    activity = Activity(
        before,
        waiting_since=queue.oldest_waiting_at,
        moved_at=(freshness.last_scanned_at, queue.last_failed_at, queue.last_began_at),
        live_runs=queue.live_runs,
        is_suspended=queue.suspension is not None,
    )
    if activity.moves:
        return activity
    due = long_due_links(database, LinkStatus.SYNCED, before, rescan, 1, freshness.held)
    changed_at, released_at = read_last_change(docora.redis)
    return replace(
        activity,
        due_since=due[0][1] if due else None,
        unqueued_since=_unqueued_since(docora, _WITHOUT_MOMENT, before, freshness.held),
        moved_at=(*activity.moved_at, last_delivery(database)),
        changed_at=changed_at,
        released_at=released_at,
    )


def _unqueued_since(
    docora: Docora, statuses: Sequence[LinkStatus], before: datetime, held: Sequence[str]
) -> datetime | None:
    """Returns the earliest due time of the links without a live job; None if there are none.

    Of each status, looks at a few links that became due before `before`. The due time of a pending
    or failed link is not recorded; uses the earliest possible time.
    """
    rescan = docora.settings.rescan_interval_ms
    due: dict[LinkRef, datetime] = {}
    for status in statuses:
        due |= long_due_links(docora.database, status, before, rescan, _SAMPLE, held)
    looked = look_at_jobs(docora.database, docora.queue_to_read, list(due))
    return min((due[ref] for ref, answer in looked if not answer.state.is_live), default=None)


def has_missed_passes(seconds: int | None, settings: Settings) -> bool:
    """Tells whether the last pass of `schedule` ended too many scan intervals ago.

    seconds: the time since that pass; None if no pass is known, which counts as too long ago.
    """
    return seconds is None or seconds > _MISSED_PASSES * settings.scan_interval_ms / 1000
