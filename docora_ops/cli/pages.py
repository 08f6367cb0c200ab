"""Showing one page of a long list."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from docora_ops.cli.context import Context
from docora_ops.cli.exit_codes import ExitCode
from docora_ops.errors import DocoraOpsError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from docora_ops.pages import Page


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
    """Prints the page, then a line with `counted` and the page number. Returns the exit code.

    `where` names the servers. `nothing` is printed if the list is empty. `lost` is the error of a
    server that did not answer, so that data is missing.
    """
    from docora_ops.render.pages import page_document, page_footer

    if context.as_json:
        context.show_document(page_document(page), lost)
    else:
        tables = [table] if page.rows else []
        context.show_tables(tables, page_footer(page, where, counted, nothing))
    return ExitCode.OK if lost is None else context.report(lost)
