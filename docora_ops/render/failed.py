"""`failed`."""

from __future__ import annotations

from typing import Any

from rich.console import RenderableType
from rich.text import Text

from docora_ops.failed_links import ErrorGroup, FailedLink, Page
from docora_ops.links import AppCount
from docora_ops.render.cells import amount, cell, circuit, state, with_id
from docora_ops.render.json import Document
from docora_ops.render.layout import fitting_table, pairs, records
from docora_ops.text import moment

_COLUMNS = ("App", "Repository", "Error", "Retries", "Last good scan", "Circuit", "Job")


def document(page: Page[Any]) -> Document:
    """Returns the JSON of a page of links, apps or errors, with Docora's own field names."""
    return {
        "data": page.rows,
        "pagination": {
            "page": page.number,
            "limit": page.limit,
            "total": page.total,
            "total_pages": page.pages,
        },
    }


def links_table(page: Page[FailedLink], width: int) -> RenderableType:
    """Shows the failed links, with their ids if `width` is large enough."""
    with_ids = [_cells(link, with_ids=True) for link in page.rows]
    rows = [_cells(link, with_ids=False) for link in page.rows]
    return fitting_table(_COLUMNS, with_ids, width, long=2) or records(
        _COLUMNS, rows, width, long=2
    )


def _cells(link: FailedLink, *, with_ids: bool) -> list[Text]:
    app, repository, error = link.app_name, link.repository_name, link.error_message
    if with_ids:
        app = with_id(app, link.app_id)
        repository = with_id(repository, link.repository_id)
    if link.error_message_cut:
        error = f"{error}… all of it: docora-ops show {link.words}"
    return [
        cell(app),
        cell(repository),
        _error(error),
        cell(link.retry_count),
        cell(moment(link.last_scanned_at) or "never"),
        circuit(link.circuit_open_until),
        state(link.job),
    ]


def apps_table(page: Page[AppCount]) -> RenderableType:
    """Shows the number of failed links of each app."""
    return pairs(
        (cell(amount(count.links, "link")), cell(with_id(count.app_name, count.app_id)))
        for count in page.rows
    )


def errors_table(page: Page[ErrorGroup]) -> RenderableType:
    """Shows the number of failed links and of their apps for each error."""
    return pairs(
        (
            cell(f"{amount(group.links, 'link')}, {amount(group.apps, 'app')}"),
            _error(group.error_message),
        )
        for group in page.rows
    )


def _error(error: str | None) -> Text:
    return cell("(no error recorded)", "dim") if error is None else cell(error)
