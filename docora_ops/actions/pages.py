"""Pages of long lists."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Row = TypeVar("Row")


@dataclass(frozen=True)
class Page(Generic[Row]):
    """A page of a long list."""

    rows: Sequence[Row]
    number: int  # from 1 on
    limit: int
    total: int  # rows of all pages

    @property
    def pages(self) -> int:
        """Counts the pages; an empty list has one page."""
        return max(1, -(-self.total // self.limit))


def page_of(rows: Sequence[Row], number: int, limit: int) -> Page[Row]:
    """Returns one page of a list in memory."""
    return Page(rows[(number - 1) * limit : number * limit], number, limit, len(rows))
