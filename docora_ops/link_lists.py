"""Links as lists and screens show them, and counts of them. Texts and URLs hold no secrets."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Generic, TypeVar

from docora_ops.jobs import Backend, BackendSource, JobRecord, JobState
from docora_ops.links import App, LinkIds

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


def page_of(rows: Sequence[Row], number: int, limit: int) -> Page[Row]:
    """Returns one page of a list that is in memory."""
    return Page(rows[(number - 1) * limit : number * limit], number, limit, len(rows))


class LinkSort(StrEnum):
    """The order of a list of links."""

    APP = "app"
    ERROR = "error"
    RETRIES = "retries"
    LAST_SCAN = "last-scan"
    OVERDUE = "overdue"


class LinkGroup(StrEnum):
    """The fields that links can be counted by."""

    APP = "app"
    REPOSITORY = "repository"
    ERROR = "error"
    STATUS = "status"


@dataclass(frozen=True, slots=True)
class ListedLink(LinkIds):
    """A link and the state of its job, by Docora's own names."""

    app_id: str
    app_name: str
    repository_id: str
    repository_name: str
    github_url: str
    status: str
    error_message: str | None
    error_message_cut: bool
    retry_count: int
    last_scanned_at: datetime | None
    last_scanned_seconds: int | None  # since then, by the clock of Postgres
    circuit_open_until: datetime | None
    circuit_is_open: bool  # by the clock of Postgres
    job: JobState | None = None  # None: Redis did not tell


@dataclass(frozen=True)
class RepositoryCount:
    """The number of links of one repository."""

    repository_id: str
    repository_name: str
    links: int


@dataclass(frozen=True)
class StatusCount:
    """The number of links with one status."""

    status: str
    links: int


@dataclass(frozen=True)
class ErrorGroup:
    """Links whose errors differ only in paths, numbers and ids.

    good_until_at: the latest last good scan of the failed links. A bound: each of them failed after
        its own, and when is not recorded. None: none is failed, or none was ever good.
    good_until_seconds: since then, by the clock of Postgres.
    """

    error_message: str | None  # with `*` for the parts that differ
    links: int
    apps: int
    good_until_at: datetime | None = None
    good_until_seconds: int | None = None


@dataclass(frozen=True)
class AppSummary(App):
    """An app with the number of its links, by status, and the moment of their last good scan.

    `good_until_at` and `good_until_seconds`: as in `ErrorGroup`.
    """

    base_url: str
    links: int
    failed: int
    pending_snapshot: int
    scanning: int
    synced: int
    last_scanned_at: datetime | None
    good_until_at: datetime | None
    good_until_seconds: int | None


@dataclass(frozen=True)
class Snapshot:
    """The last scan of a repository."""

    commit_sha: str
    branch: str
    scanned_at: datetime | None
    files: int


@dataclass(frozen=True)
class LinkHistory:
    """The fields of a link in Postgres that its job does not need."""

    created_at: datetime
    last_scanned_at: datetime | None
    last_scanned_seconds: int | None  # since then, by the clock of Postgres
    consecutive_failures: int
    delivered_files: int
    last_delivered_at: datetime | None
    snapshot: Snapshot | None


@dataclass(frozen=True, kw_only=True)
class LinkDetails(LinkHistory):
    """Everything about one link."""

    app_id: str
    app_name: str
    base_url: str
    repository_id: str
    repository_name: str
    github_url: str
    has_token: bool | None  # None: our role may not know
    status: str
    error_message: str | None
    retry_count: int
    failed_at: datetime | None  # of a failed link: the end of its failed job, if it is still kept
    circuit_open_until: datetime | None
    circuit_is_open: bool  # by the clock of Postgres
    lock_held: bool  # a worker holds the link in Postgres
    job: JobState
    job_id: str
    backend: Backend
    backend_source: BackendSource
    job_record: JobRecord


@dataclass(frozen=True, slots=True)
class DeliveredFile:
    """A file that an app has received, as recorded."""

    path: str
    sha: str
    delivered_at: datetime
