"""How snapshots ended over time, and whether failures fall or rise. Only reads."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from fnmatch import translate
from math import sqrt
from statistics import median

from docora_ops.actions.docora import Docora, warn_of_mute_workers, warn_of_other_workers
from docora_ops.actions.lookup import resolve_app
from docora_ops.error_groups import split_delivery, typable
from docora_ops.errors import past_moment
from docora_ops.jobs import JobEnd
from docora_ops.queue.outcomes import (
    ALL_APPS,
    FAILURES,
    PERIOD,
    Counts,
    OutcomeFilter,
    PeriodCount,
    SnapshotOutcome,
    read_counts,
)
from docora_ops.queue.redis_server import read_clock
from docora_ops.queue.rq_workers import workers_without_record
from docora_ops.text import When

DAY = 86_400
PERIODS = {"10m": PERIOD, "hour": 3600, "day": DAY}
"""The lengths of periods in seconds, by name."""
_OF_DAY = 10_800  # seconds of each period in the trend of a day
_FILES = "files"
_RECENT, _BEFORE = timedelta(seconds=2 * PERIOD), timedelta(seconds=6 * PERIOD)
_SIGMAS, _LEAST_CHANGE = 2, 0.25


class Direction(StrEnum):
    """The direction of the number of failures."""

    NONE = "none"  # no failures for at least 80 minutes
    FALLING = "falling"
    STEADY = "steady"
    RISING = "rising"


@dataclass(frozen=True)
class TrendPeriod:
    """The numbers of snapshots that ended in one period, by outcome. Unknown numbers are None.

    failed: the link became failed.
    failed_again: the link was failed before it was queued, and failed once more.
    tried_again: the snapshot failed, and the link had tries left.
    files: files created, updated and deleted at the apps.
    median_seconds, longest_seconds: how long snapshots took. Only snapshots count that failed, sent
        files, or began with a link that was not synced.
    """

    started_at: datetime
    synced: int | None
    failed: int
    failed_again: int
    tried_again: int
    files: int | None
    median_seconds: float | None
    longest_seconds: float | None

    @property
    def failures(self) -> int:
        """Counts the snapshots after which the link is failed."""
        return self.failed + self.failed_again


@dataclass(frozen=True)
class Trend:
    """The numbers of snapshots by period and outcome, and how the number of failures changes.

    periods: oldest first; the last period has not ended yet. Empty if none is recorded.
    failures_per_hour: in the last 20 to 30 minutes, or since the record began if that is later.
    before_per_hour: in the hour before that.
    direction: None if the record is too short, or there is none.
    reaches_back_to: the start of the record, if earlier periods were asked for; otherwise None.
    seconds_reach_back_to: when the recorded durations begin, if later than the recorded counts;
        otherwise None.
    is_recorded: False with BullMQ, where only failed jobs are known, and each only until Docora's
        scheduler queues its link again. Then, periods without failed jobs are left out.
    """

    periods: Sequence[TrendPeriod]
    period_seconds: int
    failures_per_hour: float
    before_per_hour: float
    direction: Direction | None
    reaches_back_to: datetime | None = None
    seconds_reach_back_to: datetime | None = None
    is_recorded: bool = True


def read_trend(
    docora: Docora,
    *,
    app: str | None = None,
    since: When = timedelta(days=1),
    by: str = "hour",
    error: str | None = None,
) -> Trend:
    """Returns how snapshots ended since `since`, by period.

    app: only snapshots of this app (id, name or unambiguous prefix); needs Postgres.
    by: a name in `PERIODS`.
    error: only failures whose error matches this text, as in `LinkChoice`.

    Raises UsageError if `since` is in the future; NotFoundError, AmbiguousError, PostgresError,
    RedisError.
    """
    queue, length = docora.queue_to_read, PERIODS[by]
    warn_of_other_workers(docora)
    app_id = resolve_app(docora.database, app).app_id if app else None
    now = read_clock(docora.redis)
    first = floor(past_moment(since, now, "Redis"), length)
    start = min(first, floor(now, PERIOD) - _RECENT - _BEFORE)
    outcomes = queue.outcomes(OutcomeFilter(since=start, app_id=app_id))
    ends = outcomes.entries if error is None else _with_error(outcomes.entries, error)
    if not queue.can_push:
        # Only periods with a failed job are shown, however long ago `since` is.
        first = max(first, min((end.ended_at for end in ends), default=now))
        trend = _trend_of_failures(ends, start, first, length, now)
        return replace(
            trend,
            periods=[period for period in trend.periods if period.failures],
            direction=None,
            reaches_back_to=outcomes.reaches_back_to,
            is_recorded=False,
        )
    record = read_counts(docora.redis, start, now, app_id=app_id or ALL_APPS)
    if record.begin is None:
        return Trend([], length, 0, 0, None)
    warn_of_mute_workers(docora, workers_without_record(docora.redis))
    if error is not None:
        begin = outcomes.reaches_back_to or record.begin
        return _trend_of_failures(ends, begin, first, length, now)
    trend = _trend(record, ends, first, length, now)
    return replace(trend, seconds_reach_back_to=outcomes.reaches_back_to)


def trend_of_day(record: Counts, now: datetime) -> Trend:
    """Returns the trend of the last 24 hours, in 8 periods. `record`: the counts of that time."""
    first = floor(now, _OF_DAY) - timedelta(seconds=DAY - _OF_DAY)
    return _trend(record, (), first, _OF_DAY, now)


def _trend_of_failures(
    ends: Sequence[SnapshotOutcome], begin: datetime, first: datetime, length: int, now: datetime
) -> Trend:
    """Returns the trend of the failures among `ends`, all of which are known since `begin`."""
    counts = [PeriodCount(floor(end.ended_at, PERIOD), end.outcome, 1, end.files) for end in ends]
    trend = _trend(Counts(counts, begin), ends, first, length, now)
    periods = [replace(period, synced=None, files=None) for period in trend.periods]
    return replace(trend, periods=periods)


def _trend(
    record: Counts, ends: Iterable[SnapshotOutcome], first: datetime, length: int, now: datetime
) -> Trend:
    """Returns the trend since `first`. `ends`: the snapshots whose durations are known."""
    since, begin = floor(now, PERIOD) - _RECENT, record.begin or first
    failures = [(part.started_at, part.count) for part in record.counts if part.outcome in FAILURES]
    recent = sum(count for at, count in failures if at >= since)
    before = sum(count for at, count in failures if since - _BEFORE <= at < since)
    # Of a record that has just begun, 10 minutes count, because one failure makes no rate.
    seconds = max(float(PERIOD), (now - max(since, begin)).total_seconds())
    before_seconds = _BEFORE.total_seconds()
    is_known = begin <= since - _BEFORE
    return Trend(
        _periods(record.counts, ends, max(begin, first), length, now),
        length,
        recent * 3600 / seconds,
        before * 3600 / before_seconds,
        direction(recent, seconds, before, before_seconds) if is_known else None,
        begin if begin > first else None,
    )


def _periods(
    counts: Sequence[PeriodCount],
    ends: Iterable[SnapshotOutcome],
    first: datetime,
    length: int,
    now: datetime,
) -> list[TrendPeriod]:
    """Returns the periods of `length` seconds, from the one that contains `first` to that of `now`.

    counts: of 10 minutes each.
    """
    totals: defaultdict[datetime, Counter[str]] = defaultdict(Counter)
    for part in counts:
        totals[floor(part.started_at, length)] += Counter(
            {part.outcome: part.count, _FILES: part.files}
        )
    took: defaultdict[datetime, list[float]] = defaultdict(list)
    for end in ends:
        took[floor(end.ended_at, length)] += [end.seconds] if end.seconds is not None else []
    periods, at = [], floor(first, length)
    while at <= now:
        ended, seconds = totals[at], took[at]
        periods.append(
            TrendPeriod(
                at,
                ended[JobEnd.SYNCED],
                ended[JobEnd.FAILED],
                ended[JobEnd.FAILED_AGAIN],
                ended[JobEnd.TRIED_AGAIN],
                ended[_FILES],
                round(median(seconds), 3) if seconds else None,
                max(seconds, default=None),
            )
        )
        at += timedelta(seconds=length)
    return periods


def direction(recent: int, seconds: float, before: int, before_seconds: float) -> Direction:
    """Judges whether failures fall or rise.

    A change counts only if it is at least a quarter, and larger than chance explains: the number of
    recent failures differs from the expected number by more than two standard deviations. By
    chance, this happens at most once in 20 times.

    recent: the number of failures in the last `seconds`.
    before: the number of failures in the `before_seconds` before that.
    """
    total, share = recent + before, seconds / (seconds + before_seconds)
    if not total:
        return Direction.NONE
    expected = total * share
    by_chance = _SIGMAS * sqrt(expected * (1 - share)) + 0.5  # numbers are whole
    rates = (recent / seconds, before / before_seconds)
    is_large = abs(rates[0] - rates[1]) >= _LEAST_CHANGE * max(rates)
    if abs(recent - expected) <= by_chance or not is_large:
        return Direction.STEADY
    return Direction.RISING if recent > expected else Direction.FALLING


def _with_error(ends: Sequence[SnapshotOutcome], wanted: str) -> list[SnapshotOutcome]:
    """Selects snapshots by their error, as `failed --error` selects links."""
    errors = {end.error_message for end in ends if end.error_message}
    matching = {error for error in errors if _matches(error, wanted)}
    return [end for end in ends if end.error_message in matching]


def _matches(error: str, wanted: str) -> bool:
    if "*" not in wanted:
        return wanted.casefold() in error.casefold()
    # To fnmatch, `?` and `[` are wildcards, too.
    pattern = re.compile(translate(re.sub(r"[?[]", r"[\g<0>]", wanted)), re.IGNORECASE)
    return any(map(pattern.match, (error, split_delivery(typable(error))[0])))


def floor(moment: datetime, seconds: int) -> datetime:
    """Returns the start of the period that contains `moment`, in UTC.

    seconds: the length of each period. The first period begins in 1970.
    """
    whole = int(moment.timestamp())
    return datetime.fromtimestamp(whole - whole % seconds, UTC)
