"""Splitting a list into batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

BATCH_SIZE = 500
"""Links that are locked, queued and committed together."""

Item = TypeVar("Item")


def batches(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Yields the items in order, `size` at a time."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
