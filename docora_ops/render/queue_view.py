"""The queue, its workers and jobs; `resume`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from docora_ops.jobs import NoJobCode, QueuedJob, QueueOverview, Suspension, Worker
from docora_ops.render.columns import (
    Column,
    Listing,
    Pairs,
    cell,
    link_name,
    named_values,
    style_of,
    words,
)
from docora_ops.render.status_view import workers_cell
from docora_ops.text import moment


def _since(job: QueuedJob) -> str:
    if job.status == "delayed":
        return f"due {moment(job.due_at) or 'never'}"
    return moment(job.processed_at if job.status == "active" else job.enqueued_at) or "-"


def _trouble(worker: Worker) -> str | None:
    """Returns why a worker takes no job, unless its state says so."""
    reason = worker.no_job_reason
    return None if reason is None or reason.code is NoJobCode.SUSPENDED else reason.message


_WORKERS: Sequence[Column[Worker]] = (
    Column("Worker", lambda worker: worker.name),
    Column(
        "State",
        lambda it: (it.state or "unknown") + ", silent" * (it.silent_seconds is not None),
        lambda it: "yellow" * (it.silent_seconds is not None),
    ),
    Column(
        "Takes no job",
        _trouble,
        lambda _: "yellow",
        folds=True,
    ),
    Column("Last heartbeat", lambda worker: worker.last_heartbeat_at or "-"),
    Column("At work on", lambda it: ", ".join(map(link_name, it.jobs)) or "-", folds=True),
)
_JOBS: Sequence[Column[QueuedJob]] = (
    Column("Status", lambda job: words(job.status), lambda job: style_of(job.status)),
    Column("Job", link_name, folds=True),
    Column("Since", _since),
    Column("Job id", lambda job: job.job_id, left_out=1),
)


def queue_screens(overview: QueueOverview, limit: int) -> Iterator[object]:
    """Shows the counts, the workers and the first `limit` jobs, with a blank line between."""
    yield Pairs([*named_values(overview), ("Workers", workers_cell(overview))])
    if overview.workers:
        yield from ("", Listing(_WORKERS, overview.workers))
    if overview.jobs:
        yield from ("", Listing(_JOBS, overview.jobs))
    total = overview.unfinished if overview.jobs_of_apps is None else overview.jobs_of_apps
    more = total - len(overview.jobs)
    if more > 0 and len(overview.jobs) == limit:
        yield cell(f"and {more} more: see --limit")


@dataclass(frozen=True)
class ResumeData:
    """The result of `resume`. `suspension`: the one that has ended, if any."""

    resumed: bool
    suspension: Suspension | None
