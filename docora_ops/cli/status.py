"""`status`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import typer

from docora_ops.cli import options
from docora_ops.cli.context import context_of
from docora_ops.cli.exit_codes import ExitCode, exit_code_of
from docora_ops.cli.queue import held_words, workers_cell
from docora_ops.cli.trend import trend_of_day_words
from docora_ops.errors import PostgresError, RedisError, ServerError
from docora_ops.links import LinkStatus, arguments
from docora_ops.render.columns import NO_ERROR, Pairs, cell, words
from docora_ops.text import ago, amount, duration, good_until, moment

if TYPE_CHECKING:
    from datetime import datetime

    from rich.text import Text

    from docora_ops.actions.capacity import Capacity
    from docora_ops.actions.checks import CheckState
    from docora_ops.actions.freshness import Freshness
    from docora_ops.actions.status import Status
    from docora_ops.jobs import HeldApp, QueueOverview

    Row = tuple[str, Text]

_SLOW_MS = 250  # latency above which a server is slow


def status(
    typer_context: typer.Context,
    as_json: options.Json = False,
    target: options.Target = None,
    env_file: options.EnvFile = None,
) -> int:
    """Show links, queue and workers on one screen.

    Checks lost and stuck links twice, some seconds apart, so that normal activity does not count.
    If one server is unreachable, shows the data of the other and exits with code 5. Changes
    nothing.
    """
    context = context_of(typer_context)
    context.docora.settings = context.docora.settings.hurried(8)
    from docora_ops.actions.status import read_status

    status, errors = read_status(context.docora)
    if as_json:
        context.show_document(status, next(iter(errors), None))
    else:
        context.show_tables([Pairs(list(status_rows(status, errors)))])
    for error in errors:
        context.report(error)
    return exit_code_of(errors[0]) if errors else ExitCode.OK


def status_rows(
    status: Status, errors: Sequence[ServerError], *, is_verified: bool = False
) -> Iterator[Row]:
    """Yields the names and values of the screen.

    errors: the errors of unusable servers.
    is_verified: the delivered files have been compared, so do not suggest `verify`.
    """
    from docora_ops.cli.bulk_view import links_done, state_of
    from docora_ops.jobs import ADVICE

    if status.target:
        yield "Target", cell(status.target)
    postgres = f"{status.postgres} (schema {status.schema})" if status.schema else status.postgres
    for name, kind, where, latency in (
        ("Postgres", PostgresError, postgres, status.postgres_latency_ms),
        ("Redis", RedisError, status.redis, status.redis_latency_ms),
    ):
        error = next((error for error in errors if isinstance(error, kind)), None)
        text = cell(error.message, "bold red") if error else cell(where)
        if kind is PostgresError and status.standby:
            text.append(f", {status.standby}", "yellow")
        if latency is not None and latency > _SLOW_MS:
            text.append(f", answers take {latency:,} ms", "yellow")
        yield name, text
    yield from _links(status)
    if status.freshness:
        yield from _freshness(status.freshness)
    queue = status.queue
    advice = ADVICE[queue.backend] if queue else None
    held_back = status.pending_with_open_circuit
    if held_back and advice and advice.to_queue_held_back:
        links = f"{amount(held_back, 'pending link')} {'is' if held_back == 1 else 'are'} held back"
        yield "", _heading(links, advice.to_queue_held_back, "yellow")
    if queue:
        yield from _queue(queue, status.capacity, has_only_others=status.has_only_others)
    if queue and queue.held:
        yield "Held", _held(queue.held)
    if queue and status.schedule_state:
        yield "Schedule", _schedule(queue, status.schedule_state)
    if drift := status.drift:
        if drift.lost or drift.stuck:
            lost = amount(drift.lost, "lost link")
            counted = f"at least {lost}" if drift.at_least else f"{lost}, {drift.stuck} stuck"
            yield "Drift", _heading(counted, "docora-ops repair", "red")
        else:
            none = "no sign of lost links" if drift.at_least else "no lost or stuck link"
            yield "Drift", cell(none)
    elif status.standby and queue:
        yield "Drift", cell("not judged: a standby may lag behind the queue", "yellow")
    counts = status.links_by_status
    if counts and counts[LinkStatus.SYNCED] and not is_verified:
        unproven = "synced does not prove that all were delivered"
        yield "Files", _heading(unproven, "docora-ops verify")
    if queue:
        progress = "none in the last hour"
        if last := status.last_operation:
            done = f"{links_done(last)}, {state_of(last)}"
            progress = f"{last.operation_id}: {done}, {ago(last.last_step_seconds)}"
        yield "Operation", cell(progress)


def _links(status: Status) -> Iterator[Row]:
    counts = status.links_by_status
    if counts is None:
        return
    parts = [
        cell(f"{count} {words(name)}", "red" if name == LinkStatus.FAILED else "")
        for name, count in counts.items()
        if count
    ]
    yield "Links", cell(", ").join(parts) if parts else cell("none")
    if parts:
        yield "", cell(_recent_ends(status))
    if (trend := status.failures) and any(period.failures for period in trend.periods):
        yield "Failures", _heading(trend_of_day_words(trend), "docora-ops trend")
    if failed := counts[LinkStatus.FAILED]:
        apps, errors = status.failed_by_app or (), status.failed_by_error or ()
        width = len(str(failed))
        by_app = [f"{app.links:>{width}}  {app.app_name} ({app.app_id})" for app in apps]
        by_error = [
            f"{group.links:>{width}}  {group.error_message or f'({NO_ERROR})'}" for group in errors
        ]
        last = "last good until " if status.good_until_at else ""  # the latest of all failed links
        since = good_until(status.good_until_at, status.good_until_seconds)
        in_apps = f"{failed} in {amount(status.failed_apps or 0, 'app')}, {last}{since}"
        yield "Failed", _heading(in_apps, "docora-ops apps")
        yield from _first_lines(by_app, status.failed_apps or 0)
        with_errors = f"with {amount(status.failed_errors or 0, 'error', 'different errors')}"
        yield "", _heading(with_errors, "docora-ops failed --group-by error")
        yield from _first_lines(by_error, status.failed_errors or 0)
    if status.open_circuits:
        text = f"{amount(status.open_circuits, 'repository', 'repositories')} open"
        yield "Circuits", _heading(text, "docora-ops links --circuit open", "yellow")
    else:
        yield "Circuits", cell("none open")


def _first_lines(lines: Sequence[str], total: int) -> Iterator[Row]:
    """Yields the lines. If `total` is larger, the last line says how many are left out."""
    shown = lines if len(lines) >= total else [*lines[:-1], f"and {total - len(lines) + 1} more"]
    yield from (("", _line(line)) for line in shown)


def _recent_ends(status: Status) -> str:
    """Says how many jobs ended recently, which shows whether trouble grows or shrinks."""
    if recent := status.recent_ends:
        ended = [f"{count} {words(outcome)}" for outcome, count in recent.by_outcome.items()]
        return f"since {recent.since_at:%H:%MZ}: {', '.join(ended) or 'no snapshot ended'}"
    counts = {
        "synced": status.freshness.scanned_recently if status.freshness else 0,
        "failed": status.queue.failed_recently if status.queue else 0,
    }
    if ends := ", ".join(f"{count} {word}" for word, count in counts.items() if count):
        return f"in the last 15 min at least {ends}"
    return "no job is known to have ended in the last 15 min"


def _freshness(freshness: Freshness) -> Iterator[Row]:
    def since(at: datetime | None) -> str:
        return ago(int((freshness.read_at - at).total_seconds())) if at else "never"

    last = "no good scan yet"
    if freshness.last_scanned_at:
        last = f"last good scan {since(freshness.last_scanned_at)}"
    lines: list[Text] = []
    if freshness.overdue:
        overdue = f"{freshness.overdue_words} overdue"
        lines.append(_heading(overdue, "docora-ops links --overdue", "red"))
        oldest = freshness.overdue_since
        lines.append(cell(f"  oldest good scan {since(oldest)} ({moment(oldest)})"))
    if freshness.nothing_moves:
        due = f"nothing moves: {freshness.due} due, {last}"
        lines.append(_heading(due, "docora-ops queue", "red"))
    if lines and freshness.stopped:
        lines.append(cell(f"  {freshness.stopped.sentence}", "red"))
    if freshness.is_slow:
        lines.append(cell(freshness.slow_words, "yellow"))
    if freshness.shortest_cycle_seconds:
        lines.append(cell(freshness.too_short_words, "yellow"))
    for number, line in enumerate(lines or [cell(f"no link overdue, {last}")]):
        yield "" if number else "Freshness", line


def _schedule(queue: QueueOverview, state: CheckState) -> Text:
    seconds = queue.last_pass_seconds
    last = "no pass known" if seconds is None else f"last pass {ago(seconds)}"
    if state == "ok":
        return cell(last)
    style = "red" if state == "critical" else "yellow"
    return _heading(f"{last}; a timer should run", "docora-ops schedule", style)


def _held(apps: Sequence[HeldApp]) -> Text:
    """Names a held app, first one whose hold does not end by itself."""
    app = next((app for app in apps if app.held.until_at is None), apps[0])
    more = f" (and {amount(len(apps) - 1, 'more app')})" if len(apps) > 1 else ""
    line = cell(f"{held_words(app)}{more}", "yellow")
    line.overflow, line.no_wrap = "ellipsis", True
    if app.held.until_at is None:
        line = _heading(f"{app.app_name or app.app_id} for ever{more}", _to_release(app), "yellow")
    return line


def _to_release(app: HeldApp) -> str:
    return f"docora-ops release {arguments(app.app_name or app.app_id)}"


def _heading(text: str, command: str, style: str = "") -> Text:
    return cell(text, style).append(f": {command}", "dim")


def _line(text: str, style: str = "") -> Text:
    """Returns text that is cut at the edge of the terminal, so that everything fits one screen."""
    line = cell(f"  {text}", style)
    line.overflow, line.no_wrap = "ellipsis", True
    return line


def _queue(
    queue: QueueOverview, capacity: Capacity | None, *, has_only_others: bool
) -> Iterator[Row]:
    from docora_ops.jobs import ADVICE, BackendSource

    age = queue.oldest_waiting_seconds
    waited = f" (the oldest for {duration(age)})" if age is not None else ""
    counts = f"{queue.waiting} waiting{waited}, {queue.active} running, {queue.delayed} delayed"
    yield "Queue", cell(counts)
    advice, lost = ADVICE[queue.backend], queue.lost_words
    if queue.backend_source is BackendSource.UNCLEAR:
        yield "Workers", cell("unclear which run: see docora-ops help workers", "red")
    elif queue.workers:
        yield "Workers", workers_cell(queue)
        if capacity:
            yield "", cell(f"  {capacity.words}", "yellow" if capacity.missing_slots else "")
    elif has_only_others:
        yield "Workers", _heading(advice.only_others, advice.to_switch, "red")
    else:
        none = advice.no_worker_short
        none += f" ({lost})" if lost else ""
        yield "Workers", cell(f"{none}; to start one: {advice.to_start_workers}", "red")
    if queue.suspension:
        yield "", _line(queue.suspension.sentence, "yellow")
        yield "", _heading("  to go on", advice.to_resume, "yellow")
