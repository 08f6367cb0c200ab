"""Lists and counts links."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Generic, TypeVar

from docora_ops.actions.docora import Docora
from docora_ops.database import links as rows
from docora_ops.database import lists as sql
from docora_ops.error_groups import ErrorGroup, group_errors
from docora_ops.links import Link, LinkFilter

Row = TypeVar("Row")


class GroupBy(StrEnum):
    """The fields by which links can be counted."""

    APP = "app"
    REPOSITORY = "repository"
    ERROR = "error"
    STATUS = "status"


@dataclass(frozen=True)
class Page(Generic[Row]):
    """A page of a list. `total`: the number of rows on all pages."""

    rows: Sequence[Row]
    page: int
    limit: int
    total: int

    @property
    def total_pages(self) -> int:
        """Returns the number of pages, at least 1."""
        return max(1, -(-self.total // self.limit))


@dataclass(frozen=True)
class Group:
    """Links of one app, repository or status.

    key: the id of the app or of the repository, or the status. name: None for a status.
    base_url, email: only of an app: whom to tell.
    last_scanned_at: the newest good scan of these links.
    """

    key: str
    links: int
    apps: int
    last_scanned_at: datetime | None
    name: str | None = None
    base_url: str | None = None
    email: str | None = None


def list_links(docora: Docora, which: LinkFilter, limit: int, page: int) -> Page[Link]:
    """Returns a page of links. Raises PostgresError."""
    with docora.database.transaction():
        total = rows.count(docora.database, which)
        links = sql.read_page(docora.database, which, limit, page)
    return Page(links, page, limit, total)


def count_by_app(docora: Docora, ids: Sequence[str]) -> list[tuple[str, str, int]]:
    """Returns app id, app name and number of links of each app, the largest number first.

    ids: row ids of links. Raises PostgresError.
    """
    return rows.count_by_app(docora.database, ids)


def count_deliveries(docora: Docora, ids: Sequence[str]) -> int:
    """Counts the delivery records of the links with these row ids. Raises PostgresError."""
    return rows.count_deliveries(docora.database, ids)


def group_links(
    docora: Docora, which: LinkFilter, group_by: GroupBy, limit: int, page: int
) -> Page[Group] | Page[ErrorGroup]:
    """Counts links by a field, most links first. Raises PostgresError."""
    start = (page - 1) * limit
    if group_by is GroupBy.ERROR:
        errors = group_errors(sql.count_errors(docora.database, which))
        return Page(errors[start : start + limit], page, limit, len(errors))
    groups = [
        Group(columns[0], links, apps, at, *columns[1:])
        for columns, links, apps, at in sql.count_groups(docora.database, which, group_by)
    ]
    return Page(groups[start : start + limit], page, limit, len(groups))
