"""`metrics`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from docora_ops.cli import options
from docora_ops.cli.context import context_of
from docora_ops.errors import ExitCode, RefusedError
from docora_ops.links import LinkStatus
from docora_ops.text import inert

if TYPE_CHECKING:
    from docora_ops.actions.status import Status


def metrics(
    typer_context: typer.Context,
    by_app: Annotated[
        bool, typer.Option("--by-app", help="Also count the failed links of each app.")
    ] = False,
    env_file: options.EnvFile = None,
) -> ExitCode:
    """Print numbers as Prometheus text.

    The text is for node_exporter's textfile collector. If one server is down, prints what the other
    one knows, with docora_up 0 (exit code 5).
    """
    context = context_of(typer_context)
    from docora_ops.actions.status import read_status

    state, error = read_status(context.docora, apps=None if by_app else 0)
    sys.stdout.write(_text_of(state, by_app=by_app, answered=isinstance(error, RefusedError)))
    return context.report(error) if error else ExitCode.OK


def _text_of(state: Status, *, by_app: bool, answered: bool) -> str:
    """Returns the text. `answered`: Redis has answered, although its queue is unclear."""
    from prometheus_client import CollectorRegistry, Gauge, generate_latest

    registry = CollectorRegistry()

    def add(name: str, text: str, values: dict[str, float], label: str = "") -> None:
        gauge = Gauge(name, text, (label,) if label else (), registry=registry)
        for key, value in values.items():
            (gauge.labels(inert(key)) if label else gauge).set(value)

    links, queue, workers = state.links, state.queue, state.workers
    up = {"postgres": links is not None, "redis": queue is not None or answered}
    add("docora_up", "1 if the server answers, otherwise 0.", dict(up), "server")
    if links:
        by_status = {status.value: links.of(status) for status in LinkStatus}
        add("docora_links", "Links by status.", dict(by_status), "status")
        add("docora_links_overdue", "Links not scanned for too long.", {"": links.overdue})
        add(
            "docora_circuits_open", "Repositories whose circuit is open.", {"": links.open_circuits}
        )
        if links.oldest_scan_at:
            age = (links.read_at - links.oldest_scan_at).total_seconds()
            text = "Longest time since the last good scan of a link in sync."
            add("docora_oldest_scan_age_seconds", text, {"": age})
        if by_app:
            apps = {failed.app.app_id: failed.links for failed in state.failed_apps}
            add("docora_failed_links", "Failed links by app.", dict(apps), "app_id")
    if queue:
        jobs = {
            "waiting": queue.waiting,
            "active": queue.active,
            "delayed": queue.delayed,
            "completed": queue.completed,
            "failed": queue.failed,
        }
        add("docora_queue_jobs", "Jobs in the queue by status.", dict(jobs), "status")
        if (seconds := state.oldest_waiting_seconds) is not None:
            text = "Seconds that the oldest waiting job has waited."
            add("docora_queue_oldest_seconds", text, {"": seconds})
        text = "1 if workers are told to take no jobs."
        add("docora_workers_suspended", text, {"": queue.is_suspended})
    if workers is not None:
        busy = sum(worker.job_id is not None for worker in workers)
        states = {"busy": busy, "idle": len(workers) - busy}
        add("docora_workers", "Live workers by state.", dict(states), "state")
    if state.last_pass_at:
        text = "Time of the last pass of docora-ops schedule."
        add(
            "docora_schedule_last_pass_timestamp_seconds",
            text,
            {"": state.last_pass_at.timestamp()},
        )
    return generate_latest(registry).decode()
