"""`metrics`: JSON, and Prometheus text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from docora_ops.jobs import QueueOverview
from docora_ops.links import AppCount, LinkStatus
from docora_ops.overview import DriftCounts, Metrics, Server
from docora_ops.text import inert


@dataclass(frozen=True)
class MetricsData:
    """The numbers of the Prometheus text; a number that the text leaves out is null."""

    postgres_up: bool
    redis_up: bool
    links_by_status: Mapping[LinkStatus, int] | None
    failed_by_app: Sequence[AppCount] | None
    open_circuits: int | None
    queue_name: str | None
    jobs_by_status: Mapping[str, int] | None
    oldest_waiting_seconds: int | None
    workers_by_state: Mapping[str, int] | None
    backend_ok: bool | None
    drift: DriftCounts | None
    scrape_seconds: float


def metrics_data(found: Metrics) -> MetricsData:
    """Returns the JSON data of `metrics`."""
    queue, links = found.queue, found.links
    return MetricsData(
        postgres_up=found.up[Server.POSTGRES],
        redis_up=found.up[Server.REDIS],
        links_by_status=links.by_status if links else None,
        failed_by_app=found.failed_by_app,
        open_circuits=links.open_circuits if links else None,
        queue_name=queue.queue_name if queue else None,
        jobs_by_status=_job_counts(queue) if queue else None,
        oldest_waiting_seconds=queue.oldest_waiting_seconds if queue else None,
        workers_by_state=found.workers,
        backend_ok=found.backend_ok,
        drift=found.drift,
        scrape_seconds=found.scrape_seconds,
    )


_HELP = {
    "docora_up": "1 if the server answers and permits everything, 0 if it is unreachable, refuses, "
    "or is too slow.",
    "docora_links": "Links by status.",
    "docora_failed_links": "Failed links by app, of apps that have any.",
    "docora_circuits_open": "Repositories whose circuit is open.",
    "docora_queue_jobs": "Jobs in the queue by status; completed and failed ones are kept until "
    "they expire.",
    "docora_queue_oldest_seconds": "Seconds that the oldest waiting job has waited.",
    "docora_workers": "Live workers that listen on the queue, by state.",
    "docora_backend_ok": "0 if it is unclear which workers run, or if workers of another backend "
    "run than DOCORA_OPS_BACKEND says.",
    "docora_drift_links": "Links that nobody works on: lost ones are pending for five minutes "
    "without a live job, stuck ones are scanning without one. If over 5,000 links are unfinished: "
    "how many they outnumber the jobs by, as lost.",
    "docora_scrape_seconds": "Seconds that it took to read these numbers.",
}


def _job_counts(overview: QueueOverview) -> dict[str, int]:
    """Counts the jobs by Docora's word for their status."""
    return {
        "waiting": overview.waiting,
        "active": overview.active,
        "delayed": overview.delayed,
        "completed": overview.completed_jobs,
        "failed": overview.failed_jobs,
    }


def prometheus_text(found: Metrics) -> str:
    """Returns the numbers in the text format 0.0.4 of Prometheus.

    A server that is down has no numbers, which is not 0.
    """
    registry = CollectorRegistry()

    def add(name: str, values: Mapping[Any, float], *labels: str) -> None:
        gauge = Gauge(name, _HELP[name], labels, registry=registry)
        for of_labels, value in values.items():
            (gauge.labels(*of_labels) if labels else gauge).set(value)

    links, queue, drift = found.links, found.queue, found.drift
    add("docora_up", {(server,): is_up for server, is_up in found.up.items()}, "server")
    if links:
        add("docora_links", {(each,): n for each, n in links.by_status.items()}, "status")
        add("docora_circuits_open", {(): links.open_circuits})
    if found.failed_by_app:
        apps = {(inert(app.app_id),): app.links for app in found.failed_by_app}
        add("docora_failed_links", apps, "app_id")
    if queue:
        jobs = {(queue.queue_name, status): count for status, count in _job_counts(queue).items()}
        add("docora_queue_jobs", jobs, "queue", "status")
        if queue.oldest_waiting_seconds is not None:
            waits = {(queue.queue_name,): queue.oldest_waiting_seconds}
            add("docora_queue_oldest_seconds", waits, "queue")
    if found.workers:
        add("docora_workers", {(each,): n for each, n in found.workers.items()}, "state")
    if found.backend_ok is not None:
        add("docora_backend_ok", {(): found.backend_ok})
    if drift:
        add("docora_drift_links", {("lost",): drift.lost, ("stuck",): drift.stuck}, "kind")
    add("docora_scrape_seconds", {(): found.scrape_seconds})
    return generate_latest(registry).decode()
