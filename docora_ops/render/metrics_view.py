"""`metrics`: JSON, and Prometheus text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily

from docora_ops.jobs import QueueOverview
from docora_ops.links import AppCount, LinkStatus
from docora_ops.metrics import Metrics, Server
from docora_ops.render.queue_view import job_counts
from docora_ops.status import DriftCounts
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
        jobs_by_status=job_counts(queue) if queue else None,
        oldest_waiting_seconds=queue.oldest_waiting_seconds if queue else None,
        workers_by_state=found.workers,
        backend_ok=found.backend_ok,
        drift=found.drift,
        scrape_seconds=found.scrape_seconds,
    )


def prometheus_text(found: Metrics) -> str:
    """Returns the numbers in the text format 0.0.4 of Prometheus."""
    registry = CollectorRegistry()
    registry.register(_Collector(found))
    return generate_latest(registry).decode()


@dataclass(frozen=True, eq=False)
class _Collector:
    """Yields the metrics that have a value. A server that is down has none, which is not 0."""

    found: Metrics

    def collect(self) -> Iterator[GaugeMetricFamily]:
        found, links, queue = self.found, self.found.links, self.found.queue
        yield _by(
            "server",
            found.up.items(),
            "docora_up",
            "1 if the server answers and permits everything, 0 if it is unreachable, refuses, or "
            "is too slow.",
        )
        if links:
            help_text = "Links by status."
            yield _by("status", links.by_status.items(), "docora_links", help_text)
        if found.failed_by_app:
            apps = [(inert(app.app_id), app.links) for app in found.failed_by_app]
            help_text = "Failed links by app, of apps that have any."
            yield _by("app_id", apps, "docora_failed_links", help_text)
        if links:
            help_text = "Repositories whose circuit is open."
            yield GaugeMetricFamily("docora_circuits_open", help_text, links.open_circuits)
        if queue:
            yield from _families_of(queue)
        if found.workers:
            help_text = "Live workers that listen on the queue, by state."
            yield _by("state", found.workers.items(), "docora_workers", help_text)
        if found.backend_ok is not None:
            help_text = (
                "0 if it is unclear which workers run, or if workers of another backend run than "
                "DOCORA_OPS_BACKEND says."
            )
            yield GaugeMetricFamily("docora_backend_ok", help_text, found.backend_ok)
        if found.drift:
            help_text = (
                "Links that nobody works on: lost ones are pending for five minutes without a "
                "live job, stuck ones are scanning without one. If over 5,000 links are "
                "unfinished: how many they outnumber the jobs by, as lost."
            )
            drift = [("lost", found.drift.lost), ("stuck", found.drift.stuck)]
            yield _by("kind", drift, "docora_drift_links", help_text)
        help_text = "Seconds that it took to read these numbers."
        yield GaugeMetricFamily("docora_scrape_seconds", help_text, found.scrape_seconds)


def _families_of(queue: QueueOverview) -> Iterator[GaugeMetricFamily]:
    jobs = GaugeMetricFamily(
        "docora_queue_jobs",
        "Jobs in the queue by status; completed and failed ones are kept until they expire.",
        labels=("queue", "status"),
    )
    for status, count in job_counts(queue).items():
        jobs.add_metric((queue.queue_name, status), count)
    yield jobs
    if queue.oldest_waiting_seconds is not None:
        help_text = "Seconds that the oldest waiting job has waited."
        waits = [(queue.queue_name, queue.oldest_waiting_seconds)]
        yield _by("queue", waits, "docora_queue_oldest_seconds", help_text)


def _by(
    label: str, values: Iterable[tuple[str, float]], name: str, help_text: str
) -> GaugeMetricFamily:
    """Makes a metric with one label."""
    family = GaugeMetricFamily(name, help_text, labels=(label,))
    for value_of_label, value in values:
        family.add_metric((value_of_label,), value)
    return family
