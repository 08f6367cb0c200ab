"""`trend`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from datetime import timedelta
from shutil import get_terminal_size
from textwrap import wrap
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from docora_ops.cli import options
from docora_ops.cli.context import context_of
from docora_ops.render.columns import Column, Listing, cell
from docora_ops.text import When, amount, to_minute

if TYPE_CHECKING:
    from docora_ops.actions.trend import Trend, TrendPeriod

_WIDTH = 10  # characters of the longest bar
_RECENTLY = "in the last 20 to 30m"
_LEVELS, _PLAIN_LEVELS = "▁▂▃▄▅▆▇█", "_.:-=+*#"
_WITHOUT_BLOCKS = {"dumb", "linux", "vt100", "vt102", "vt220"}
"""Terminals whose fonts often lack block characters."""


def trend(
    typer_context: typer.Context,
    app: options.OptionalApp = None,
    since: options.Since = None,
    by: Annotated[
        Literal["hour", "10m", "day"],
        typer.Option("--by", metavar="PERIOD", help="The length of a row: 10m, hour or day."),
    ] = "hour",
    error: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="Count only failures whose error contains TEXT (case-insensitive). If TEXT has a "
            "*, it must match the whole error.",
        ),
    ] = None,
    as_json: options.Json = False,
    env_file: options.EnvFile = None,
) -> None:
    """Show how many snapshots succeeded and failed over time.

    The last line says whether failures fall or rise. Without --since, shows the last 24 hours;
    workers keep the record for 8 days. Needs only Redis, and Postgres with APP.
    """
    context = context_of(typer_context)
    from docora_ops.actions.trend import read_trend

    when: When = since or timedelta(days=1)
    result = read_trend(context.docora, app=app, since=when, by=by, error=error)
    if as_json:
        context.show_document(result)
    else:
        footer = _sentence(result)
        context.show_tables(_screen(result, footer, is_whole=since is not None), footer)


_COLUMNS: Sequence[Column[TrendPeriod]] = (
    Column("Since", lambda period: to_minute(period.started_at)),
    Column("Synced", lambda period: period.synced, is_number=True, left_out=4),
    Column("Failed", lambda period: period.failed, is_number=True),
    Column("Again", lambda period: period.failed_again, is_number=True),
    Column("Files", lambda period: period.files, is_number=True, left_out=3),
    Column("Median s", lambda period: _tenths(period.median_seconds), is_number=True, left_out=2),
    Column("Longest", lambda period: _tenths(period.longest_seconds), is_number=True, left_out=1),
)


def _screen(trend: Trend, footer: str, *, is_whole: bool) -> Iterator[object]:
    """Shows all rows if `is_whole` or in a pipe, otherwise the latest that fit the terminal."""
    size, periods = get_terminal_size(), trend.periods
    if not sys.stdout.isatty():
        yield Listing(_COLUMNS, periods)
    elif periods:
        most = max(period.failures for period in periods)
        bars: Column[TrendPeriod] = Column("Failures", lambda period: _bar(period.failures, most))
        # The other lines: two of headings, one for earlier rows, the footer, and the prompt.
        fitting = max(1, size.lines - 4 - len(wrap(footer, size.columns)))
        shown = periods if is_whole else periods[-fitting:]
        yield Listing([*_COLUMNS, bars], shown)
        if earlier := len(periods) - len(shown):
            yield cell(f"and {amount(earlier, 'earlier row')}: add --since 24h", "dim")


def _sentence(trend: Trend) -> str:
    """Says whether failures fall or rise, and when the record begins."""
    periods = trend.periods
    begin = to_minute(trend.reaches_back_to) if trend.reaches_back_to else ""
    if not trend.is_recorded:
        known = amount(sum(period.failures for period in periods), "failed job")
        since = f", none from before {begin}" if begin else ""
        return (
            f"{known} known{since}. No trend can be told: Docora keeps no record, and removes a "
            "failed job when it queues the link again."
        )
    if not periods:
        return "Nothing is recorded: no worker has kept a record for 8 days; see docora-ops doctor."
    first = to_minute(periods[0].started_at)
    with_error = " with such an error" if periods[0].synced is None else ""
    if any(period.failures for period in periods):
        start = f"The record begins at {begin}" if begin else f"Counted since {first}"
        sentences = [_course(trend, with_error), start]
    else:
        since = f"the record began at {begin}" if begin else first
        sentences = [f"No link failed{with_error} since {since}"]
    if trend.seconds_reach_back_to:
        sentences.append(f"Seconds are known since {to_minute(trend.seconds_reach_back_to)}")
    return ". ".join([*sentences, ""]).strip()


def _course(trend: Trend, with_error: str) -> str:
    highest = max(trend.periods, key=lambda period: period.failures)
    now, before = _rate(trend.failures_per_hour), _rate(trend.before_per_hour)
    now = f"{now} {_RECENTLY}"
    length = {600: "10 minutes", 3600: "hour"}.get(trend.period_seconds, "day")
    # A count, because the rate of a period that has not ended would mislead.
    peak = f"{highest.failures:,} in the {length} from {to_minute(highest.started_at)}"
    return {
        None: f"Failures: {peak}, {now}; too little is recorded to tell a trend",
        "falling": f"Failures fall: {peak}, {now}",
        "rising": f"Failures rise: {before} in the hour before, {now}",
        "steady": f"Failures neither fall nor rise clearly: {peak}, {now}",
        "none": f"No link has failed{with_error} for 80 minutes: {peak}",
    }[trend.direction]


def _tenths(seconds: float | None) -> str | None:
    return None if seconds is None else f"{seconds:.1f}"


def _rate(per_hour: float) -> str:
    """Returns `3/h`, or `under 1/h`."""
    return "under 1/h" if 0 < per_hour < 1 else f"{per_hour:,.0f}/h"


def trend_of_day_words(trend: Trend, *, with_bars: bool) -> str:
    """Returns `▁▁▂▇█▅▂▁ (24 h)  3/h in the last 20 to 30m, falling`. Only 0 gets the lowest bar.

    For a younger record, says `recorded since 21:10Z` instead of `24 h`.

    with_bars: begin with a bar for each period if there are several.
    """
    direction, begin = trend.direction, trend.reaches_back_to
    now = f"{_rate(trend.failures_per_hour)} {_RECENTLY}" + (f", {direction}" if direction else "")
    now = "none for 80m" if direction == "none" else now
    counts = [period.failures for period in trend.periods]
    since = f"recorded since {begin:%H:%MZ}" if begin else "24 h"
    if not with_bars or len(counts) == 1:
        return f"{now} ({since})" if begin else now
    levels = _LEVELS if _has_blocks() else _PLAIN_LEVELS
    bars = "".join(levels[-(-count * 7 // max(1, *counts))] for count in counts)
    return f"{bars} ({since})  {now}"


def _bar(count: int, most: int) -> str:
    """Returns a bar, which is longest for `most` and empty only for 0."""
    return ("█" if _has_blocks() else "#") * -(-count * _WIDTH // max(1, most))


def _has_blocks() -> bool:
    """Tells whether stdout can show block characters."""
    try:
        _LEVELS.encode(sys.stdout.encoding)
    except UnicodeEncodeError:
        return False
    return not sys.stdout.isatty() or os.environ.get("TERM", "dumb") not in _WITHOUT_BLOCKS
