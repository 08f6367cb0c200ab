"""Tables that several commands show: counts of links by a field, and links with errors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from docora_ops.links import LinkGroup
from docora_ops.render.columns import (
    NO_ERROR,
    ROWS_SHOWN,
    Column,
    Listing,
    link_name,
    style_of,
    words,
)
from docora_ops.text import flat, good_until

if TYPE_CHECKING:
    from docora_ops.database.link_reports import RepositoryCount, StatusCount
    from docora_ops.error_groups import ErrorGroup
    from docora_ops.links import AppCount, LinkFailure


def apps_of(group: ErrorGroup) -> str:
    """Returns `Acme Search, Quiet Harbor and 3 more`; the number of apps if no name is known."""
    if not group.app_names:
        return f"{group.apps}"
    more = group.apps - len(group.app_names)
    return ", ".join(group.app_names) + f" and {more} more" * bool(more)


GOOD_UNTIL = "Good until"
_BY_APP: Sequence[Column[AppCount]] = (
    Column("App", lambda count: count.app_name, narrowest=12),
    Column("App id", lambda count: count.app_id, left_out=1),
)
_BY_REPOSITORY: Sequence[Column[RepositoryCount]] = (
    Column("Repository", lambda count: count.repository_name, narrowest=14),
    Column("Repository id", lambda count: count.repository_id, left_out=1),
)
_BY_STATUS: Sequence[Column[StatusCount]] = (
    Column("Status", lambda count: words(count.status), lambda count: style_of(count.status)),
)
_BY_ERROR: Sequence[Column[ErrorGroup]] = (
    Column("Files", lambda group: group.files or None, is_number=True, left_out=2),
    Column("Apps", lambda group: group.apps, is_number=True, left_out=3),
    Column("App names", apps_of, narrowest=14),
    Column(
        GOOD_UNTIL,
        lambda group: good_until(
            group.good_until_at, group.good_until_seconds, group.oldest_scan_seconds
        ),
        left_out=1,
    ),
    Column("Error", lambda group: group.error_message or f"({NO_ERROR}: --no-error)", folds=True),
)
_COLUMNS: Mapping[LinkGroup, Sequence[Column[Any]]] = {
    LinkGroup.APP: _BY_APP,
    LinkGroup.REPOSITORY: _BY_REPOSITORY,
    LinkGroup.STATUS: _BY_STATUS,
    LinkGroup.ERROR: _BY_ERROR,
}


def group_columns(group: LinkGroup, *, of_failed: bool = False) -> Sequence[Column[Any]]:
    """Returns the columns of a list that counts links by a field.

    of_failed: the list counts only failed links. A list by error then has the column `Good until`.
    """
    columns = [column for column in _COLUMNS[group] if of_failed or column.name != GOOD_UNTIL]
    return [Column[Any]("Links", lambda count: count.links, is_number=True), *columns]


def app_counts(rows: Iterable[AppCount]) -> Listing[Any]:
    """Lists apps, most links first. A terminal shows only the first rows."""
    largest_first = sorted(rows, key=lambda count: -count.links)
    return Listing(group_columns(LinkGroup.APP), largest_first, ROWS_SHOWN)


def failures(rows: Sequence[LinkFailure], heading: str = "Not queued") -> Listing[LinkFailure]:
    """Lists links with their errors. A terminal shows only the first rows."""
    columns: Sequence[Column[LinkFailure]] = (
        Column(heading, link_name, narrowest=16),
        Column("Why", lambda failure: flat(failure.error_message), folds=True),
    )
    return Listing(columns, rows, ROWS_SHOWN, is_compact=True)
