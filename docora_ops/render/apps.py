"""`apps`."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from docora_ops.link_lists import AppSummary
from docora_ops.pages import Page
from docora_ops.render.cells import cell, with_id
from docora_ops.render.layout import block, fitting_table
from docora_ops.text import amount, moment

_NUMBERS = ("Links", "Failed", "Pending", "Scanning")
_COLUMNS = ("App", *_NUMBERS, "Last good scan", "URL")


def table(page: Page[AppSummary], width: int) -> RenderableType:
    """Shows the apps: as a table if it fits, or in three lines each."""
    rows = [_cells(app) for app in page.rows]
    found = fitting_table(_COLUMNS, rows, width, long=6, numbers=_NUMBERS)
    return found or Group(*map(_block, page.rows))


def _cells(app: AppSummary) -> list[Text]:
    return [
        cell(with_id(app.app_name, app.app_id)),
        cell(app.links),
        _failed(app),
        cell(app.pending_snapshot),
        cell(app.scanning),
        cell(moment(app.last_scanned_at) or "never"),
        cell(app.base_url),
    ]


def _block(app: AppSummary) -> RenderableType:
    counts = [cell(f"{amount(app.links, 'link')}: "), _failed(app, " failed")]
    for number, word in ((app.pending_snapshot, "pending"), (app.scanning, "scanning")):
        if number:
            counts.append(cell(f", {number} {word}"))
    scanned_at = moment(app.last_scanned_at) or "never"
    return block(
        cell(with_id(app.app_name, app.app_id)),
        Text.assemble(*counts, f", last good scan {scanned_at}"),
        cell(app.base_url),
    )


def _failed(app: AppSummary, noun: str = "") -> Text:
    return cell(f"{app.failed}{noun}", "bold red" if app.failed else "")
