"""`queue`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.text import Text

from docora_ops.jobs import Backend, QueuedJob, QueueOverview, Worker, silence_of
from docora_ops.render.cells import cell, link_name, state
from docora_ops.render.json import Document
from docora_ops.render.layout import fitting_table, pairs, records
from docora_ops.text import duration, moment

_MOST_JOBS = 10_000
"""The largest `--limit`."""


def document(overview: QueueOverview) -> Document:
    """Returns the JSON of `queue`, with Docora's own field names for the counts and the jobs."""
    return {"data": overview}


def job_counts(overview: QueueOverview) -> dict[str, int]:
    """Returns the number of jobs by Docora's word for their status."""
    names = ("waiting", "active", "delayed", "completed", "failed")
    return {name: getattr(overview, name) for name in names}


def tables(overview: QueueOverview, width: int, limit: int) -> Iterator[RenderableType]:
    """Shows the counts, the workers and the first `limit` jobs, with a blank line between."""
    age = overview.oldest_waiting_seconds
    waited = "" if age is None else f", the oldest for {duration(age)}"
    alive, silence = len(overview.workers), silence_of(overview.workers)
    workers = cell(f"{alive} ({silence})" if silence else alive, "yellow" if silence else "")
    suspension = overview.suspension
    yield pairs(
        [
            ("Waiting", cell(f"{overview.waiting}{waited}")),
            ("Active", cell(overview.active)),
            ("Delayed", cell(overview.delayed)),
            ("Completed", cell(overview.completed)),
            ("Failed", cell(overview.failed)),
            *_scheduler(overview),
            ("Workers", workers if alive else cell("none", "yellow")),
            *([("", cell(suspension.sentence, "yellow"))] if suspension else ()),
        ]
    )
    if overview.workers:
        yield from ("", _workers(overview.workers, width))
    if overview.jobs:
        yield from ("", _jobs(overview.jobs, width))
    more = overview.unfinished - len(overview.jobs)
    if more > 0 and len(overview.jobs) == limit:
        most = min(overview.unfinished, _MOST_JOBS)
        yield cell(f"and {more} more" + (f": docora-ops queue --limit {most}" * (limit < most)))


def _scheduler(overview: QueueOverview) -> Iterator[tuple[str, Text]]:
    """Shows RQ's scheduler; workers of BullMQ and our own queue delayed jobs themselves."""
    scheduler = overview.scheduler
    if overview.backend is Backend.BULLMQ:
        return
    if scheduler is None and any(each.clock_ahead_seconds is not None for each in overview.workers):
        yield "Scheduler", cell("each worker")
        return
    if scheduler is None:
        yield "Scheduler", cell("none", "yellow" if overview.delayed else "")
        return
    host, pid = scheduler.hostname, scheduler.pid
    yield "Scheduler", cell(f"running on {host}, process {pid}" if host and pid else "running")


def _workers(workers: Sequence[Worker], width: int) -> RenderableType:
    rows = [
        (
            cell(worker.name),
            _state(worker),
            cell(moment(worker.last_heartbeat_at) or "-"),
            cell(", ".join(map(_name, worker.jobs)) or "-"),
        )
        for worker in workers
    ]
    return records(("Worker", "State", "Last heartbeat", "At work on"), rows, width, long=3)


def _state(worker: Worker) -> Text:
    state = worker.state or "unknown"
    return cell(state) if worker.silent_seconds is None else cell(f"{state}, silent", "yellow")


def _jobs(jobs: Sequence[QueuedJob], width: int) -> RenderableType:
    rows = [
        (
            state(job.status),
            cell(_name(job)),
            _since(job),
            cell(job.job_id),
        )
        for job in jobs
    ]
    columns = ("Status", "Job", "Since", "Id")
    return fitting_table(columns, rows, width, long=1) or records(
        columns[:3], [row[:3] for row in rows], width, long=1
    )


def _name(job: QueuedJob) -> str:
    return link_name(job.app_name, job.repository_name) or job.job_id


def _since(job: QueuedJob) -> Text:
    if job.status == "delayed":
        return cell(f"due {moment(job.due_at) or 'never'}")
    since = moment(job.processed_at if job.status == "active" else job.enqueued_at)
    return cell(since or "-")
