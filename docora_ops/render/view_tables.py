"""Tables of what the commands that only read find."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from rich.console import RenderableType
from rich.text import Text

from docora_ops.failed_links import ErrorGroup, FailedLink, Page
from docora_ops.jobs import JobState, QueuedJob, QueueOverview, Scheduler, Worker
from docora_ops.links import AppCount
from docora_ops.render.cells import cell
from docora_ops.render.layout import record, table
from docora_ops.render.tables import amount, pairs, retries, with_id
from docora_ops.text import moment

NO_ERROR = "(no error recorded)"
_JOB_STYLES = {
    JobState.WAITING: "cyan",
    JobState.RUNNING: "cyan",
    JobState.DOUBTFUL: "yellow",
    JobState.UNREADABLE: "bold red",
}

_STATUS_STYLES = {"active": "green", "delayed": "yellow"}


def failed(page: Page[FailedLink], width: int) -> Iterator[RenderableType]:
    """The failed links, with ids where there is room, and where there is little, line by line."""
    columns = ("App", "Repository", "Error", "Retries", "Last good scan", "Circuit", "Job")
    for with_ids in (True, False):
        rows = [_failed_cells(link, with_ids=with_ids) for link in page.rows]
        if shown := table(columns, rows, width, long=2):
            yield shown
            return
    for link in page.rows:
        yield record(
            cell(f"{link.app_name} ← {link.repository}"),
            _error(_shortened(link)),
            cell(
                f"{retries(link.retry_count)}, last good scan: "
                f"{moment(link.last_scanned_at) or 'never'}"
            ),
            Text.assemble("circuit ", _circuit(link.circuit_open_until), ", job: ", _job(link.job)),
        )


def _failed_cells(link: FailedLink, *, with_ids: bool) -> list[Text]:
    app, repository = link.app_name, link.repository
    if with_ids:
        app = with_id(app, link.ref.app_id)
        repository = with_id(repository, link.ref.repository_id)
    return [
        cell(app),
        cell(repository),
        _error(_shortened(link)),
        cell(link.retry_count),
        cell(moment(link.last_scanned_at) or "never"),
        _circuit(link.circuit_open_until),
        _job(link.job),
    ]


def _shortened(link: FailedLink) -> str | None:
    if not link.error_left_out:
        return link.error
    more = f"{link.error_left_out:,} characters more: docora-ops show {link.ref.words}"
    return f"{link.error}… and {more}"


def failed_by_app(page: Page[AppCount]) -> RenderableType:
    """How many failed links of which app."""
    shown = pairs()
    for count in page.rows:
        app = with_id(count.app.app_name, count.app.app_id)
        shown.add_row(cell(amount(count.links, "link")), cell(app))
    return shown


def failed_by_error(page: Page[ErrorGroup]) -> RenderableType:
    """How many failed links, of how many apps, with which error."""
    shown = pairs()
    for group in page.rows:
        count = f"{amount(group.links, 'link')}, {amount(group.apps, 'app')}"
        shown.add_row(cell(count), _error(group.error))
    return shown


def queue(overview: QueueOverview, width: int) -> Iterator[RenderableType]:
    """Counts, workers and jobs, some tables with a blank line between."""
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


def duration(seconds: int) -> str:
    """`5 s`, `12 min`, `3 h 5 min`, `2 d 4 h`."""
    days, hours, minutes = seconds // 86_400, seconds // 3600 % 24, seconds // 60 % 60
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min" if minutes else f"{seconds} s"


def _scheduler(scheduler: Scheduler | None, *, needed: bool) -> Text:
    if scheduler is None:
        return cell("none", "yellow" if needed else "")
    return cell(f"running{_place(scheduler.hostname, scheduler.pid)}")


def _place(hostname: str | None, pid: str | None) -> str:
    return f" on {hostname}, process {pid}" if hostname and pid else ""


def _workers(workers: Sequence[Worker], width: int) -> Iterator[RenderableType]:
    columns = ("Worker", "State", "Last heartbeat", "At work on")
    rows = [
        [
            cell(worker.name),
            _state(worker),
            cell(moment(worker.last_heartbeat) or "-"),
            _work(worker),
        ]
        for worker in workers
    ]
    if shown := table(columns, rows, width, long=3):
        yield shown
        return
    for name, state, heartbeat, work in rows:
        yield record(name, Text.assemble(state, ", heartbeat ", heartbeat), work)


def _state(worker: Worker) -> Text:
    return cell(worker.state or "unknown") if worker.alive else cell("gone", "yellow")


def _work(worker: Worker) -> Text:
    return cell(", ".join(_name(job) for job in worker.jobs) or "-")


def _name(job: QueuedJob) -> str:
    """`App ← owner/name`, or what else there is to know it by."""
    if job.app_name and job.repository:
        return f"{job.app_name} ← {job.repository}"
    return job.id


def _jobs(jobs: Sequence[QueuedJob], width: int) -> Iterator[RenderableType]:
    columns = ("Status", "Job", "Since", "Id")
    rows = [
        [cell(job.status, _STATUS_STYLES.get(job.status, "")), cell(_name(job)), _since(job)]
        for job in jobs
    ]
    with_ids = [[*row, cell(job.id)] for row, job in zip(rows, jobs, strict=True)]
    for names, cells in ((columns, with_ids), (columns[:3], rows)):
        if shown := table(names, cells, width, long=1):
            yield shown
            return
    for status, name, since in rows:
        yield record(name, Text.assemble(status, " ", since))


def _since(job: QueuedJob) -> Text:
    if job.status == "delayed":
        return cell(f"due {moment(job.due_at) or 'never'}")
    since = moment(job.started_at if job.status == "active" else job.enqueued_at)
    return cell(since or "-")


def _error(error: str | None) -> Text:
    return cell(NO_ERROR, "dim") if error is None else cell(error)


def _circuit(open_until: datetime | None) -> Text:
    if open_until is None or open_until <= datetime.now(UTC):
        return cell("closed")
    return cell(f"open until {moment(open_until)}", "yellow")


def _job(state: JobState) -> Text:
    return cell(state, _JOB_STYLES.get(state, ""))
