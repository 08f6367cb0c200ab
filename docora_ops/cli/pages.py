"""Showing one page of a long list."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from docora_ops.cli.context import Context
from docora_ops.cli.exit_codes import ExitCode
from docora_ops.errors import DocoraOpsError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from docora_ops.link_lists import Page


def show_page(
    context: Context,
    page: Page[Any],
    table: RenderableType,
    *,
    where: str,
    counted: str,
    nothing: str,
    lost: DocoraOpsError | None = None,
) -> int:
    """Prints the page and, below it, `counted` and which page it is. Returns the exit code.

    `where`: the servers. `nothing`: said instead of an empty list. `lost`: the error of a server,
    without which only a part of the data is there.
    """
    from docora_ops.render.cells import cell
    from docora_ops.render.json import page_document

    if context.as_json:
        context.show_document(page_document(page), lost)
    elif page.rows:
        footer = f"{where}: {counted}, page {page.number} of {page.pages}."
        context.show_tables(table, cell(footer))
    elif page.total:
        context.say(f"{where}: {counted}, but no page {page.number}: the last is {page.pages}.")
    else:
        context.say(f"{where}: {nothing}.")
    return ExitCode.OK if lost is None else context.report(lost)
