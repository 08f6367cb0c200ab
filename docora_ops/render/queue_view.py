"""The queue, its workers and jobs; `pause` and `resume`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.text import Text

from docora_ops.jobs import (
    AnyWorker,
    Backend,
    QueuedJob,
    QueueOverview,
    RqWorkers,
    Suspension,
    Worker,
    silence_of,
)
from docora_ops.render.columns import Column, Listing, Pairs, cell, style_of, words
from docora_ops.render.link_view import link_name
from docora_ops.text import duration, moment

_MOST_JOBS = 10_000
"""The largest `--limit`."""


def _name(job: QueuedJob) -> str:
    return link_name(job.app_name, job.repository_name) or job.job_id


def _since(job: QueuedJob) -> str:
    if job.status == "delayed":
        return f"due {moment(job.due_at) or 'never'}"
    return moment(job.processed_at if job.status == "active" else job.enqueued_at) or "-"


def _state(worker: Worker) -> str:
    state = worker.state or "unknown"
    return state if worker.silent_seconds is None else f"{state}, silent"


_WORKERS: tuple[Column[Worker], ...] = (
    Column("Worker", lambda worker: worker.name),
    Column(
        "State",
        _state,
        lambda each: "yellow" * (each.silent_seconds is not None),
    ),
    Column("Last heartbeat", lambda worker: worker.last_heartbeat_at or "-"),
    Column("At work on", lambda each: ", ".join(map(_name, each.jobs)) or "-", folds=True),
)
_JOBS: tuple[Column[QueuedJob], ...] = (
    Column("Status", lambda job: words(job.status), lambda job: style_of(job.status)),
    Column("Job", _name, folds=True),
    Column("Since", _since),
    Column("Job id", lambda job: job.job_id, left_out=1),
)


def queue_screens(overview: QueueOverview, limit: int) -> Iterator[object]:
    """Shows the counts, the workers and the first `limit` jobs, with a blank line between."""
    age = overview.oldest_waiting_seconds
    waited = "" if age is None else f", the oldest for {duration(age)}"
    alive, silence = len(overview.workers), silence_of(overview.workers)
    workers = cell(f"{alive} ({silence})" if silence else alive, "yellow" if silence else "")
    rows = [
        ("Waiting", cell(f"{overview.waiting}{waited}")),
        ("Active", cell(overview.active)),
        ("Delayed", cell(overview.delayed)),
        ("Completed", cell(overview.completed_jobs)),
        ("Failed", cell(overview.failed_jobs)),
        *_scheduler(overview),
        ("Workers", workers if alive else cell("none", "yellow")),
    ]
    if overview.suspension:
        rows.append(("", cell(overview.suspension.sentence, "yellow")))
    yield Pairs(rows)
    if overview.workers:
        yield from ("", Listing(_WORKERS, overview.workers))
    if overview.jobs:
        yield from ("", Listing(_JOBS, overview.jobs))
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


@dataclass(frozen=True)
class PauseData:
    """The result of `pause`. `other_queues`: further queues that workers listen on."""

    message: str
    suspension: Suspension | None
    other_queues: Sequence[str]
    workers: Sequence[AnyWorker]


@dataclass(frozen=True)
class ResumeData:
    """The result of `resume`. `suspension`: the one that has ended, if any."""

    message: str
    resumed: bool
    suspension: Suspension | None


def pause_screen(paused: RqWorkers) -> Pairs:
    """Shows the end of the suspension, and what the workers do."""
    workers = paused.workers
    ends_at = paused.suspension.ends_at if paused.suspension else None
    busy = sum(worker.state == "busy" for worker in workers)
    stopped = sum(worker.is_stopped for worker in workers)
    states = (
        (stopped - busy, "suspended"),
        (busy, "busy: each finishes its job first"),
        (len(workers) - stopped, "waiting for a job: each may take one more"),
    )
    found = [f"{count} {state}" for count, state in states if count] or ["none"]
    return Pairs(
        [
            ("Suspended", cell(f"until {moment(ends_at) or 'docora-ops resume'}")),
            *(("" if number else "Workers", cell(text)) for number, text in enumerate(found)),
        ]
    )
