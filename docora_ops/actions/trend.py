"""How snapshots ended over time, and whether failures fall or rise. Only reads."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from math import sqrt
from statistics import median

from docora_ops.actions.audit_history import past_moment
from docora_ops.actions.docora import Docora
from docora_ops.actions.lookup import resolve_app
from docora_ops.actions.workers import warn_of_wrong_backend
from docora_ops.jobs import JobEnd
from docora_ops.queue.outcomes import (
    ALL_APPS,
    FAILURES,
    PERIOD,
    Counts,
    PeriodCount,
    SnapshotOutcome,
    read_counts,
)
from docora_ops.queue.redis_server import read_clock
from docora_ops.text import When

PERIODS = {"10m": PERIOD, "hour": 3600, "day": 86_400}
"""The lengths of periods in seconds, by name."""
_RECENT, _BEFORE = 3, 6
"""Periods of 10 minutes: the failures of the last 3, of which the last one goes on, are compared
with those of the 6 before."""
_SIGMAS, _LEAST_CHANGE = 2, 0.25
_FILES = "files"
DAY, _PIECE = 86_400, 10_800  # seconds

_ByPeriod = Mapping[datetime, Counter[str]]
"""The snapshots by start of their period and outcome, and their files."""


class Direction(StrEnum):
    """Whether fewer links fail than before."""

    NONE = "none"  # none has failed for 80 minutes
    FALLING = "falling"
    STEADY = "steady"
    RISING = "rising"


@dataclass(frozen=True)
class FailureRate:
    """How many links fail per hour. A link that fails again counts again.

    per_hour: in the last 20 to 30 minutes. before_per_hour: in the hour before these.
    direction: None if the record does not reach back that far.
    """

    per_hour: float
    before_per_hour: float
    direction: Direction | None


@dataclass(frozen=True)
class DayOfFailures(FailureRate):
    """How many links failed in the last 24 hours.

    counts: the failures of each three hours, oldest first; the last ones go on. None where the
        record had not begun.
    """

    counts: Sequence[int | None]


@dataclass(frozen=True)
class TrendPeriod:
    """The snapshots that ended in one period. What is not known is None.

    failed: their links were failed then. failed_again: their links had been failed before, and were
        queued by a scheduler. tried_again: they failed, and their links had tries left.
    files: created, updated and deleted at the apps.
    median_seconds, longest_seconds: of snapshots that failed, sent files or followed a change.
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
        """Counts the snapshots after which the link was failed."""
        return self.failed + self.failed_again


@dataclass(frozen=True)
class Trend(FailureRate):
    """The periods since a moment, oldest first; the last one goes on.

    reaches_back_to: the start of the record, if earlier periods were asked for.
    seconds_reach_back_to: the start of the recorded seconds, if they were dropped before it.
    is_recorded: False if no worker has written the record of outcomes for 8 days.
    has_only_failures: True with `error`, and beside Docora's own workers, where only the last
        failed jobs are known.
    """

    periods: Sequence[TrendPeriod]
    period_seconds: int
    reaches_back_to: datetime | None
    seconds_reach_back_to: datetime | None
    is_recorded: bool
    has_only_failures: bool


def read_trend(
    docora: Docora,
    *,
    app: str | None = None,
    since: When = timedelta(days=1),
    by: str = "hour",
    error: str | None = None,
) -> Trend:
    """Returns how snapshots ended since then, by period.

    app: only snapshots of this app (id, name or unambiguous prefix); needs Postgres.
    by: a name in `PERIODS`.
    error: only failures whose error contains this text (case-insensitive). If it has a `*`, it must
        match the whole error.

    Raises UsageError if `since` is in the future; NotFoundError, AmbiguousError, RedisError.
    """
    queue, length = docora.queue_to_read, PERIODS[by]
    warn_of_wrong_backend(docora)
    app_id = resolve_app(docora.database, app).app_id if app else None
    first = _floor(past_moment(docora, since), length)
    now = datetime.fromtimestamp(read_clock(docora.redis), UTC)
    start = min(first, _compared_since(now))
    outcomes = queue.outcomes(since=start, app_id=app_id)
    ends = [end for end in outcomes.entries if _matches(end.error_message, error)]
    begin, trimmed_at, is_recorded = outcomes.reaches_back_to, None, True
    by_period = _counted_ends(ends)
    if queue.can_push:
        record = read_counts(docora.redis, start, app_id=app_id or ALL_APPS)
        counted = _counted(record.counts)
        # Each failure has an entry: one that is only counted shows that the stream was trimmed.
        if begin and any(at < _floor(begin, PERIOD) for at, _ in _failures(counted)):
            trimmed_at = begin
        begin, is_recorded = record.reaches_back_to, record.is_kept
        if error is None:
            by_period = counted
        else:
            begin = trimmed_at or begin
    only_failures = error is not None or not queue.can_push
    rate = failure_rate(_failures(by_period), now, begin)
    begin = begin if begin and begin > first else None
    first = _floor(begin or first, length)
    periods = _periods(by_period, ends, first, now, length, only_failures=only_failures)
    return Trend(
        **vars(rate),
        periods=periods if is_recorded else [],
        period_seconds=length,
        reaches_back_to=begin,
        seconds_reach_back_to=trimmed_at,
        is_recorded=is_recorded,
        has_only_failures=only_failures,
    )


