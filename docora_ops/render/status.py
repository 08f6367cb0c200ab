"""`status`: the first screen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from rich.table import Table
from rich.text import Text

from docora_ops.bulk import KnownOperation
from docora_ops.errors import PostgresError, RedisError, ServerError
from docora_ops.jobs import Backend, QueueOverview
from docora_ops.links import LinkStatus
from docora_ops.render.cells import NO_ERROR, ago, cell, with_id, words
from docora_ops.render.json import Document
from docora_ops.render.layout import pairs
from docora_ops.render.queue import job_counts
from docora_ops.status import SLOW_MS, DriftCounts, LinkOverview, Status, Trend
from docora_ops.text import amount, duration

_STATUSES = (
    LinkStatus.SYNCED,
    LinkStatus.PENDING_SNAPSHOT,
    LinkStatus.SCANNING,
    LinkStatus.FAILED,
)
Row = tuple[str, Text]


def document(status: Status) -> Document:
    """Returns the JSON of `status`. The fields of a server that is down are null."""
    links, queue = status.links, status.queue
    counts = links.counts if links else None
    return {
        "data": {
            "postgres": status.postgres,
            "redis": status.redis,
            "postgres_latency_ms": status.postgres_latency_ms,
            "redis_latency_ms": status.redis_latency_ms,
            "links": counts and dict(counts.by_status),
            "open_circuits": counts and counts.open_circuits,
            "failed_apps": links and links.failed_by_app.total,
            "failed_by_app": links and links.failed_by_app.rows,
            "failed_errors": links and links.failed_by_error.total,
            "failed_by_error": links and links.failed_by_error.rows,
            "queue": queue
            and {
                "backend": queue.backend,
                "queue": queue.queue,
                **job_counts(queue),
                "oldest_waiting_seconds": queue.oldest_waiting_seconds,
                "suspended": queue.suspended,
                "suspension": queue.suspension,
                "workers": len(queue.live_workers),
                "workers_busy": _busy(queue),
            },
            "drift": status.drift,
            "last_operation": status.last_operation,
        }
    }


def screen(status: Status, trend: Trend | None = None) -> Table:
    """Shows the state on one screen; with `trend` also what has changed."""
    return pairs(_rows(status, trend))


def _rows(status: Status, trend: Trend | None) -> Iterator[Row]:
    lost = {type(error): error for error in status.errors}
    for name, kind, where, latency in (
        ("Postgres", PostgresError, status.postgres, status.postgres_latency_ms),
        ("Redis", RedisError, status.redis, status.redis_latency_ms),
    ):
        error = next((lost[each] for each in lost if issubclass(each, kind)), None)
        text = cell(error.message, "bold red") if error else cell(where)
        if latency is not None and latency > SLOW_MS:
            text.append(f", answers take {latency:,} ms", "yellow")
        yield name, text
    if trend:  # not at the end, which a small terminal cuts off
        yield "Change", _trend(trend)
    if status.links:
        yield from _links(status.links)
    if status.queue:
        yield from _queue(status.queue, has_only_others=status.has_only_others)
    if status.drift:
        yield "Drift", _drift(status.drift)
    elif ServerError in lost:
        yield "Drift", cell("not counted in time", "yellow")
    if status.queue:
        yield "Operation", _operation(status.last_operation)


def _links(links: LinkOverview) -> Iterator[Row]:
    counts = links.counts
    parts = (
        cell(f"{counts.by_status[each]} {words(each)}", "red" if each == LinkStatus.FAILED else "")
        for each in _STATUSES
        if counts.by_status[each]
    )
    yield "Links", Text(", ").join(parts) if counts.total else cell("none")
    if counts.failed:
        apps, errors = links.failed_by_app, links.failed_by_error
        yield "Failed", _heading(f"in {amount(apps.total, 'app')}", "docora-ops apps")
        names = Counter(row.app_name for row in apps.rows)
        width = len(str(counts.failed))
        for row in apps.rows:
            is_unique = names[row.app_name] == 1
            name = row.app_name if is_unique else with_id(row.app_name, row.app_id)
            yield "", _line(f"{row.links:>{width}}  {name}")
        command = "docora-ops failed --group-by error"
        yield "", _heading(f"with {amount(errors.total, 'error', 'different errors')}", command)
        for group in errors.rows:
            yield "", _line(f"{group.links:>{width}}  {group.error_message or f'({NO_ERROR})'}")
    if counts.open_circuits:
        command = "docora-ops links --circuit open"
        text = f"{amount(counts.open_circuits, 'repository', 'repositories')} open"
        yield "Circuits", _heading(text, command, "yellow")
    else:
        yield "Circuits", cell("none open")


def _heading(text: str, command: str, style: str = "") -> Text:
    return cell(text, style).append(f": {command}", "dim")


def _line(text: str, style: str = "") -> Text:
    """Returns text that is cut at the edge of a terminal: the screen must stay one screen."""
    line = cell(f"  {text}", style)
    line.overflow, line.no_wrap = "ellipsis", True
    return line


def _queue(queue: QueueOverview, *, has_only_others: bool) -> Iterator[Row]:
    age = queue.oldest_waiting_seconds
    waited = f" (the oldest for {duration(age)})" if age is not None else ""
    text = cell(f"{queue.waiting} waiting{waited}, {queue.active} running, {queue.delayed} delayed")
    yield "Queue", text
    if queue.live_workers:
        busy = _busy(queue)
        of_them = "" if busy is None else f", {busy} busy"
        yield "Workers", cell(f"{len(queue.live_workers)}{of_them}")
    elif has_only_others:
        yield "Workers", _heading(queue.backend.only_others, queue.backend.to_switch, "red")
    else:
        yield "Workers", cell(f"none: {queue.backend.to_start_workers}", "yellow")
    if queue.suspension:
        yield "", _line(queue.suspension.sentence, "yellow")
        yield "", _heading("  to go on", queue.backend.to_resume, "yellow")


def _busy(queue: QueueOverview) -> int | None:
    """Counts the workers that run jobs; BullMQ does not tell which they are."""
    if queue.backend is Backend.BULLMQ:
        return None
    return sum(worker.state == "busy" for worker in queue.live_workers)


def _drift(drift: DriftCounts) -> Text:
    if drift.lost or drift.stuck:
        lost = f"{'at least ' if drift.at_least else ''}{amount(drift.lost, 'lost link')}"
        stuck = "" if drift.at_least else f", {drift.stuck} stuck"
        return _heading(lost + stuck, "docora-ops repair", "red")
    return cell("no sign of lost links" if drift.at_least else "no lost or stuck link")


def _operation(operation: KnownOperation | None) -> Text:
    if operation is None:
        return cell("none in the last hour")
    done = f"{operation.completed} of {operation.total}, {words(operation.state)}"
    if operation.last_step_seconds is not None:
        done += f", {ago(operation.last_step_seconds)}"
    return cell(f"{operation.operation_id}: {done}")


def _trend(trend: Trend) -> Text:
    parts = [
        f"{abs(change)} {'more' if change > 0 else 'fewer'} {what}"
        for change, what in (
            (trend.synced, "synced"),
            (trend.failed, "failed"),
            (trend.jobs, "jobs"),
        )
        if change
    ]
    text = f"in {duration(trend.seconds)}: {', '.join(parts) or 'nothing'}"
    rate = trend.jobs_per_second
    if trend.seconds_left is not None:
        text += f"; {rate:.1f} jobs/s, {duration(trend.seconds_left)} left"
    elif rate:
        text += f"; the queue {'drains' if rate > 0 else 'grows'} by {abs(rate):.1f} jobs/s"
    return cell(text)
