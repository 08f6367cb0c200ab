"""Pages and batches of long lists."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

BATCH_SIZE = 500
"""Links that are locked, queued and committed together."""

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
        """Counts the pages; an empty list has one."""
        return max(1, -(-self.total // self.limit))

    def place(self, counted: str, nothing: str) -> str:
        """Says what the page is part of: `counted`, the rows with their noun, or `nothing`."""
        if not self.total:
            return nothing
        if self.number > self.pages:
            return f"{counted}, and no page {self.number}: the last one is {self.pages}"
        return f"{counted}, page {self.number} of {self.pages}"


def page_of(rows: Sequence[Row], number: int, limit: int) -> Page[Row]:
    """Returns one page of a list that is in memory."""
    return Page(rows[(number - 1) * limit : number * limit], number, limit, len(rows))


def batches(items: Sequence[Row], size: int) -> Iterator[Sequence[Row]]:
    """Yields the items in order, `size` at a time."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