def day_of_failures(record: Counts, now: datetime) -> DayOfFailures:
    """Returns the failures of the last 24 hours. `record`: the counts since then."""
    failures = _failures(_counted(record.counts))
    rate = failure_rate(failures, now, record.reaches_back_to)
    first = _floor(now, PERIOD) + timedelta(seconds=PERIOD - DAY)
    counts: list[int | None] = []
    for number in range(DAY // _PIECE):
        begin = first + timedelta(seconds=number * _PIECE)
        end = begin + timedelta(seconds=_PIECE)
        is_known = record.reaches_back_to is None or record.reaches_back_to < end
        count = sum(count for at, count in failures if begin <= at < end)
        counts.append(count if is_known else None)
    return DayOfFailures(**vars(rate), counts=counts)


def failure_rate(
    failures: Iterable[tuple[datetime, int]], now: datetime, begin: datetime | None
) -> FailureRate:
    """Compares the failures of the last 20 to 30 minutes with those of the hour before.

    failures: the start of each 10 minutes, and how many links failed in them.
    begin: the start of the record, if it is known.
    """
    before_since = _compared_since(now)
    since = before_since + timedelta(seconds=_BEFORE * PERIOD)
    recent = before = 0
    for at, count in failures:
        recent += count if at >= since else 0
        before += count if before_since <= at < since else 0
    seconds, before_seconds = max(1.0, (now - since).total_seconds()), _BEFORE * PERIOD
    is_known = begin is None or begin <= before_since
    found = direction(recent, seconds, before, before_seconds) if is_known else None
    return FailureRate(recent * 3600 / seconds, before * 3600 / before_seconds, found)


def direction(recent: int, seconds: float, before: int, before_seconds: float) -> Direction:
    """Judges whether failures fall or rise, by more than chance and by at least a quarter.

    If nothing has changed, each failure falls into the recent time with the probability that is its
    share of the whole time. A number of recent failures more than two standard deviations from
    what that predicts comes about by chance at most once in 20 times.

    recent: the failures in the last `seconds`. before: those in the `before_seconds` before.
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


def _compared_since(now: datetime) -> datetime:
    return _floor(now, PERIOD) - timedelta(seconds=(_RECENT - 1 + _BEFORE) * PERIOD)


def _counted(counts: Iterable[PeriodCount]) -> _ByPeriod:
    by_period: defaultdict[datetime, Counter[str]] = defaultdict(Counter)
    for each in counts:
        by_period[each.started_at] += Counter({each.outcome: each.count, _FILES: each.files})
    return by_period


def _counted_ends(ends: Iterable[SnapshotOutcome]) -> _ByPeriod:
    by_period: defaultdict[datetime, Counter[str]] = defaultdict(Counter)
    for end in ends:
        by_period[_floor(end.ended_at, PERIOD)] += Counter({end.outcome: 1, _FILES: end.files})
    return by_period


def _failures(by_period: _ByPeriod) -> list[tuple[datetime, int]]:
    found = [(at, sum(counts[end] for end in FAILURES)) for at, counts in by_period.items()]
    return [(at, count) for at, count in found if count]


def _periods(
    by_period: _ByPeriod,
    ends: Iterable[SnapshotOutcome],
    first: datetime,
    now: datetime,
    length: int,
    *,
    only_failures: bool,
) -> list[TrendPeriod]:
    totals: defaultdict[datetime, Counter[str]] = defaultdict(Counter)
    for at, counts in by_period.items():
        totals[_floor(at, length)] += counts
    seconds: defaultdict[datetime, list[float]] = defaultdict(list)
    for end in ends:
        if end.seconds is not None:
            seconds[_floor(end.ended_at, length)].append(end.seconds)
    periods = []
    while first <= now:
        total, took = totals[first], seconds[first]
        periods.append(
            TrendPeriod(
                first,
                None if only_failures else total[JobEnd.SYNCED],
                total[JobEnd.FAILED],
                total[JobEnd.FAILED_AGAIN],
                total[JobEnd.TRIED_AGAIN],
                None if only_failures else total[_FILES],
                round(median(took), 3) if took else None,
                max(took, default=None),
            )
        )
        first += timedelta(seconds=length)
    return periods


def _matches(error: str | None, wanted: str | None) -> bool:
    if wanted is None:
        return True
    pattern = ".*".join(map(re.escape, wanted.split("*")))
    match = re.fullmatch if "*" in wanted else re.search
    return match(pattern, error or "", re.IGNORECASE | re.DOTALL) is not None


def _floor(moment: datetime, seconds: int) -> datetime:
    whole = int(moment.timestamp())
    return datetime.fromtimestamp(whole - whole % seconds, UTC)
