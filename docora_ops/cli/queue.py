"""`queue`: the queue, its workers and jobs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from docora_ops.cli import options
from docora_ops.cli.completion import complete_app
from docora_ops.cli.context import context_of
from docora_ops.jobs import NoJobCode, backlog_of, refusal_of
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
from docora_ops.text import ago, counted, duration, flat

if TYPE_CHECKING:
    from datetime import datetime

    from rich.text import Text

    from docora_ops.jobs import HeldApp, QueuedJob, QueueOverview, Worker


_MOST_WORKERS = 4  # workers to show without --all, so that the screen fits 24 lines


def queue(
    typer_context: typer.Context,
    app: Annotated[
        list[str] | None,
        typer.Option(
            "--app",
            metavar="APP",
            help="Show only jobs of this app (id or name). Repeatable.",
            autocompletion=complete_app,
        ),
    ] = None,
    limit: Annotated[
        int, typer.Option(metavar="N", min=1, max=10_000, help="Show at most N jobs.")
    ] = 8,
    show_all: Annotated[
        bool, typer.Option("--all", help="Show all workers, and everything known of the queue.")
    ] = False,
    as_json: options.Json = False,
    env_file: options.EnvFile = None,
) -> None:
    """Show the queue, its workers and the first jobs.

    Shows how long each job has run or waited, and how many of its files a running job has sent.
    The counts are those of the whole queue. Needs only Redis; Postgres only for --app, the errors
    of delayed tries and the names of held apps. Changes nothing.
    """
    context = context_of(typer_context)
    from docora_ops.actions.link_lists import queue

    overview = queue(context.docora, limit, apps=app or ())
    context.show(overview, _screens(overview, limit, show_all=show_all))


def _screens(overview: QueueOverview, limit: int, *, show_all: bool) -> Iterator[object]:
    rows = [("Queue", cell(counts_words(overview))), ("Workers", workers_cell(overview))]
    if backlog := backlog_of(overview):
        rows.append(("Backlog", cell(backlog.sentence, "yellow")))
    rows += [("Held", cell(text, "yellow")) for text in map(held_words, overview.held)]
    if overview.jobs_of_apps is not None:
        rows.append(("Jobs of apps", cell(overview.jobs_of_apps)))
    yield Pairs([*rows, *(named_values(overview) if show_all else ())])
    if overview.workers:
        yield ""
        columns, most = _worker_columns(overview.read_at), None if show_all else _MOST_WORKERS
        yield Listing(columns, overview.workers, most, is_compact=True)
    if overview.jobs:
        columns_of_jobs = _job_columns(overview.read_at)
        yield from ("", Listing(columns_of_jobs, overview.jobs, is_compact=True))
    total = overview.unfinished if overview.jobs_of_apps is None else overview.jobs_of_apps
    more = total - len(overview.jobs)
    if more > 0 and len(overview.jobs) == limit:
        yield cell(f"and {more:,} more: see --limit")


def counts_words(queue: QueueOverview) -> str:
    """Returns `3 waiting (the oldest for 2h), 1 running, 2 delayed`, or `empty`."""
    waited = queue.oldest_waiting_seconds
    oldest = f" (the oldest for {duration(waited)})" if waited is not None else ""
    counts = {
        f"waiting{oldest}": queue.waiting,
        "running": queue.active,
        "delayed": queue.delayed,
    }
    return ", ".join(counted(counts)) or "empty"


def held_words(app: HeldApp) -> str:
    """Returns `Acme Search, by kim@ops1 until 2026-12-01T08:00Z: REASON`."""
    return f"{app.app_name or app.app_id}, {app.held.words}"


def workers_cell(queue: QueueOverview) -> Text:
    """Says how many workers run, and how many are busy, take no job, are silent or gone."""
    count, style = f"{len(queue.workers)}", ""
    refusal, lost = refusal_of(queue.workers), queue.lost_words
    states = [worker.state for worker in queue.workers if worker.state]  # unknown with BullMQ
    if states and not (refusal and refusal.is_total):
        count += f", {states.count('busy')} busy"
        count += f", {queue.spare_slots} free for other apps" if queue.spare_slots else ""
    if refusal:
        is_bad = refusal.troubles and not queue.takes_jobs
        count, style = f"{count}, {refusal.words}", "red" if is_bad else "yellow"
    if lost:
        count, style = f"{count} ({lost})", style or "yellow"
    return cell(count, style)


def _trouble(worker: Worker) -> str | None:
    """Returns why a worker takes no job, unless its state already says so."""
    reason = worker.no_job_reason
    return None if reason is None or reason.code is NoJobCode.SUSPENDED else reason.message


def _worker_columns(now: datetime | None) -> Sequence[Column[Worker]]:
    def heartbeat(worker: Worker) -> str:
        at = worker.last_heartbeat_at
        return ago((now - at).total_seconds()) if now and at else "-"

    def state(worker: Worker) -> str:
        return (worker.state or "unknown") + ("" if worker.silent_seconds is None else ", silent")

    def work(worker: Worker) -> str:
        return ", ".join(map(link_name, worker.jobs)) or "-"

    return (
        Column("Worker", lambda worker: worker.name),
        Column("State", state, lambda worker: "yellow" * (worker.silent_seconds is not None)),
        Column("Takes no job", _trouble, lambda _: "yellow", folds=True),
        Column("Last heartbeat", heartbeat, left_out=1),
        Column("At work on", work, narrowest=16),
    )


def _job_columns(now: datetime | None) -> Sequence[Column[QueuedJob]]:
    """Returns the columns of the jobs. `now`: by the clock of Redis."""

    def age(job: QueuedJob) -> str:
        if now and job.due_at:
            return f"due in {duration((job.due_at - now).total_seconds())}"
        seconds = job.seconds_in_state(now)
        return "-" if seconds is None else duration(seconds)

    def progress(job: QueuedJob) -> str:
        return f"{job.files_words} files" if job.files_words else flat(job.error_message)

    return (
        Column("Status", lambda job: words(job.status), lambda job: style_of(job.status)),
        Column("Job", link_name, narrowest=16),
        Column("Age", age),
        Column("Progress", progress, folds=True),
        Column("Job id", lambda job: job.job_id, left_out=1),
    )
