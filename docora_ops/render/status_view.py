"""`status`: the first screen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.text import Text

from docora_ops.bulk import KnownOperation
from docora_ops.errors import PostgresError, RedisError, ServerError
from docora_ops.jobs import ADVICE, Backend, BackendSource, QueueOverview, Suspension, silence_of
from docora_ops.link_lists import ErrorGroup
from docora_ops.links import AppCount, LinkStatus
from docora_ops.overview import SLOW_MS, DriftCounts, LinkOverview, Standby, Status, Trend
from docora_ops.render.bulk_view import ago
from docora_ops.render.columns import Pairs, cell, words
from docora_ops.render.link_view import NO_ERROR, with_id
from docora_ops.text import amount, duration

_STATUSES = (
    LinkStatus.SYNCED,
    LinkStatus.PENDING_SNAPSHOT,
    LinkStatus.SCANNING,
    LinkStatus.FAILED,
)
Row = tuple[str, Text]


@dataclass(frozen=True)
class QueueSummary:
    """The queue in numbers. Those of workers are null with the backend `bullmq`."""

    backend: Backend
    backend_source: BackendSource
    queue_name: str
    waiting: int
    active: int
    delayed: int
    completed_jobs: int
    failed_jobs: int
    oldest_waiting_seconds: int | None
    suspended: bool
    suspension: Suspension | None
    worker_count: int
    workers_busy: int | None
    workers_silent: int | None


@dataclass(frozen=True)
class StatusData:
    """The result of `status`. The fields of a server that is down are null.

    `failed_by_app` and `failed_by_error`: the first five of `failed_apps` apps and `failed_errors`
    errors. `standby`: null on a primary.
    """

    postgres: str
    schema: str | None
    redis: str
    postgres_latency_ms: int | None
    redis_latency_ms: int | None
    links_by_status: Mapping[LinkStatus, int] | None
    open_circuits: int | None
    pending_with_open_circuit: int | None
    failed_apps: int | None
    failed_by_app: Sequence[AppCount] | None
    failed_errors: int | None
    failed_by_error: Sequence[ErrorGroup] | None
    queue: QueueSummary | None
    standby: Standby | None
    drift: DriftCounts | None
    last_operation: KnownOperation | None


def status_data(status: Status) -> StatusData:
    """Returns the JSON data of `status`."""
    links = status.links
    counts = links.counts if links else None
    return StatusData(
        postgres=status.postgres,
        schema=status.schema,
        redis=status.redis,
        postgres_latency_ms=status.postgres_latency_ms,
        redis_latency_ms=status.redis_latency_ms,
        links_by_status=counts.by_status if counts else None,
        open_circuits=counts.open_circuits if counts else None,
        pending_with_open_circuit=counts.pending_with_open_circuit if counts else None,
        failed_apps=links.failed_by_app.total if links else None,
        failed_by_app=links.failed_by_app.rows if links else None,
        failed_errors=links.failed_by_error.total if links else None,
        failed_by_error=links.failed_by_error.rows if links else None,
        queue=_summary(status.queue) if status.queue else None,
        standby=links.standby if links else None,
        drift=status.drift,
        last_operation=status.last_operation,
    )


def _summary(queue: QueueOverview) -> QueueSummary:
    return QueueSummary(
        backend=queue.backend,
        backend_source=queue.backend_source,
        queue_name=queue.queue_name,
        waiting=queue.waiting,
        active=queue.active,
        delayed=queue.delayed,
        completed_jobs=queue.completed_jobs,
        failed_jobs=queue.failed_jobs,
        oldest_waiting_seconds=queue.oldest_waiting_seconds,
        suspended=queue.suspended,
        suspension=queue.suspension,
        worker_count=len(queue.workers),
        workers_busy=_busy(queue),
        workers_silent=None
        if queue.backend is Backend.BULLMQ
        else sum(worker.silent_seconds is not None for worker in queue.workers),
    )


def status_screen(status: Status, trend: Trend | None = None) -> Pairs:
    """Shows the state on one screen; with `trend` also what has changed."""
    return Pairs(list(_rows(status, trend)))


def _rows(status: Status, trend: Trend | None) -> Iterator[Row]:
    postgres = f"{status.postgres} (schema {status.schema})" if status.schema else status.postgres
    lost = {type(error): error for error in status.errors}
    for name, kind, where, latency in (
        ("Postgres", PostgresError, postgres, status.postgres_latency_ms),
        ("Redis", RedisError, status.redis, status.redis_latency_ms),
    ):
        error = next((lost[each] for each in lost if issubclass(each, kind)), None)
        text = cell(error.message, "bold red") if error else cell(where)
        if kind is PostgresError and status.links and status.links.standby:
            text.append(f", {status.links.standby}", "yellow")
        if latency is not None and latency > SLOW_MS:
            text.append(f", answers take {latency:,} ms", "yellow")
        yield name, text
    if trend:  # not at the end, which a small terminal cuts off
        yield "Change", _trend(trend)
    if status.links:
        yield from _links(status.links)
        held_back = status.links.counts.pending_with_open_circuit
        if held_back and status.queue and status.queue.backend is Backend.BULLMQ:
            links = amount(held_back, "pending link")
            verb = "is" if held_back == 1 else "are"
            command = "docora-ops retry-all-failed --reset-circuit"
            yield "", _heading(f"{links} {verb} held back", command, "yellow")
    if status.queue:
        yield from _queue(status.queue, has_only_others=status.has_only_others)
    if status.drift:
        yield "Drift", _drift(status.drift)
    elif status.links and status.links.standby and status.queue:
        yield "Drift", cell("not judged: a standby may lag behind the queue", "yellow")
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
        names = Counter(row.app_name for row in apps.rows)
        width = len(str(counts.failed))
        app_lines: list[Text] = [
            _line(
                f"{row.links:>{width}}  "
                + (row.app_name if names[row.app_name] == 1 else with_id(row.app_name, row.app_id))
            )
            for row in apps.rows
        ]
        error_lines: list[Text] = [
            _line(f"{group.links:>{width}}  {group.error_message or f'({NO_ERROR})'}")
            for group in errors.rows
        ]
        in_apps, by_error = f"in {amount(apps.total, 'app')}", "docora-ops failed --group-by error"
        with_errors = f"with {amount(errors.total, 'error', 'different errors')}"
        for number, value in enumerate(
            (
                *_first(in_apps, app_lines, apps.total, "docora-ops apps"),
                *_first(with_errors, error_lines, errors.total, by_error),
            )
        ):
            yield "" if number else "Failed", value
        if any("fatal:" in (group.error_message or "") for group in errors.rows):
            command = "docora-ops failed --error fatal: --group-by repository"
            yield "", _heading("git errors", command)
    if counts.open_circuits:
        command = "docora-ops links --circuit open"
        text = f"{amount(counts.open_circuits, 'repository', 'repositories')} open"
        yield "Circuits", _heading(text, command, "yellow")
    else:
        yield "Circuits", cell("none open")


def _first(text: str, lines: Sequence[Text], total: int, command: str) -> Iterator[Text]:
    """Yields a heading and the lines. If they are not all, the last one says how many are left."""
    if total <= len(lines):
        yield _heading(text, command)
        yield from lines
    else:
        yield cell(text)
        yield from lines[:-1]
        yield _heading(f"and {total - len(lines) + 1} more", command)


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
    advice = ADVICE[queue.backend]
    if queue.backend_source is BackendSource.UNCLEAR:
        yield "Workers", cell("unclear which run: see docora-ops help workers", "red")
    elif queue.workers:
        busy = _busy(queue)
        of_them = "" if busy is None else f", {busy} busy"
        silence = silence_of(queue.workers)
        count = f"{len(queue.workers)}{of_them}"
        yield "Workers", cell(f"{count} ({silence})", "yellow") if silence else cell(count)
    elif has_only_others:
        yield "Workers", _heading(advice.only_others, advice.to_switch, "red")
    else:
        yield "Workers", cell(f"none: {advice.to_start_workers}", "yellow")
    if queue.suspension:
        yield "", _line(queue.suspension.sentence, "yellow")
        yield "", _heading("  to go on", advice.to_resume, "yellow")


def _busy(queue: QueueOverview) -> int | None:
    """Counts the workers that run jobs; BullMQ does not tell which they are."""
    if queue.backend is Backend.BULLMQ:
        return None
    return sum(worker.state == "busy" for worker in queue.workers)


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
