"""`status`."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from docora_ops.cli import options
from docora_ops.cli.context import Context, context_of
from docora_ops.cli.exit_codes import ExitCode, exit_code_of
from docora_ops.cli.queue import counts_words, held_words, workers_cell
from docora_ops.cli.terminal import finishing_first, has_failed, interrupted_code
from docora_ops.cli.trend import trend_of_day_words
from docora_ops.errors import PostgresError, RedisError, ServerError, UsageError
from docora_ops.jobs import ADVICE, Backend, JobEnd
from docora_ops.links import LinkStatus, arguments
from docora_ops.render.columns import NO_ERROR, Pairs, cell, first_lines, one_line, words
from docora_ops.render.link_tables import apps_of
from docora_ops.text import (
    ago,
    amount,
    are_far_apart,
    counted,
    duration,
    good_until_in_words,
    moment,
)

if TYPE_CHECKING:
    from rich.text import Text

    from docora_ops.actions.freshness import Freshness
    from docora_ops.actions.status import Status
    from docora_ops.jobs import QueueOverview

    Row = tuple[str, Text]

_SLOW_MS = 250  # latency above which a server is slow
_LINES = 22  # of a terminal with 24, without the next prompt and the last line of --watch
_WIDTH, _VALUE_WIDTH = 80, 67  # characters of a line, and of a value beside its name
_MOST = 4  # apps and errors to name; fewer if the screen would be too long
_SHORTEST_ERROR = 16  # minimum characters of an error in the first sentence
_PERIOD = 5  # seconds between two screens


def status(
    typer_context: typer.Context,
    seconds: Annotated[
        int | None,
        typer.Argument(
            metavar="SECONDS",
            min=1,
            max=3600,
            show_default=False,
            help=f"With --watch: the time between two screens (default: {_PERIOD}).",
        ),
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Show the screen again and again, until Ctrl-C.")
    ] = False,
    as_json: options.Json = False,
    env_file: options.EnvFile = None,
) -> int:
    """Show links, queue and workers on one screen.

    The first sentence names the worst problem. Checks lost and stuck links twice, some seconds
    apart, so that normal activity does not count. If one server is unreachable, shows the data of
    the other and exits with code 5. Changes nothing.
    """
    if seconds is not None and not watch:
        raise UsageError("SECONDS needs --watch", hint=f"docora-ops status --watch {seconds}")
    if watch and as_json:
        raise UsageError(
            "--json prints one document, and --watch one screen after the other",
            hint="run docora-ops status --json as often as needed",
        )
    context = context_of(typer_context)
    context.docora.settings = context.docora.settings.hurried(8, keeps_set=True)
    from docora_ops.actions.status import read_status

    if watch:
        return _watch(context, seconds or _PERIOD)
    status, errors = read_status(context.docora)
    if as_json:
        context.show_document(status, next(iter(errors), None))
    else:
        context.show_tables(screen(status, errors))
    for error in errors:
        context.report(error)
    return exit_code_of(errors[0]) if errors else ExitCode.OK


def _watch(context: Context, seconds: int) -> int:
    """Shows the screen every `seconds`, until a signal comes or nobody reads any more.

    Redraws a terminal in place, so that the last screen remains.
    """
    from docora_ops.actions.status import read_status
    from docora_ops.render.console import Redrawing, may_animate

    redrawing, docora = Redrawing() if may_animate(sys.stdout) else None, context.docora
    try:
        while not has_failed(sys.stdout):
            status, errors = read_status(docora)
            notices, docora.notices = docora.notices, []
            parts = [*screen(status, errors), *(cell(notice, "yellow") for notice in notices)]
            clocks = (status.queue, status.freshness)
            moments = (moment(clock.read_at) for clock in clocks if clock)
            read_at = next(filter(None, moments), "no server answers")
            with finishing_first():
                if redrawing:
                    footer = cell(f"{read_at}, again in {duration(seconds)}; Ctrl-C ends", "dim")
                    redrawing.draw(context.text_of([*parts, footer]))
                else:
                    context.show_tables([*parts, Pairs([("Read at", cell(read_at))]), ""])
            time.sleep(seconds)
            docora.renew()
    except KeyboardInterrupt:
        if redrawing:
            sys.stdout.write("\r\x1b[J")  # erases the ^C that the terminal shows
        return interrupted_code()
    return ExitCode.OK


def screen(status: Status, errors: Sequence[ServerError]) -> list[object]:
    """Returns the first sentence and the rows, which fit one screen together."""
    sentence = cell(sentence_of(status), "bold red" if status.headline.code.is_trouble else "bold")
    lines_left = _LINES - _lines_of(sentence, _WIDTH)
    rows: list[Row] = []
    is_terminal = sys.stdout.isatty()
    for most in range(_MOST, 0, -1) if is_terminal else [_MOST]:
        rows = list(status_rows(status, errors, most=most, with_bars=is_terminal))
        if sum(_lines_of(text, _VALUE_WIDTH) for _, text in rows) <= lines_left:
            break
    return [sentence, Pairs(rows)]


def _lines_of(text: Text, width: int) -> int:
    """Returns how many lines of `width` characters the text fills."""
    return 1 if text.no_wrap else -(-len(text) // width)


def sentence_of(status: Status) -> str:
    """Returns the first sentence: the worst problem, and since when it exists."""
    from docora_ops.actions.status import HeadlineCode
    from docora_ops.jobs import backlog_of, refusal_of

    headline, queue, freshness = status.headline, status.queue, status.freshness
    if queue is None or freshness is None:
        if queue is None and freshness is None:
            return "neither Postgres nor Redis can be used: nothing is known"
        no_links = "Postgres can't be used: the state of the links is unknown"
        no_queue = "Redis can't be used: the state of queue and workers is unknown"
        return no_links if freshness is None else no_queue
    links, since = headline.links or 0, headline.seconds
    last = "no scan yet" if since is None else f"last scan {ago(since)}"
    oldest = "" if since is None else f", oldest scan {ago(since)}"
    if held := len(queue.held):  # links of held apps do not count for `oldest`
        oldest += f"; {amount(held, 'app is', 'apps are')} held"
    wait = f"{amount(queue.waiting, 'job')} waiting, " if queue.waiting else ""
    match headline.code:
        case HeadlineCode.BACKEND_UNCLEAR:
            return "unclear which workers run: docora-ops help workers"
        case HeadlineCode.WRONG_WORKERS:
            return f"nothing is scanned: {ADVICE[queue.backend].only_others}; {last}"
        case HeadlineCode.NO_WORKER:
            none = "nothing is scanned: no worker runs"
            if queue.backend is Backend.BULLMQ:  # our user may lack the right to list them
                none = ADVICE[queue.backend].no_worker
            return f"{none}; {wait}{last}"
        case HeadlineCode.NO_JOBS_TAKEN:
            refusal = refusal_of(queue.workers)
            reason = refusal.words.partition(": ")[2] if refusal else "unknown"
            return f"nothing is scanned: no worker takes jobs ({reason}); {wait}{last}"
        case HeadlineCode.SUSPENDED:
            paused = "paused" if since is None else f"paused for {duration(since)}"
            return f"{paused}: {queue.suspension.sentence if queue.suspension else ''}"
        case HeadlineCode.NOT_SCHEDULED:
            failed = (status.links_by_status or {}).get(LinkStatus.FAILED)
            due, more = f"{amount(links, 'link')} due", f", {failed:,} failed" if failed else ""
            return f"no pass of docora-ops schedule for {duration(since or 0)}: {due}{more}"
        case HeadlineCode.NOTHING_MOVES:
            return f"nothing moves: {amount(links, 'link')} due, {last}"
        case HeadlineCode.FAILED:
            return _failed_sentence(status)
        case HeadlineCode.DRIFT:
            stuck = status.drift.stuck if status.drift else 0
            return f"{links - stuck:,} lost, {stuck:,} stuck: no job will scan these links"
        case HeadlineCode.OVERDUE:
            of_all = sum((status.links_by_status or {}).values())
            return f"{links:,} of {amount(of_all, 'link')} overdue{oldest}"
        case HeadlineCode.BACKLOG:
            backlog = backlog_of(queue)
            oldest = f"the oldest for {duration(since or 0)}"
            return backlog.sentence if backlog else f"{amount(links, 'job')} waiting, {oldest}"
        case HeadlineCode.SLOW:
            return freshness.slow_words
        case HeadlineCode.CIRCUITS_OPEN:
            circuits = status.open_circuits or 0
            whose = "whose circuit is" if circuits == 1 else "whose circuits are"
            return f"git failed for {amount(circuits, 'repository', 'repositories')}, {whose} open"
        case HeadlineCode.PENDING:
            return f"{amount(links, 'link')} not in sync yet{oldest}"
        case HeadlineCode.IN_SYNC:
            every = "1 link is" if links == 1 else f"all {links:,} links are"
            return f"{every} in sync{oldest}"
    return "there are no links yet"


def _failed_sentence(status: Status) -> str:
    """Returns `8 of 40 links failed: HTTP 502 at Quiet Harbor, for 1h`, or `for 2m to 1h`.

    With several errors, tells the age of the first: `HTTP 502 for 1h, and 1 other error in 2 apps`.
    """
    counts, apps = status.links_by_status or {}, status.failed_by_app or ()
    [first, *_] = status.failed_by_error or (None,)
    error, more = (first and first.error_message) or NO_ERROR, (status.failed_errors or 1) - 1
    where = f"in {status.failed_apps} apps" if len(apps) != 1 else f"at {apps[0].app_name}"
    seconds, least = status.headline.seconds, (first and first.good_until_seconds) or 0
    age = "" if seconds is None else f" for {duration(seconds)}"
    if seconds and are_far_apart(least, seconds):
        age = f" for {duration(least)} to {duration(seconds)}"
    begin = f"{status.headline.links:,} of {amount(sum(counts.values()), 'link')} failed: "
    if more:
        end = f"{age}, and {amount(more, 'other error')} {where}"
    else:
        end = f" {where},{age}" if age else f" {where}"
    if sys.stdout.isatty():
        from docora_ops.render.console import make_console

        room = max(_SHORTEST_ERROR, make_console(sys.stdout).width - len(begin) - len(end))
        error = error if len(error) <= room else f"{error[: room - 1]}…"
    return f"{begin}{error}{end}"


def status_rows(
    status: Status,
    errors: Sequence[ServerError],
    *,
    most: int = _MOST,
    with_bars: bool = False,
) -> Iterator[Row]:
    """Yields the names and values of the screen. Leaves out rows that have nothing to tell.

    errors: the errors of unusable servers.
    most: the number of apps and errors to name.
    with_bars: show the failures of a day as bars, too.
    """
    from docora_ops.cli.bulk_view import links_done, state_of

    yield from _servers(status, errors)
    yield from _links(status)
    yield from _ends(status, with_bars=with_bars)
    yield from _failed(status, most)
    yield from _tries_and_circuits(status)
    if status.freshness:
        yield from _freshness(status, status.freshness)
    if status.queue:
        yield from _queue(status, status.queue)
    if (drift := status.drift) and (drift.lost or drift.stuck):
        lost = amount(drift.lost, "lost link")
        counted = f"at least {lost}" if drift.at_least else f"{lost}, {drift.stuck:,} stuck"
        yield "Drift", _heading(counted, "docora-ops repair", "red")
    elif status.standby and status.queue:
        yield "Drift", cell("not judged: a standby may lag behind the queue", "yellow")
    if last := status.last_operation:
        done = f"{links_done(last)}, {state_of(last)}"
        yield "Operation", cell(f"{last.operation_id}: {done}, {ago(last.last_step_seconds)}")


def _servers(status: Status, errors: Sequence[ServerError]) -> Iterator[Row]:
    postgres = f"{status.postgres} (schema {status.schema})" if status.schema else status.postgres
    for name, kind, where, latency in (
        ("Postgres", PostgresError, postgres, status.postgres_latency_ms),
        ("Redis", RedisError, status.redis, status.redis_latency_ms),
    ):
        error = next((error for error in errors if isinstance(error, kind)), None)
        text = cell(error.message, "bold red") if error else one_line(where)
        if kind is PostgresError and status.standby:
            text.append(f", {status.standby}", "yellow")
            text.no_wrap = False
        if latency is not None and latency > _SLOW_MS:
            text.append(f", answers take {latency:,} ms", "yellow")
            text.no_wrap = False
        yield name, text


def _links(status: Status) -> Iterator[Row]:
    counts = status.links_by_status
    if counts is None:
        return
    parts = [
        cell(f"{count:,} {words(name)}", "red" if name == LinkStatus.FAILED else "")
        for name, count in counts.items()
        if count
    ]
    yield "Links", cell(", ").join(parts) if parts else cell("none")


def _ends(status: Status, *, with_bars: bool) -> Iterator[Row]:
    """Shows how snapshots ended, lately and over a day, which needs only Redis."""
    if recent := status.recent_ends:  # shows whether trouble grows or shrinks
        ends, since = dict(recent.by_outcome), f"since {recent.since_at:%H:%MZ}:"
    else:
        since = "in the last 15m at least"
        ends = {
            JobEnd.SYNCED: status.freshness.scanned_recently if status.freshness else 0,
            JobEnd.FAILED: status.queue.failed_recently if status.queue else 0,
        }
    if ended := ", ".join(counted({words(end): count for end, count in ends.items()})):
        yield "Ended" if status.links_by_status is None else "", cell(f"{since} {ended}")
    if (trend := status.failures) and any(period.failures for period in trend.periods):
        said = trend_of_day_words(trend, with_bars=with_bars)
        yield "Failures", _heading(said, "docora-ops trend")


def _failed(status: Status, most: int) -> Iterator[Row]:
    failed = (status.links_by_status or {}).get(LinkStatus.FAILED)
    if not failed:
        return
    good = good_until_in_words(
        status.good_until_at, status.good_until_seconds, status.oldest_scan_seconds
    )
    failed_apps = status.failed_by_app or ()
    by_app = [(app.links, f"{app.app_name} ({app.app_id})") for app in failed_apps]
    by_error = [(group.links, group.error_message) for group in status.failed_by_error or ()]
    apps, errors = status.failed_apps or 0, status.failed_errors or 0
    in_apps = f"{failed:,} in {amount(apps, 'app')}, {good}"
    with_errors = f"with {amount(errors, 'error', 'different errors')}"
    yield "Failed", _heading(in_apps, "docora-ops apps")
    yield from (("", one_line(f"  {line}")) for line in first_lines(by_app, most, apps))
    yield "", _heading(with_errors, "docora-ops failed --group-by error")
    yield from (("", one_line(f"  {line}")) for line in first_lines(by_error, most, errors))


def _tries_and_circuits(status: Status) -> Iterator[Row]:
    for group in (status.tried_by_error or ())[:1]:  # shows a hanging app long before links fail
        tried = f"{amount(group.links, 'link')} of {apps_of(group)}"
        are = "is" if group.links == 1 else "are"
        yield "Tries", one_line(f"{tried} {are} tried again: {group.error_message}", "yellow")
    if status.open_circuits:
        text = f"{amount(status.open_circuits, 'repository', 'repositories')} open"
        yield "Circuits", _heading(text, "docora-ops links --circuit open", "yellow")
    behind_circuit, left = status.pending_with_open_circuit, status.failed_until_retry
    to_queue = ADVICE[status.queue.backend].to_queue_behind_circuit if status.queue else ""
    if behind_circuit and to_queue:
        links = f"{amount(behind_circuit, 'pending link is', 'pending links are')} held back"
        yield "", _heading(links, to_queue, "yellow")
    if left:
        name = "" if status.open_circuits else "Circuits"
        links = f"{amount(left, 'link stays', 'links stay')} failed until a retry"
        yield name, _heading(links, to_queue or "docora-ops retry-all-failed", "yellow")


def _freshness(status: Status, freshness: Freshness) -> Iterator[Row]:
    seconds = freshness.last_scanned_seconds
    last = "no good scan yet" if seconds is None else f"last good scan {ago(seconds)}"
    lines: list[Text] = []
    if freshness.overdue:
        overdue, oldest = f"{freshness.overdue_words} overdue", freshness.oldest_scan_seconds
        overdue += "" if oldest is None else f", the oldest {duration(oldest)}"
        lines.append(_heading(overdue, "docora-ops links --overdue", "red"))
    if freshness.nothing_moves:
        due = f"nothing moves: {freshness.due:,} due, {last}"
        is_idle = status.queue is not None and status.queue.is_idle
        to_see = "docora-ops schedule" if is_idle else "docora-ops queue"
        lines.append(_heading(due, to_see, "red"))
    if freshness.is_slow:
        lines.append(cell(freshness.slow_words, "yellow"))
    has_links = any((status.links_by_status or {}).values())
    if not lines and has_links and status.headline.code.is_trouble:
        lines.append(cell(last))
    yield from (("" if number else "Freshness", line) for number, line in enumerate(lines))


def _queue(status: Status, queue: QueueOverview) -> Iterator[Row]:
    from docora_ops.actions.status import HeadlineCode
    from docora_ops.jobs import BackendSource, backlog_of

    advice, lost = ADVICE[queue.backend], queue.lost_words
    if queue.unfinished:
        yield "Queue", cell(counts_words(queue))
    if backlog := backlog_of(queue):
        yield "Backlog", cell(backlog.sentence, "yellow")
    if queue.backend_source is BackendSource.UNCLEAR:
        yield "Workers", cell("unclear which run: see docora-ops help workers", "red")
    elif queue.workers:
        yield "Workers", workers_cell(queue)
        if (capacity := status.capacity) and capacity.slots and capacity.due_per_minute:
            yield "", cell(f"  {capacity.words}", "yellow" if capacity.missing_slots else "")
    elif queue.has_only_others:
        yield "Workers", _heading(advice.only_others, advice.to_switch, "red")
    else:
        none = advice.no_worker_short
        none += f" ({lost})" if lost else ""
        yield "Workers", cell(f"{none}; to start one: {advice.to_start_workers}", "red")
    if queue.suspension:
        if status.headline.code is not HeadlineCode.SUSPENDED:
            yield "", one_line(f"  {queue.suspension.sentence}", "yellow")
        yield "", _heading("  to go on", advice.to_resume, "yellow")
    if queue.held:  # prefers an app whose hold does not end by itself
        app = next((app for app in queue.held if app.held.until_at is None), queue.held[0])
        more = len(queue.held) - 1
        others = f" ({amount(more, 'more app is', 'more apps are')} held)" if more else ""
        yield "Held", one_line(held_words(app), "yellow")
        to_release = f"docora-ops release {arguments(app.app_id)}"
        yield "", _heading(f"  to end the hold{others}", to_release, "yellow")
    if state := status.schedule_state:
        seconds = queue.last_pass_seconds
        last = "no pass known" if seconds is None else f"last pass {ago(seconds)}"
        text = cell(last)
        if state != "ok":
            style = "red" if state == "critical" else "yellow"
            text = _heading(f"{last}; a timer should run", "docora-ops schedule", style)
        yield "Schedule", text


def _heading(text: str, command: str, style: str = "") -> Text:
    return cell(text, style).append(f": {command}", "dim")
