"""Showing one page of a long list."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from docora_ops.cli.context import Context
from docora_ops.cli.exit_codes import ExitCode
from docora_ops.errors import DocoraOpsError

if TYPE_CHECKING:
    from docora_ops.pages import Page


def show_page(
    context: Context,
    page: Page[Any],
    rows: object,
    *,
    where: str,
    counted: str,
    nothing: str,
    lost: DocoraOpsError | None = None,
) -> int:
    """Prints the page, then a line with `counted` and the page number. Returns the exit code.

    `rows` lists the page. `where` names the servers. `nothing` is printed if the list is empty.
    `lost` is the error of a server that did not answer, so that data is missing.
    """
    if context.as_json:
        context.show_document(page, lost)
    else:
        is_shown = page.rows or not sys.stdout.isatty()
        context.show_tables([rows] if is_shown else [], f"{where}: {page.place(counted, nothing)}.")
    return ExitCode.OK if lost is None else context.report(lost)
