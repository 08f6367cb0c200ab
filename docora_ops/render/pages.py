"""Pages of long lists: their JSON, and the line below them."""

from __future__ import annotations

from typing import Any

from docora_ops.pages import Page
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


def page_footer(page: Page[Any], where: str, counted: str, nothing: str) -> str:
    """Returns the line below a list: what the page is part of, or `nothing` if the list is empty.

    `where` names the servers, `counted` is the number of rows of all pages with their noun.
    """
    if not page.total:
        return f"{where}: {nothing}."
    if page.number > page.pages:
        return f"{where}: {counted}, and no page {page.number}: the last one is {page.pages}."
    return f"{where}: {counted}, page {page.number} of {page.pages}."
