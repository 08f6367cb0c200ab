"""`queue`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.text import Text

from docora_ops.jobs import QueuedJob, QueueOverview, Scheduler, Worker
from docora_ops.render.cells import cell, link_name
from docora_ops.render.json import Document
from docora_ops.render.layout import fitting_table, pairs, record
from docora_ops.text import duration, moment

_STATUS_STYLES = {"active": "green", "delayed": "yellow"}


def document(overview: QueueOverview) -> Document:
    """Returns the JSON of `queue`, with Docora's own field names for the counts and the jobs."""
    return {"data": overview}


def tables(overview: QueueOverview, width: int) -> Iterator[RenderableType]:
    """Shows the counts, the workers and the jobs, with a blank line between the tables."""
    counts = pairs()
    age = overview.oldest_waiting_seconds
    waited = "" if age is None else f", the oldest for {duration(age)}"
    counts.add_row("Waiting", cell(f"{overview.waiting}{waited}"))
    counts.add_row("Active", cell(overview.active))
    counts.add_row("Delayed", cell(overview.delayed))
    counts.add_row("Completed", cell(overview.completed))
    counts.add_row("Failed", cell(overview.failed))
    counts.add_row("Scheduler", _scheduler(overview.scheduler, needed=overview.delayed > 0))
    alive = sum(worker.alive for worker in overview.workers)
    counts.add_row("Workers", cell(alive) if alive else cell("none", "yellow"))
    yield counts
    if overview.workers:
        yield ""
        yield from _workers(overview.workers, width)
    if overview.jobs:
        yield ""
        yield from _jobs(overview.jobs, width)


def _scheduler(scheduler: Scheduler | None, *, needed: bool) -> Text:
    if scheduler is None:
        return cell("none", "yellow" if needed else "")
    host, pid = scheduler.hostname, scheduler.pid
    return cell(f"running on {host}, process {pid}" if host and pid else "running")


def _workers(workers: Sequence[Worker], width: int) -> Iterator[RenderableType]:
    columns = ("Worker", "State", "Last heartbeat", "At work on")
    rows = [
        (
            cell(worker.name),
            cell(worker.state or "unknown") if worker.alive else cell("gone", "yellow"),
            cell(moment(worker.last_heartbeat_at) or "-"),
            cell(", ".join(map(_name, worker.jobs)) or "-"),
        )
        for worker in workers
    ]
    if shown := fitting_table(columns, rows, width, long=3):
        yield shown
        return
    for name, state, heartbeat, work in rows:
        yield record(name, Text.assemble(state, ", heartbeat ", heartbeat), work)


def _jobs(jobs: Sequence[QueuedJob], width: int) -> Iterator[RenderableType]:
    columns = ("Status", "Job", "Since", "Id")
    rows = [
        (cell(job.status, _STATUS_STYLES.get(job.status, "")), cell(_name(job)), _since(job))
        for job in jobs
    ]
    with_ids = [(*row, cell(job.id)) for row, job in zip(rows, jobs, strict=True)]
    if shown := fitting_table(columns, with_ids, width, long=1) or fitting_table(
        columns[:3], rows, width, long=1
    ):
        yield shown
        return
    for status, name, since in rows:
        yield record(name, Text.assemble(status, " ", since))


def _name(job: QueuedJob) -> str:
    return link_name(job.app_name, job.repository_name) or job.id


def _since(job: QueuedJob) -> Text:
    if job.status == "delayed":
        return cell(f"due {moment(job.due_at) or 'never'}")
    since = moment(job.processed_on if job.status == "active" else job.enqueued_at)
    return cell(since or "-")
