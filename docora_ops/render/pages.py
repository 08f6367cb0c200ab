"""Pages of long lists: their JSON, and the line below them."""

from __future__ import annotations

from typing import Any

from docora_ops.pages import Page
from docora_ops.render.cells import amount
from docora_ops.render.json import Document


def page_document(page: Page[Any]) -> Document:
    """Returns the JSON of a page, with Docora's own names."""
    return {
        "data": page.rows,
        "pagination": {
            "page": page.number,
            "limit": page.limit,
            "total": page.total,
            "total_pages": page.pages,
        },
    }


def page_footer(where: str, page: Page[Any], noun: str, nothing: str) -> str:
    """Returns the line below a list: what the page is part of, or `nothing` if the list is empty.

    `where` names the servers, `noun` one row.
    """
    if not page.total:
        return f"{where}: {nothing}."
    count = amount(page.total, noun)
    if page.number > page.pages:
        return f"{where}: {count}, and no page {page.number}: the last one is {page.pages}."
    return f"{where}: {count}, page {page.number} of {page.pages}."
