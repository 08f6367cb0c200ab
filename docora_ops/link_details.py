"""Everything about one link. Secrets have been cut out of every text and URL."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from docora_ops.jobs import JobRecord, JobState
from docora_ops.links import LinkRef


@dataclass(frozen=True)
class Snapshot:
    """The last scan of a repository."""

    commit_sha: str
    branch: str
    scanned_at: datetime | None
    files: int


@dataclass(frozen=True)
class LinkHistory:
    """What the tables have of a link, beyond what its job needs."""

    created_at: datetime
    last_scanned_at: datetime | None
    consecutive_failures: int
    delivered_files: int
    last_delivered_at: datetime | None
    snapshot: Snapshot | None


@dataclass(frozen=True)
class LinkDetails:
    """Everything about one link."""

    ref: LinkRef
    app_name: str
    base_url: str
    repository: str
    github_url: str
    has_token: bool
    status: str
    error: str | None
    retry_count: int
    circuit_open_until: datetime | None
    history: LinkHistory
    lock_is_held: bool
    """A worker holds the link in Postgres."""
    state: JobState
    job: JobRecord
