"""`failed`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from docora_ops.failed_links import ErrorGroup, FailedLink, Page
from docora_ops.jobs import JobState
from docora_ops.links import AppCount
from docora_ops.render.cells import amount, cell, retries, with_id
from docora_ops.render.json import Document, fields_of
from docora_ops.render.layout import fitting_table, pairs, record
from docora_ops.text import moment

_NO_ERROR = "(no error recorded)"
_COLUMNS = ("App", "Repository", "Error", "Retries", "Last good scan", "Circuit", "Job")
_JOB_STYLES = {
    JobState.WAITING: "cyan",
    JobState.RUNNING: "cyan",
    JobState.DOUBTFUL: "yellow",
    JobState.UNREADABLE: "bold red",
}


def links_document(page: Page[FailedLink]) -> Document:
    """Returns the JSON of `failed`, with Docora's own field names."""
    return _document(page, map(_link_fields, page.rows))


def apps_document(page: Page[AppCount]) -> Document:
    """Returns the JSON of `failed --group-by app`."""
    return _document(page, ({**fields_of(row.app), "links": row.links} for row in page.rows))


def errors_document(page: Page[ErrorGroup]) -> Document:
    """Returns the JSON of `failed --group-by error`."""
    return _document(page, page.rows)


def _document(page: Page[Any], rows: Iterable[object]) -> Document:
    return {
        "data": list(rows),
        "pagination": {
            "page": page.number,
            "limit": page.limit,
            "total": page.total,
            "total_pages": page.pages,
        },
    }


def _link_fields(link: FailedLink) -> Document:
    return {
        "app_id": link.ref.app_id,
        "app_name": link.app_name,
        "repository_id": link.ref.repository_id,
        "repository_name": link.repository_name,
        "github_url": link.github_url,
        "error_message": link.error_message,
        "error_message_cut": link.error_left_out > 0,
        "timestamp": link.timestamp,
        "retry_count": link.retry_count,
        "last_scanned_at": link.last_scanned_at,
        "circuit_open_until": link.circuit_open_until,
        "job": link.job,
    }


def links_tables(page: Page[FailedLink], width: int) -> Iterator[RenderableType]:
    """Shows the links in a table, with ids if it is wide enough, or each in some lines."""
    for with_ids in (True, False):
        rows = [_cells(link, with_ids=with_ids) for link in page.rows]
        if shown := fitting_table(_COLUMNS, rows, width, long=2):
            yield shown
            return
    for link, (app, repository, error, _, scanned, circuit, job) in zip(
        page.rows, rows, strict=True
    ):
        yield record(
            Text.assemble(app, " ← ", repository),
            error,
            Text.assemble(retries(link.retry_count), ", last good scan: ", scanned),
            Text.assemble("circuit ", circuit, ", job: ", job),
        )


def _cells(link: FailedLink, *, with_ids: bool) -> list[Text]:
    app, repository = link.app_name, link.repository_name
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
        cell(link.job, _JOB_STYLES.get(link.job, "")),
    ]


def _shortened(link: FailedLink) -> str | None:
    if not link.error_left_out:
        return link.error_message
    more = f"{link.error_left_out:,} characters more: docora-ops show {link.ref.words}"
    return f"{link.error_message}… and {more}"


def apps_table(page: Page[AppCount]) -> RenderableType:
    """Shows the number of failed links of each app."""
    shown = pairs()
    for count in page.rows:
        app = with_id(count.app.app_name, count.app.app_id)
        shown.add_row(cell(amount(count.links, "link")), cell(app))
    return shown


def errors_table(page: Page[ErrorGroup]) -> RenderableType:
    """Shows the number of failed links and of their apps for each error."""
    shown = pairs()
    for group in page.rows:
        count = f"{amount(group.links, 'link')}, {amount(group.apps, 'app')}"
        shown.add_row(cell(count), _error(group.error_message))
    return shown


def _circuit(open_until: datetime | None) -> Text:
    if open_until is None or open_until <= datetime.now(UTC):
        return cell("closed")
    return cell(f"open until {moment(open_until)}", "yellow")


def _error(error: str | None) -> Text:
    return cell(_NO_ERROR, "dim") if error is None else cell(error)
