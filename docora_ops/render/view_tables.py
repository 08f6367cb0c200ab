"""Tables of what the commands that only read find."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from rich.console import RenderableType
from rich.text import Text

from docora_ops.models import AppCount, JobState
from docora_ops.render.layout import record, table
from docora_ops.render.tables import amount, pairs, retries, with_id
from docora_ops.render.text import cell, moment
from docora_ops.views import ErrorGroup, FailedLink, Page

NO_ERROR = "(no error recorded)"
_JOB_STYLES = {
    JobState.WAITING: "cyan",
    JobState.RUNNING: "cyan",
    JobState.DOUBTFUL: "yellow",
    JobState.UNREADABLE: "bold red",
}


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
            _error(link.error),
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
        _error(link.error),
        cell(link.retry_count),
        cell(moment(link.last_scanned_at) or "never"),
        _circuit(link.circuit_open_until),
        _job(link.job),
    ]


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


def _error(error: str | None) -> Text:
    return cell(NO_ERROR, "dim") if error is None else cell(error)


def _circuit(open_until: datetime | None) -> Text:
    if open_until is None or open_until <= datetime.now(UTC):
        return cell("closed")
    return cell(f"open until {moment(open_until)}", "yellow")


def _job(state: JobState) -> Text:
    return cell(state, _JOB_STYLES.get(state, ""))
