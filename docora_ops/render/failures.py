"""Links that could not be queued, that failed again, or that have lost their jobs."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from docora_ops.links import LinkFailure
from docora_ops.render.cells import cell, link_name
from docora_ops.render.layout import records

ROWS_SHOWN = 20
"""Rows of a list that only says what a summary is about."""


def failures(
    items: Sequence[LinkFailure], width: int, total: int = 0, heading: str = "Not done"
) -> RenderableType:
    """Shows the first failures, and how many more there are: `total` if `items` has not all.

    An error that all of them have is shown once.
    """
    rows = [
        (
            cell(link_name(failure.app_name, failure.repository_name) or failure.job_id),
            cell(failure.error_message),
        )
        for failure in items[:ROWS_SHOWN]
    ]
    shown: RenderableType
    if len(items) > 1 and len({failure.error_message for failure in items}) == 1:
        shown = Group(
            cell(f"{heading}, all for the same reason: {items[0].error_message}"),
            *(Text("  ") + name for name, _ in rows),
        )
    else:
        shown = records((heading, "Why"), rows, width, long=1)
    if len(items) <= ROWS_SHOWN:
        return shown
    return Group(shown, f"and {max(total, len(items)) - ROWS_SHOWN} more: see --json")
