"""The queue, its workers and jobs; `resume`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from docora_ops.jobs import QueuedJob, QueueOverview, Suspension, Worker, silence_of
from docora_ops.render.columns import Column, Listing, Pairs, cell, named_values, style_of, words
from docora_ops.render.link_view import link_name
from docora_ops.text import moment


def _since(job: QueuedJob) -> str:
    if job.status == "delayed":
        return f"due {moment(job.due_at) or 'never'}"
    return moment(job.processed_at if job.status == "active" else job.enqueued_at) or "-"


_WORKERS: Sequence[Column[Worker]] = (
    Column("Worker", lambda worker: worker.name),
    Column(
        "State",
        lambda it: (it.state or "unknown") + ", silent" * (it.silent_seconds is not None),
        lambda it: "yellow" * (it.silent_seconds is not None),
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
    silence = silence_of(overview.workers)
    count = f"{len(overview.workers)} ({silence})" if silence else len(overview.workers)
    yield Pairs([*named_values(overview), ("Workers", cell(count, "yellow" * bool(silence)))])
    if overview.workers:
        yield from ("", Listing(_WORKERS, overview.workers))
    if overview.jobs:
        yield from ("", Listing(_JOBS, overview.jobs))
    more = overview.unfinished - len(overview.jobs)
    if more > 0 and len(overview.jobs) == limit:
        yield cell(f"and {more} more: see --limit")


@dataclass(frozen=True)
class ResumeData:
    """The result of `resume`. `suspension`: the one that has ended, if any."""

    resumed: bool
    suspension: Suspension | None
