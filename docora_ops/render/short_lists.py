"""Shortened lists: the first rows, and the number of the other rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from docora_ops.links import AppCount, LinkFailure
from docora_ops.render.cells import cell, link_name, with_id
from docora_ops.render.layout import pairs, records

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


def app_counts(counts: Iterable[AppCount]) -> RenderableType:
    """Shows the number of links of each app, the largest first."""
    ordered = sorted(counts, key=lambda count: -count.links)
    shown = pairs(
        (cell(count.links), cell(with_id(count.app_name, count.app_id)))
        for count in ordered[:ROWS_SHOWN]
    )
    if rest := ordered[ROWS_SHOWN:]:
        links = sum(count.links for count in rest)
        shown.add_row(cell(links), cell(f"in {len(rest)} more apps"))
    return shown
