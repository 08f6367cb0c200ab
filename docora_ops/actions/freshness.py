"""Judges which links are overdue, and whether links are scanned at all. Writes nothing.

A cycle is one scan of all links that should be scanned regularly.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from docora_ops.actions.docora import Docora
from docora_ops.actions.link_jobs import look_at_jobs
from docora_ops.database.freshness import (
    MOST_OVERDUE,
    Scans,
    count_overdue,
    last_delivery,
    long_due_links,
    read_scans,
    steady_since,
)
from docora_ops.errors import RedisError
from docora_ops.jobs import QueueOverview
from docora_ops.links import LinkStatus
from docora_ops.queue.audit_stream import read_last_change
from docora_ops.settings import Settings
from docora_ops.text import amount, duration

_STEADY_SHARE, _STEADY_SCANS = 100, 1000
"""In each period as long as the threshold, steady scanning reaches 1 link in 100, at most 1,000."""
_MISSED_PASSES = 5
"""Scan intervals without a pass of `schedule` after which to warn."""
_STILL_INTERVALS, _STILL_GAPS, _LEAST_STILL = 3, 3, 120
"""Movement is expected within 3 scan intervals, 3 times the longest gap or 120 s, whichever is
longest."""
_WITHOUT_MOMENT = (LinkStatus.PENDING_SNAPSHOT, LinkStatus.FAILED)
"""Statuses in which a row does not tell since when its link is due."""


@dataclass(frozen=True)
class Freshness:
    """When links were last scanned, and how many are overdue. Postgres's clock gives all times.

    Links of held apps are neither due nor overdue, and need no scan.

    overdue: the number of synced links that have had no good scan for `overdue_after_seconds`. If a
        circuit has delayed the scan, the time runs from when the circuit closed. If no link at all
        was scanned in this time, links that are pending or were never scanned also count. For a
        link that was never scanned, the time runs from its creation.
    is_slow: a cycle takes longer than the rescan interval plus two scan intervals, and a job has
        waited for over two scan intervals although workers take jobs. False if nothing moves or
        `schedule` has stopped, which have alarms of their own.
    oldest_scan_seconds: the seconds since the earliest of the links' last good scans. Only synced
        and overdue links count, and only while their circuit is closed. If a circuit closed later
        than the scan, the time runs from then.
    schedule_stopped: the last pass of `schedule` is too old, and a link that has been due for too
        long has no live job. Also true while a timer restarts, because there is only one look.
    due: the number of links that a scheduler should queue now.
    nothing_moves: a link has been due for `nothing_moves_after_seconds`, during which no job ran,
        began or ended, and no file was delivered.
    """

    read_at: datetime
    overdue: int
    overdue_apps: int
    overdue_at_least: bool  # `overdue` and `overdue_apps` are lower bounds: too many to count
    overdue_after_seconds: int  # the threshold in force
    cycle_seconds: int | None  # length of a cycle at the last pace; None: too few scans
    is_slow: bool
    last_scanned_at: datetime | None  # the last good scan of any link
    scanned_recently: int  # good scans in the last 15 minutes
    oldest_scan_seconds: int | None
    links_to_scan: int  # links that should be scanned regularly
    due: int
    nothing_moves_after_seconds: int  # see `still_threshold`
    nothing_moves: bool
    schedule_stopped: bool

    @property
    def last_scanned_seconds(self) -> int | None:
        """Returns the seconds since the last good scan of any link; None if there is none."""
        at = self.last_scanned_at
        return int((self.read_at - at).total_seconds()) if at else None

    @property
    def slow_cycle_seconds(self) -> int:
        """Returns the seconds that a cycle takes at the last pace if `is_slow`, otherwise 0."""
        return self.cycle_seconds or 0 if self.is_slow else 0

    @property
    def slow_words(self) -> str:
        """Returns a text such as `slow: a cycle takes 33m, and jobs wait`."""
        return f"slow: a cycle takes {duration(self.slow_cycle_seconds)}, and jobs wait"

    @property
    def overdue_words(self) -> str:
        """Returns a text such as `2 links of 1 app`, or `at least 100000 links of 12 apps`."""
        of_apps = f"{amount(self.overdue, 'link')} of {amount(self.overdue_apps, 'app')}"
        return f"at least {of_apps}" if self.overdue_at_least else of_apps


def read_overdue_before(docora: Docora, held: Collection[str]) -> datetime:
    """Returns a time. Links whose last scan was before this time are overdue.

    held: the ids of the held apps.
    """
    with docora.database.consistent_reads():
        scans = read_scans(docora.database, list(held), docora.settings.rescan_interval_ms)
        return scans.read_at - timedelta(seconds=_overdue_threshold(docora, scans))


def cycle_seconds(scans: Scans) -> int | None:
    """Returns the seconds that a cycle takes at the last pace; None if too few scans are known.

    Measures the pace in the minutes before the last scan of any link, so a stop after that scan
    does not change the pace. Leaves out the longest interval between scans, because it may have
    been a stop; the length of intervals under 10 s is not known. No earlier pace is known, because
    a row keeps only the last scan of its link.
    """
    if scans.last_scanned_at is None or scans.first_at is None:
        return None
    longest = max((gap for at, gap in scans.gaps if at > scans.first_at), default=timedelta())
    span = scans.last_scanned_at - scans.first_at - longest
    intervals = scans.before_last - 2
    seconds = scans.wanted * max(1.0, span.total_seconds())
    return round(seconds / intervals) if intervals > 0 else None


def _overdue_threshold(docora: Docora, scans: Scans) -> float:
    """Returns the seconds without a good scan after which a link is overdue.

    If scanning is slow, these are two cycles, but no longer than scanning has been steady: a few
    links that are still scanned must not hide that all others wait. `DOCORA_OPS_OVERDUE_AFTER`
    takes precedence.
    """
    seconds, two_cycles = docora.settings.overdue_after_seconds, 2 * (cycle_seconds(scans) or 0)
    if docora.settings.overdue_after or two_cycles <= seconds:
        return seconds
    least = min(max(1, scans.wanted // _STEADY_SHARE), _STEADY_SCANS)
    steady = scans.read_at - steady_since(docora.database, seconds, least)
    return max(seconds, min(two_cycles, steady.total_seconds()))


def still_threshold(settings: Settings, scans: Scans) -> int:
    """Returns the seconds without any movement after which `nothing_moves` is true."""
    if settings.overdue_after:
        return settings.overdue_after
    longest = max((gap.total_seconds() for _, gap in scans.gaps), default=0.0)
    intervals = _STILL_INTERVALS * settings.scan_interval_ms / 1000
    return round(max(intervals, _STILL_GAPS * longest, _LEAST_STILL))


def read_freshness(
    docora: Docora, queue: QueueOverview | None
) -> tuple[Freshness, RedisError | None]:
    """Returns the freshness of the links, and the error if Redis fails. Raises PostgresError.

    If Redis fails, `nothing_moves` is False although unknown, and so may be `schedule_stopped`.

    queue: None if Redis can't be used. Then, no app counts as held, and no alarm but `overdue` is
        possible.
    """
    settings, database = docora.settings, docora.database
    held = [app.app_id for app in queue.held] if queue else []
    with database.consistent_reads():
        scans = read_scans(database, held, settings.rescan_interval_ms)
        now, seconds = scans.read_at, _overdue_threshold(docora, scans)
        overdue, apps, oldest = count_overdue(database, now - timedelta(seconds=seconds), held)
    cycle, still = cycle_seconds(scans), still_threshold(settings, scans)
    oldest = min(filter(None, (oldest, scans.oldest_at)), default=None)
    waited = int((now - oldest).total_seconds()) if oldest else None
    schedule_stopped = nothing_moves = is_slow = False
    lost: RedisError | None = None
    if queue:
        # Scanning many links at once can make the last minutes look slow. If no job of an earlier
        # pass waits, the workers keep pace.
        passes = 2 * settings.scan_interval_ms / 1000
        has_work = queue.takes_jobs and (queue.oldest_waiting_seconds or 0) > passes
        is_slow = has_work and (cycle or 0) > settings.rescan_interval_ms / 1000 + passes
        try:
            schedule_stopped = _schedule_stopped(docora, queue, now, held)
            before = now - timedelta(seconds=still)
            nothing_moves = _nothing_moves(docora, queue, scans.last_scanned_at, before, held)
        except RedisError as error:
            lost = error
    freshness = Freshness(
        read_at=now,
        overdue=overdue,
        overdue_apps=apps,
        overdue_at_least=overdue >= MOST_OVERDUE,
        overdue_after_seconds=round(seconds),
        cycle_seconds=cycle,
        is_slow=is_slow and not (nothing_moves or schedule_stopped),
        last_scanned_at=scans.last_scanned_at,
        scanned_recently=scans.scanned_recently,
        oldest_scan_seconds=waited,
        links_to_scan=scans.wanted,
        due=scans.due,
        nothing_moves_after_seconds=still,
        nothing_moves=nothing_moves,
        schedule_stopped=schedule_stopped,
    )
    return freshness, lost


def late_after_seconds(settings: Settings) -> float:
    """Returns how many seconds after a pass of `schedule` the next pass is too late."""
    return _MISSED_PASSES * settings.scan_interval_ms / 1000


def _schedule_stopped(
    docora: Docora, queue: QueueOverview, now: datetime, held: Sequence[str]
) -> bool:
    limit = max(late_after_seconds(docora.settings), docora.settings.overdue_after or 0)
    if queue.last_pass_seconds is None or queue.last_pass_seconds <= limit:
        return False
    statuses = (LinkStatus.SYNCED, *_WITHOUT_MOMENT)
    return _has_unqueued(docora, statuses, now - timedelta(seconds=limit), held)


def _nothing_moves(
    docora: Docora,
    queue: QueueOverview,
    last_scanned_at: datetime | None,
    before: datetime,
    held: Sequence[str],
) -> bool:
    """Tells whether a link or job has waited since `before`, and nothing has moved since.

    False while workers are suspended, because the suspension has an alarm of its own. After a
    suspension or hold, links count as due only from its end on.
    """
    database, settings = docora.database, docora.settings

    def is_recent(at: datetime | None) -> bool:
        return at is not None and at >= before

    # First what is known already: most screens call this, and usually something moves.
    ends = (last_scanned_at, queue.last_failed_at, queue.last_began_at)
    if queue.suspension or queue.live_runs or any(map(is_recent, ends)):
        return False
    changed_at, released_at = read_last_change(docora.redis)
    if is_recent(released_at) or is_recent(last_delivery(database)):
        return False
    if queue.oldest_waiting_at and not is_recent(queue.oldest_waiting_at):
        return True
    if long_due_links(database, [LinkStatus.SYNCED], before, settings.rescan_interval_ms, held):
        return True
    # The change may have made these links pending.
    return not is_recent(changed_at) and _has_unqueued(docora, _WITHOUT_MOMENT, before, held)


def _has_unqueued(
    docora: Docora, statuses: Sequence[LinkStatus], before: datetime, held: Sequence[str]
) -> bool:
    """Tells whether one of a few links that became due before `before` has no live job."""
    database, rescan = docora.database, docora.settings.rescan_interval_ms
    links = long_due_links(database, statuses, before, rescan, held)
    looked = look_at_jobs(database, docora.queue_to_read, links)
    return any(not answer.state.is_live for _, answer in looked)
