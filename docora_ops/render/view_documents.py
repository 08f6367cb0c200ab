"""JSON of what the commands that only read find, by the dashboard's names where it has them."""

from __future__ import annotations

from collections.abc import Callable

from docora_ops.failed_links import ErrorGroup, FailedLink, Page, Row
from docora_ops.jobs import JobRecord, QueuedJob, QueueOverview, Scheduler, Worker
from docora_ops.link_details import LinkDetails, Snapshot
from docora_ops.links import AppCount
from docora_ops.render.documents import Document
from docora_ops.text import moment


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


def link(details: LinkDetails) -> Document:
    """Of `show`."""
    history = details.history
    return {
        "data": {
            "app_id": details.ref.app_id,
            "app_name": details.app_name,
            "base_url": details.base_url,
            "repository_id": details.ref.repository_id,
            "repository_name": details.repository,
            "github_url": details.github_url,
            "has_token": details.has_token,
            "status": details.status,
            "error_message": details.error,
            "retry_count": details.retry_count,
            "created_at": moment(history.created_at),
            "last_scanned_at": moment(history.last_scanned_at),
            "circuit_open_until": moment(details.circuit_open_until),
            "consecutive_failures": history.consecutive_failures,
            "delivered_files": history.delivered_files,
            "last_delivered_at": moment(history.last_delivered_at),
            "snapshot": history.snapshot and _snapshot(history.snapshot),
            "lock_held": details.lock_is_held,
            "job": details.state,
            "job_id": details.job.id,
            "rq": _job_record(details.job),
        }
    }


def _snapshot(snapshot: Snapshot) -> Document:
    return {
        "commit_sha": snapshot.commit_sha,
        "branch": snapshot.branch,
        "scanned_at": moment(snapshot.scanned_at),
        "files": snapshot.files,
    }


def _job_record(job: JobRecord) -> Document:
    failure = job.last_failure
    return {
        "status": job.status,
        "origin": job.origin,
        "created_at": moment(job.created_at),
        "enqueued_at": moment(job.enqueued_at),
        "started_at": moment(job.started_at),
        "ended_at": moment(job.ended_at),
        "retries_left": job.retries_left,
        "worker": job.worker,
        "expires_in": job.expires_in,
        "places": [
            {
                "where": place.where,
                "queue": place.queue,
                "position": place.position,
                "at": moment(place.at),
                "alive": place.alive,
                "worker": place.worker,
            }
            for place in job.places
        ],
        "last_failure": failure
        and {"at": moment(failure.at), "worker": failure.worker, "text": failure.text},
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
        "error_message_cut": link.error_left_out > 0,
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
