"""JSON of what the commands that only read find, by the dashboard's names where it has them."""

from __future__ import annotations

from collections.abc import Callable

from docora_ops.models import AppCount
from docora_ops.render.documents import Document
from docora_ops.render.text import moment
from docora_ops.views import (
    ErrorGroup,
    FailedLink,
    Page,
    QueuedJob,
    QueueOverview,
    Row,
    Scheduler,
    Worker,
)


def failed(page: Page[FailedLink]) -> Document:
    """Of `failed`."""
    return _listed(page, _failed_link)


def failed_by_app(page: Page[AppCount]) -> Document:
    """Of `failed --group-by app`."""
    return _listed(
        page,
        lambda count: {
            "app_id": count.app.app_id,
            "app_name": count.app.app_name,
            "links": count.links,
        },
    )


def failed_by_error(page: Page[ErrorGroup]) -> Document:
    """Of `failed --group-by error`."""
    return _listed(
        page,
        lambda group: {
            "error_message": group.error,
            "links": group.links,
            "apps": group.apps,
        },
    )


def queue(overview: QueueOverview) -> Document:
    """Of `queue`."""
    return {
        "data": {
            "waiting": overview.waiting,
            "active": overview.active,
            "completed": overview.completed,
            "failed": overview.failed,
            "delayed": overview.delayed,
            "queue": overview.queue,
            "oldest_waiting_at": moment(overview.oldest_waiting_at),
            "oldest_waiting_seconds": overview.oldest_waiting_seconds,
            "workers": [_worker(worker) for worker in overview.workers],
            "scheduler": overview.scheduler and _scheduler(overview.scheduler),
            "jobs": [_queued_job(job) for job in overview.jobs],
        }
    }


def _worker(worker: Worker) -> Document:
    return {
        "name": worker.name,
        "alive": worker.alive,
        "state": worker.state,
        "hostname": worker.hostname,
        "pid": worker.pid,
        "last_heartbeat": moment(worker.last_heartbeat),
        "jobs": [_queued_job(job) for job in worker.jobs],
    }


def _scheduler(scheduler: Scheduler) -> Document:
    return {
        "name": scheduler.name,
        "hostname": scheduler.hostname,
        "pid": scheduler.pid,
        "last_heartbeat": moment(scheduler.last_heartbeat),
    }


def _queued_job(job: QueuedJob) -> Document:
    return {
        "id": job.id,
        "name": job.name,
        "app_name": job.app_name,
        "repository_name": job.repository,
        "status": job.status,
        "created_at": moment(job.created_at),
        "processed_on": moment(job.started_at),
        "enqueued_at": moment(job.enqueued_at),
        "due_at": moment(job.due_at),
    }


def _failed_link(link: FailedLink) -> Document:
    return {
        "app_id": link.ref.app_id,
        "app_name": link.app_name,
        "repository_id": link.ref.repository_id,
        "repository_name": link.repository,
        "github_url": link.github_url,
        "error_message": link.error,
        "timestamp": moment(link.timestamp),
        "retry_count": link.retry_count,
        "last_scanned_at": moment(link.last_scanned_at),
        "circuit_open_until": moment(link.circuit_open_until),
        "job": link.job,
    }


def _listed(page: Page[Row], document: Callable[[Row], Document]) -> Document:
    return {
        "data": [document(row) for row in page.rows],
        "pagination": {
            "page": page.number,
            "limit": page.limit,
            "total": page.total,
            "total_pages": page.pages,
        },
    }
