"""`status`, the first screen, `targets`, and `metrics`, in the text formats of Prometheus."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.text import Text

from docora_ops.diagnosis import CheckState
from docora_ops.error_groups import ErrorGroup
from docora_ops.errors import PostgresError, RedisError, ServerError
from docora_ops.jobs import ADVICE, Backend, BackendSource, QueueOverview, refusal_of
from docora_ops.links import LinkStatus
from docora_ops.overview import SLOW_MS, Freshness, Metrics, Status, TargetState
from docora_ops.render.bulk_view import links_done, state_of
from docora_ops.render.columns import NO_ERROR, Column, cell, words
from docora_ops.text import ago, amount, duration, good_until, inert, moment

Row = tuple[str, Text]


def status_rows(
    status: Status, errors: Sequence[ServerError], *, is_verified: bool = False
) -> Iterator[Row]:
    """Shows the state on one screen.

    `errors`: those of the servers that are down. `is_verified`: the delivered files were compared.
    """
    if status.target:
        yield "Target", cell(status.target)
    postgres = f"{status.postgres} (schema {status.schema})" if status.schema else status.postgres
    for name, kind, where, latency in (
        ("Postgres", PostgresError, postgres, status.postgres_latency_ms),
        ("Redis", RedisError, status.redis, status.redis_latency_ms),
    ):
        error = next((each for each in errors if isinstance(each, kind)), None)
        text = cell(error.message, "bold red") if error else cell(where)
        if kind is PostgresError and status.standby:
            text.append(f", {status.standby}", "yellow")
        if latency is not None and latency > SLOW_MS:
            text.append(f", answers take {latency:,} ms", "yellow")
        yield name, text
    yield from _links(status)
    if status.freshness:
        yield from _freshness(status.freshness)
    queue = status.queue
    if (held_back := status.pending_with_open_circuit) and queue and queue.backend != Backend.RQ:
        links = f"{amount(held_back, 'pending link')} {'is' if held_back == 1 else 'are'} held back"
        yield "", _heading(links, "docora-ops retry-all-failed --reset-circuit", "yellow")
    if queue:
        yield from _queue(queue, has_only_others=status.has_only_others)
    if queue and status.schedule_state:
        yield "Schedule", _schedule(queue, status.schedule_state)
    if drift := status.drift:
        if drift.lost or drift.stuck:
            lost = amount(drift.lost, "lost link")
            found = f"at least {lost}" if drift.at_least else f"{lost}, {drift.stuck} stuck"
            yield "Drift", _heading(found, "docora-ops repair", "red")
        else:
            found = "no sign of lost links" if drift.at_least else "no lost or stuck link"
            yield "Drift", cell(found)
    elif status.standby and queue:
        yield "Drift", cell("not judged: a standby may lag behind the queue", "yellow")
    elif any(type(error) is ServerError for error in errors):
        yield "Drift", cell("not counted in time", "yellow")
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
        cell(f"{counts[each]} {words(each)}", "red" if each == LinkStatus.FAILED else "")
        for each in LinkStatus
        if counts[each]
    ]
    yield "Links", Text(", ").join(parts) if parts else cell("none")
    if parts:
        yield "", cell(_recent_ends(status))
    if failed := counts[LinkStatus.FAILED]:
        apps, errors = status.failed_by_app or (), status.failed_by_error or ()
        width = len(str(failed))
        by_app = [f"{it.links:>{width}}  {it.app_name} ({it.app_id})" for it in apps]
        by_error = [f"{it.links:>{width}}  {it.error_message or f'({NO_ERROR})'}" for it in errors]
        last = "last good until " if status.good_until_at else ""  # the others failed before
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
    """Yields the lines. If there are more in total, the last one says how many are left out."""
    shown = lines if len(lines) >= total else [*lines[:-1], f"and {total - len(lines) + 1} more"]
    yield from (("", _line(line)) for line in shown)


def _recent_ends(status: Status) -> str:
    """Says how many jobs have ended lately, which tells whether trouble grows or shrinks."""
    counts = {
        "synced": status.freshness.scanned_recently if status.freshness else 0,
        "failed": status.queue.failed_recently if status.queue else 0,
    }
    if ends := ", ".join(f"{count} {word}" for word, count in counts.items() if count):
        return f"in the last 15 min at least {ends}"
    return "no job is known to have ended in the last 15 min"


def _freshness(found: Freshness) -> Iterator[Row]:
    last = "no good scan yet"
    if found.last_scanned_at:
        last = f"last good scan {_ago(found, found.last_scanned_at)}"
    lines: list[Text] = []
    if found.overdue:
        lines.append(
            _heading(f"{found.overdue_words} overdue", "docora-ops links --overdue", "red")
        )
        since = (
            f"  oldest good scan {_ago(found, found.overdue_since)} ({moment(found.overdue_since)})"
        )
        lines.append(cell(since))
    if found.nothing_moves:
        due = f"nothing moves: {found.due} due, {last}"
        lines.append(_heading(due, "docora-ops queue", "red"))
    if lines and found.stopped:
        lines.append(cell(f"  {found.stopped.sentence}", "red"))
    if found.is_slow:
        lines.append(cell(found.slow_words, "yellow"))
    if found.shortest_pass_seconds:
        lines.append(cell(found.too_short_words, "yellow"))
    for number, line in enumerate(lines or [cell(f"no link overdue, {last}")]):
        yield "" if number else "Freshness", line


def _ago(found: Freshness, when: datetime | None) -> str:
    return "never" if when is None else ago(int((found.read_at - when).total_seconds()))


def _schedule(queue: QueueOverview, state: CheckState) -> Text:
    seconds = queue.last_pass_seconds
    last = "no pass known" if seconds is None else f"last pass {ago(seconds)}"
    if state is CheckState.OK:
        return cell(last)
    style = "red" if state is CheckState.CRITICAL else "yellow"
    return _heading(f"{last}; a timer should run", "docora-ops schedule", style)


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
    counts = f"{queue.waiting} waiting{waited}, {queue.active} running, {queue.delayed} delayed"
    yield "Queue", cell(counts)
    advice, lost = ADVICE[queue.backend], queue.lost_words
    if queue.backend_source is BackendSource.UNCLEAR:
        yield "Workers", cell("unclear which run: see docora-ops help workers", "red")
    elif queue.workers:
        yield "Workers", workers_cell(queue)
    elif has_only_others:
        yield "Workers", _heading(advice.only_others, advice.to_switch, "red")
    else:
        none = "none" if queue.backend is Backend.RQ else "none seen"
        none += f" ({lost})" if lost else ""
        yield "Workers", cell(f"{none}; to start one: {advice.to_start_workers}", "red")
    if queue.suspension:
        yield "", _line(queue.suspension.sentence, "yellow")
        yield "", _heading("  to go on", advice.to_resume, "yellow")


def workers_cell(queue: QueueOverview) -> Text:
    """Says how many workers run, how many are busy, and which take no job, are silent or gone."""
    count, style = f"{len(queue.workers)}", ""
    refusal, lost = refusal_of(queue.workers), queue.lost_words
    # BullMQ does not tell which are busy.
    if queue.backend is Backend.RQ and not (refusal and refusal.is_total):
        count += f", {sum(worker.state == 'busy' for worker in queue.workers)} busy"
    if refusal:
        is_bad = refusal.is_total and refusal.troubles
        count, style = f"{count}, {refusal.words}", "red" if is_bad else "yellow"
    if lost:
        count, style = f"{count} ({lost})", style or "yellow"
    return cell(count, style)


# `targets`.


def target_columns(*, check: bool) -> Sequence[Column[TargetState]]:
    """Returns the columns of the targets. `check`: with those of their states."""

    def red(count: int | None) -> str:
        return "bold red" if count else ""

    state: tuple[Column[TargetState], ...] = (
        Column("Failed", lambda it: it.failed_links, lambda it: red(it.failed_links), True),
        Column("Overdue", lambda it: it.overdue_links, lambda it: red(it.overdue_links), True),
        Column("Workers", lambda it: it.worker_count, is_number=True),
    )
    columns: tuple[Column[TargetState], ...] = (
        Column("Target", lambda it: it.target),
        *(state if check else ()),
        Column("Problem", lambda it: it.problem, lambda _: "bold red", folds=True),
        Column("Postgres", lambda it: it.postgres, left_out=3 * check),
        Column("Redis", lambda it: it.redis, left_out=3 * check),
        Column("Protected", lambda it: "yes" if it.protected else "", left_out=2 * check),
        Column("File", lambda it: it.file, left_out=1 * check),
    )
    return columns


# `metrics`.

_LONGEST_LABEL = 120  # characters of an error
_HELP = {
    "docora_up": "1 if the server answers and permits everything, otherwise 0.",
    "docora_links": "Links by status.",
    "docora_failed_links": "Failed links by app, of apps that have any.",
    "docora_failed_links_by_error": "Failed links by error, without the parts that differ.",
    "docora_circuits_open": "Repositories whose circuit is open.",
    "docora_queue_jobs": "Jobs in the queue by status.",
    "docora_queue_oldest_seconds": "Seconds that the oldest waiting job has waited.",
    "docora_workers": "Live workers that listen on the queue, by state.",
    "docora_workers_refusing": "Live workers that take no job, by reason.",
    "docora_backend_ok": "0 if it is unclear which workers run, or if they are of another backend.",
    "docora_drift_links": "Lost and stuck links: pending or scanning without a live job.",
    "docora_links_overdue": "Links in sync without a good scan for too long.",
    "docora_oldest_scan_age_seconds": "Longest time since the last good scan of a link in sync.",
    "docora_nothing_moves": "1 if a link has been due for too long, and no job has run, begun or "
    "ended in all that time, otherwise 0.",
    "docora_cycle_seconds": "Seconds that a scan of all links takes at the last pace.",
    "docora_slow_pass_seconds": "Seconds that a scan of all links takes, if that is longer than "
    "the rescan interval, otherwise 0.",
    "docora_schedule_last_pass_timestamp_seconds": "Time of the last pass of docora-ops schedule.",
    "docora_scrape_seconds": "Seconds that it took to read these numbers.",
}


def prometheus_text(found: Metrics, *, openmetrics: bool = False) -> str:
    """Returns the numbers in the text format 0.0.4 of Prometheus, or in that of OpenMetrics.

    A server that is down has no numbers, which is not 0.
    """
    # Not for `status`.
    from prometheus_client import CollectorRegistry, Gauge, generate_latest
    from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

    registry = CollectorRegistry()

    def add(name: str, values: Mapping[Any, float], **labels: str) -> None:
        """Adds the values by their last label, whose name has no value in `labels`."""
        if found.target:
            labels = {"target": found.target, **labels}
        gauge = Gauge(name, _HELP[name], tuple(labels), registry=registry)
        for each, value in values.items():
            of_labels = [label or each for label in labels.values()]
            (gauge.labels(*of_labels) if labels else gauge).set(value)

    queue, drift = found.queue_name or "", found.drift
    up = {"postgres": found.postgres_up, "redis": found.redis_up}
    add("docora_up", up, server="")
    if found.links_by_status is not None:
        add("docora_links", found.links_by_status, status="")
        add("docora_circuits_open", {"": found.open_circuits or 0})
    if found.failed_by_app:
        apps = {inert(app.app_id): app.links for app in found.failed_by_app}
        add("docora_failed_links", apps, app_id="")
    if found.failed_by_error and found.links_by_status:
        failed = found.links_by_status[LinkStatus.FAILED]
        add("docora_failed_links_by_error", _by_error(found.failed_by_error, failed), error="")
    if found.jobs_by_status:
        add("docora_queue_jobs", found.jobs_by_status, queue=queue, status="")
    if found.oldest_waiting_seconds is not None:
        add("docora_queue_oldest_seconds", {"": found.oldest_waiting_seconds}, queue=queue)
    if found.workers_by_state:
        add("docora_workers", found.workers_by_state, state="")
    if found.workers_by_no_job_reason:
        add("docora_workers_refusing", found.workers_by_no_job_reason, reason="")
    if found.backend_ok is not None:
        add("docora_backend_ok", {"": found.backend_ok})
    if drift:
        add("docora_drift_links", {"lost": drift.lost, "stuck": drift.stuck}, kind="")
    if fresh := found.freshness:
        add("docora_links_overdue", {"": fresh.overdue})
        add("docora_nothing_moves", {"": fresh.nothing_moves})
        add("docora_slow_pass_seconds", {"": fresh.slow_pass_seconds})
        if fresh.cycle_seconds is not None:
            add("docora_cycle_seconds", {"": fresh.cycle_seconds})
        if fresh.oldest_scan_seconds is not None:
            add("docora_oldest_scan_age_seconds", {"": fresh.oldest_scan_seconds})
    if last_pass := found.last_pass_at:
        add("docora_schedule_last_pass_timestamp_seconds", {"": last_pass.timestamp()})
    add("docora_scrape_seconds", {"": found.scrape_seconds})
    encoded: bytes = (generate_openmetrics if openmetrics else generate_latest)(registry)
    return encoded.decode()


def _by_error(groups: Sequence[ErrorGroup], failed: int) -> Counter[str]:
    """Counts the failed links by the beginning of their error, and the rest as `others`."""
    counts: Counter[str] = Counter()
    for group in groups:
        text = inert(group.error_message or NO_ERROR)
        is_long = len(text) > _LONGEST_LABEL
        counts[text[: _LONGEST_LABEL - 1] + "…" if is_long else text] += group.links
    others = failed - counts.total()
    return counts + Counter(others=others)
