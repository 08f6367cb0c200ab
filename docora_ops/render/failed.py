"""`failed`."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from docora_ops.failed_links import ErrorGroup, FailedLink, Page
from docora_ops.links import AppCount
from docora_ops.render.cells import amount, cell, circuit, link_name, retries, state, with_id
from docora_ops.render.json import Document
from docora_ops.render.layout import block, fitting_table, pairs
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
    """Shows the failed links: a table if it fits, with ids if they fit, or four lines each."""
    for with_ids in (True, False):
        rows = [_cells(link, with_ids=with_ids) for link in page.rows]
        if found := fitting_table(_COLUMNS, rows, width, long=2):
            return found
    return Group(*map(_block, page.rows))


def _block(link: FailedLink) -> RenderableType:
    scanned_at = moment(link.last_scanned_at) or "never"
    return block(
        cell(link_name(link.app_name, link.repository_name)),
        _error(link),
        cell(f"{retries(link.retry_count)}, last good scan: {scanned_at}"),
        Text.assemble("circuit ", circuit(link.circuit_open_until), ", job: ", state(link.job)),
    )


def _cells(link: FailedLink, *, with_ids: bool) -> list[Text]:
    app, repository = link.app_name, link.repository_name
    if with_ids:
        app = with_id(app, link.app_id)
        repository = with_id(repository, link.repository_id)
    return [
        cell(app),
        cell(repository),
        _error(link),
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
            _text(group.error_message),
        )
        for group in page.rows
    )


def _error(link: FailedLink) -> Text:
    if link.error_message_cut:
        return cell(f"{link.error_message}… all of it: docora-ops show {link.words}")
    return _text(link.error_message)


def _text(error: str | None) -> Text:
    return cell("(no error recorded)", "dim") if error is None else cell(error)
