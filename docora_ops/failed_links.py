"""Lists of failed links. Their texts and URLs hold no secrets."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from docora_ops.jobs import JobState
from docora_ops.links import LinkIds
from docora_ops.pages import Page, Row

__all__ = ["ErrorGroup", "FailedLink", "Page", "Row"]


@dataclass(frozen=True, slots=True)
class FailedLink(LinkIds):
    """A failed link and the state of its job, by Docora's own names."""

    app_id: str
    app_name: str
    repository_id: str
    repository_name: str
    github_url: str
    error_message: str | None
    error_message_cut: bool
    timestamp: datetime  # of the last successful scan: when the link failed is not recorded
    retry_count: int
    last_scanned_at: datetime | None
    circuit_open_until: datetime | None
    job: JobState = JobState.NONE


@dataclass(frozen=True)
class ErrorGroup:
    """Failed links whose errors differ only in paths, numbers and ids."""

    error_message: str | None  # with `*` for the parts that differ
    links: int
    apps: int
