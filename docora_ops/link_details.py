"""Everything about one link. Its texts and URLs hold no secrets."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from docora_ops.jobs import Backend, BackendSource, JobRecord, JobState


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
    circuit_open_until: datetime | None
    circuit_is_open: bool  # by the clock of Postgres
    lock_held: bool  # a worker holds the link in Postgres
    job: JobState
    job_id: str
    backend: Backend
    backend_source: BackendSource
    job_record: JobRecord
