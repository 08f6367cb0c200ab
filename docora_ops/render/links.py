"""`links` and `failed`."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from docora_ops.link_lists import ErrorGroup, ListedLink, RepositoryCount, StatusCount
from docora_ops.links import AppCount, LinkStatus
from docora_ops.pages import Page
from docora_ops.render.cells import (
    NO_ERROR,
    cell,
    circuit,
    failed_tries,
    link_name,
    state,
    with_id,
)
from docora_ops.render.layout import block, fitting_table, pairs
from docora_ops.text import amount, moment

_STATUS, _ERROR = "Status", "Error"
_COLUMNS = (
    "App",
    "Repository",
    _STATUS,
    _ERROR,
    "Failed tries",
    "Last good scan",
    "Circuit",
    "Job",
)


def links_table(page: Page[ListedLink], width: int, *, with_status: bool) -> RenderableType:
    """Shows the links: a table if it fits, with ids if they fit, or three lines each."""
    columns = _COLUMNS if with_status else [each for each in _COLUMNS if each != _STATUS]
    for with_ids in (True, False):
        rows = []
        for link in page.rows:
            cells = _cells(link, with_ids=with_ids)
            rows.append([cells[column] for column in columns])
        if found := fitting_table(columns, rows, width, long=columns.index(_ERROR)):
            return found
    return Group(*(_block(link, with_status=with_status) for link in page.rows))


def _block(link: ListedLink, *, with_status: bool) -> RenderableType:
    facts = [
        cell(f"last good scan {moment(link.last_scanned_at) or 'never'}"),
        Text.assemble("job ", _job(link)),
    ]
    if link.retry_count:
        facts.insert(0, cell(failed_tries(link.retry_count)))
    if link.circuit_is_open:
        facts.append(Text.assemble("circuit ", _circuit(link)))
    parts = (state(link.status) if with_status else None, _error(link))
    lines = (Text(": ").join(filter(None, parts)), Text(", ").join(facts))
    return block(cell(link_name(link.app_name, link.repository_name)), *filter(None, lines))


def _cells(link: ListedLink, *, with_ids: bool) -> dict[str, Text]:
    app, repository = link.app_name, link.repository_name
    if with_ids:
        app = with_id(app, link.app_id)
        repository = with_id(repository, link.repository_id)
    return {
        "App": cell(app),
        "Repository": cell(repository),
        _STATUS: state(link.status),
        _ERROR: _error(link),
        "Failed tries": cell(link.retry_count),
        "Last good scan": cell(moment(link.last_scanned_at) or "never"),
        "Circuit": _circuit(link),
        "Job": _job(link),
    }


def _circuit(link: ListedLink) -> Text:
    return circuit(link.circuit_open_until, is_open=link.circuit_is_open)


def _job(link: ListedLink) -> Text:
    return cell("unknown", "yellow") if link.job is None else state(link.job)


def apps_table(page: Page[AppCount]) -> RenderableType:
    """Shows the number of links of each app."""
    return pairs(
        (cell(amount(count.links, "link")), cell(with_id(count.app_name, count.app_id)))
        for count in page.rows
    )


def repositories_table(page: Page[RepositoryCount]) -> RenderableType:
    """Shows the number of links of each repository."""
    return pairs(
        (
            cell(amount(count.links, "link")),
            cell(with_id(count.repository_name, count.repository_id)),
        )
        for count in page.rows
    )


def statuses_table(page: Page[StatusCount]) -> RenderableType:
    """Shows the number of links with each status."""
    return pairs((cell(amount(count.links, "link")), state(count.status)) for count in page.rows)


def errors_table(page: Page[ErrorGroup]) -> RenderableType:
    """Shows the number of links and of their apps for each error."""
    return pairs(
        (
            cell(f"{amount(group.links, 'link')}, {amount(group.apps, 'app')}"),
            cell(f"({NO_ERROR}: --no-error)", "dim")
            if group.error_message is None
            else cell(group.error_message),
        )
        for group in page.rows
    )


def _error(link: ListedLink) -> Text:
    """Shows the error; a link that is not failed needs none."""
    if link.error_message_cut:
        return cell(f"{link.error_message}… all of it: docora-ops show {link.words}")
    if link.error_message:
        return cell(link.error_message)
    return cell(f"({NO_ERROR})" if link.status == LinkStatus.FAILED else "", "dim")
