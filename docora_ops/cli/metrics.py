"""`metrics`, in the text formats of Prometheus."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from docora_ops.cli import options
from docora_ops.cli.context import context_of
from docora_ops.cli.exit_codes import ExitCode
from docora_ops.errors import PostgresError, RedisError
from docora_ops.jobs import QUEUE_NAME, NoJobCode
from docora_ops.links import LinkStatus
from docora_ops.render.columns import NO_ERROR
from docora_ops.text import inert

if TYPE_CHECKING:
    from io import TextIOWrapper

    from docora_ops.actions.status import Status
    from docora_ops.error_groups import ErrorGroup
    from docora_ops.errors import ServerError
    from docora_ops.jobs import HeldApp, QueueOverview, Worker


def metrics(
    typer_context: typer.Context,
    by_app: Annotated[
        bool, typer.Option("--by-app", help="Include the number of failed links of each app.")
    ] = False,
    by_error: Annotated[
        bool, typer.Option("--by-error", help="Include the number of failed links by error.")
    ] = False,
    openmetrics: Annotated[
        bool, typer.Option("--openmetrics", help="Print OpenMetrics, which ends with # EOF.")
    ] = False,
    env_file: options.EnvFile = None,
) -> int:
    """Print metrics in the Prometheus text format.

    If a server is unreachable, omits its metrics and exits with code 5. Changes nothing.
    """
    context = context_of(typer_context)
    from docora_ops.actions.status import read_status

    began = time.monotonic()
    status, errors = read_status(context.docora, for_metrics=True, by_app=by_app, by_error=by_error)
    seconds = round(time.monotonic() - began, 3)
    # Prometheus expects UTF-8, regardless of the locale of a cron job.
    cast("TextIOWrapper", sys.stdout).reconfigure(encoding="utf-8", errors="backslashreplace")
    context.tell()
    sys.stdout.write(prometheus_text(status, errors, seconds, openmetrics=openmetrics))
    sys.stdout.flush()
    for error in errors:
        context.report(error)
    return ExitCode.SERVER if errors else ExitCode.OK


_LONGEST_LABEL = 120  # characters of an error
_STATES = ("started", "idle", "busy", "suspended", "unknown", "silent")  # the first four are RQ's
_HELP = {
    "docora_up": "1 if the server answers and permits everything, otherwise 0.",
    "docora_links": "Links by status.",
    "docora_failed_links": "Failed links by app, of apps that have any.",
    "docora_failed_links_by_error": "Failed links by error, ignoring paths, numbers and ids.",
    "docora_circuits_open": "Repositories whose circuit is open.",
    "docora_queue_jobs": "Jobs in the queue by status.",
    "docora_queue_oldest_seconds": "Seconds that the oldest waiting job has waited.",
    "docora_workers": "Live workers that listen on the queue, by state.",
    "docora_workers_refusing": "Live workers that take no job, by reason.",
    "docora_backend_ok": "0 if it is unclear which workers run, or if they are of another backend.",
    "docora_drift_links": "Lost and stuck links: pending or scanning without a live job.",
    "docora_links_overdue": "Links in sync without a good scan for too long.",
    "docora_oldest_scan_age_seconds": "Longest time since the last good scan of a link in sync.",
    "docora_app_held": "1 for each app that docora-ops hold holds.",
    "docora_nothing_moves": "1 if a link has been due for too long and no job has run, begun or "
    "ended since, otherwise 0.",
    "docora_cycle_seconds": "Seconds that a scan of all links takes at the last pace.",
    "docora_slow_cycle_seconds": "Seconds that a scan of all links takes if that is longer than "
    "the rescan interval, otherwise 0.",
    "docora_schedule_last_pass_timestamp_seconds": "Time of the last pass of docora-ops schedule.",
    "docora_scrape_seconds": "Seconds that it took to read these numbers.",
}


def prometheus_text(
    status: Status,
    errors: Sequence[ServerError],
    seconds: float,
    *,
    openmetrics: bool,
) -> str:
    """Returns the metrics in Prometheus's text format 0.0.4, or in OpenMetrics.

    Omits the metrics of a server that is down, rather than reporting 0.

    errors: the errors of unusable servers, which count as down.
    seconds: the time that it took to read `status`.
    """
    from prometheus_client import CollectorRegistry, Gauge, generate_latest
    from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

    registry = CollectorRegistry()

    def add(name: str, values: Mapping[Any, float], **labels: str) -> None:
        """Adds a gauge with a sample per item of `values`.

        Empty labels get the values of the item's key: a text, or a tuple of one text for each.
        """
        gauge = Gauge(name, _HELP[name], tuple(labels), registry=registry)
        for key, value in values.items():
            own = iter(key if isinstance(key, tuple) else (key,))
            of_labels = [label or next(own) for label in labels.values()]
            (gauge.labels(*of_labels) if labels else gauge).set(value)

    if any(isinstance(error, PostgresError) for error in errors):
        status = replace(status, links_by_status=None, freshness=None)
    if any(isinstance(error, RedisError) for error in errors):
        status = replace(status, queue=None)
    links, queue, fresh = status.links_by_status, status.queue, status.freshness
    add("docora_up", {"postgres": links is not None, "redis": queue is not None}, server="")
    if links:
        add("docora_links", links, status="")
        add("docora_circuits_open", {"": status.open_circuits or 0})
        if status.failed_by_app:
            apps = {inert(app.app_id): app.links for app in status.failed_by_app}
            add("docora_failed_links", apps, app_id="")
        if status.failed_by_error:
            counts = _by_error(status.failed_by_error, links[LinkStatus.FAILED])
            add("docora_failed_links_by_error", counts, error="")
    if queue:
        add("docora_queue_jobs", _jobs(queue), queue=QUEUE_NAME, status="")
        if queue.held:
            add("docora_app_held", _holds(queue.held), app_id="", who="", reason="", until="")
        if (oldest := queue.oldest_waiting_seconds) is not None:
            add("docora_queue_oldest_seconds", {"": oldest}, queue=QUEUE_NAME)
        states = Counter(map(_state, queue.workers))
        add("docora_workers", {state: states[state] for state in _STATES}, state="")
        reasons = Counter(
            worker.no_job_reason.code for worker in queue.workers if worker.no_job_reason
        )
        add("docora_workers_refusing", {code: reasons[code] for code in NoJobCode}, reason="")
        add("docora_backend_ok", {"": status.backend_ok})
    if drift := status.drift:
        add("docora_drift_links", {"lost": drift.lost, "stuck": drift.stuck}, kind="")
    if fresh:
        for name, value in (
            ("docora_links_overdue", fresh.overdue),
            ("docora_nothing_moves", fresh.nothing_moves if queue else None),
            ("docora_slow_cycle_seconds", fresh.slow_cycle_seconds),
            ("docora_cycle_seconds", fresh.cycle_seconds),
            ("docora_oldest_scan_age_seconds", fresh.oldest_scan_seconds),
        ):
            if value is not None:
                add(name, {"": value})
    if queue and (last_pass := queue.last_pass_at):
        add("docora_schedule_last_pass_timestamp_seconds", {"": last_pass.timestamp()})
    add("docora_scrape_seconds", {"": seconds})
    return str((generate_openmetrics if openmetrics else generate_latest)(registry), "utf-8")


def _jobs(queue: QueueOverview) -> Mapping[str, int]:
    return {
        "waiting": queue.waiting,
        "active": queue.active,
        "delayed": queue.delayed,
        "completed": queue.completed_jobs,
        "failed": queue.failed_jobs,
    }


def _holds(apps: Sequence[HeldApp]) -> Mapping[tuple[str, ...], int]:
    return {
        tuple(map(inert, (app.app_id, app.held.who, app.held.reason or "", app.held.until))): 1
        for app in apps
    }


def _state(worker: Worker) -> str:
    """Returns the state of a worker, always one of `_STATES`, even if Redis has another."""
    if worker.silent_seconds is not None:
        return "silent"
    return worker.state if worker.state in _STATES else "unknown"


def _by_error(groups: Sequence[ErrorGroup], failed: int) -> Counter[str]:
    counts: Counter[str] = Counter()
    for group in groups:
        text = inert(group.error_message or NO_ERROR)
        is_long = len(text) > _LONGEST_LABEL
        counts[text[: _LONGEST_LABEL - 1] + "…" if is_long else text] += group.links
    others = failed - counts.total()
    return counts + Counter(others=others)
