"""Failed links, as lists of them show them. Secrets have been cut out of every text and URL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar

from docora_ops.jobs import JobState
from docora_ops.links import LinkRef

Row = TypeVar("Row")


@dataclass(frozen=True)
class Page(Generic[Row]):
    """Some rows of a list that may be long."""

    rows: Sequence[Row]
    number: int
    """Counted from 1."""
    limit: int
    total: int
    """Rows of all pages."""

    @property
    def pages(self) -> int:
        """How many pages there are; an empty list has one."""
        return max(1, -(-self.total // self.limit))


@dataclass(frozen=True, slots=True)
class FailedLink:
    """One failed link, and where its job stands."""

    ref: LinkRef
    app_name: str
    repository: str
    github_url: str
    error: str | None
    error_left_out: int
    """Characters at the end of the error that are left out."""
    retry_count: int
    last_scanned_at: datetime | None
    """The end of the last good scan."""
    created_at: datetime
    circuit_open_until: datetime | None
    job: JobState = JobState.NONE

    @property
    def timestamp(self) -> datetime:
        """What is known to have been good last: when it failed is not recorded."""
        return self.last_scanned_at or self.created_at


@dataclass(frozen=True)
class ErrorGroup:
    """Failed links whose errors differ only in paths, numbers and ids."""

    error: str | None
    """With `*` for what differs; None: no error is recorded."""
    links: int
    apps: int
