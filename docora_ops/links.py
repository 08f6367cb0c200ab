"""Links between apps and repositories, and what becomes of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

_LONGEST_JOB_ID = 50 + 1 + 50
"""Characters: both ids are `varchar(50)`."""


class LinkStatus(StrEnum):
    """`app_repositories.status`."""

    PENDING_SNAPSHOT = "pending_snapshot"
    SCANNING = "scanning"
    SYNCED = "synced"
    FAILED = "failed"


class Outcome(StrEnum):
    """What became of one link."""

    QUEUED = "queued"
    REPLACED_STALE = "replaced_stale"
    ALREADY_QUEUED = "already_queued"
    ALREADY_RUNNING = "already_running"
    SKIPPED = "skipped"
    FAILED = "failed"

    @property
    def succeeded(self) -> bool:
        """Whether the link now has a job waiting."""
        return self in {Outcome.QUEUED, Outcome.REPLACED_STALE, Outcome.ALREADY_QUEUED}


def count_succeeded(counts: Mapping[Outcome, int]) -> int:
    """How many of the links now have a job waiting."""
    return sum(count for outcome, count in counts.items() if outcome.succeeded)


class Action(StrEnum):
    """The kinds of change that can be made to a link."""

    RETRY = "retry"
    RESYNC = "resync"
    SCHEDULE = "schedule"
    REPAIR = "repair"

    def is_rescan(self, status: str) -> bool:
        """The rescan flag of the job for a link that has this status.

        True for a retry, false for a resync; of what is scheduled or repaired, all but first
        snapshots.
        """
        if self in {Action.SCHEDULE, Action.REPAIR}:
            return status != LinkStatus.PENDING_SNAPSHOT
        return self is Action.RETRY


@dataclass(frozen=True)
class App:
    """One client app."""

    app_id: str
    app_name: str


@dataclass(frozen=True)
class Repository:
    """One watched repository."""

    repository_id: str
    owner: str
    name: str

    @property
    def full_name(self) -> str:
        """`owner/name`."""
        return f"{self.owner}/{self.name}"


class _OneLink:
    """What names a link by its two ids."""

    __slots__ = ()
    app_id: str
    repository_id: str

    @property
    def job_id(self) -> str:
        """The fixed id of the link's job."""
        return f"{self.app_id}-{self.repository_id}"

    @property
    def has_valid_job_id(self) -> bool:
        """Whether the two ids form a valid job id, from which they can be read back."""
        return bool(_ID.fullmatch(self.app_id) and _ID.fullmatch(self.repository_id))

    @property
    def words(self) -> str:
        """The two ids, as they are typed behind a command."""
        import shlex  # seldom needed

        ids = (self.app_id, self.repository_id)
        return ("-- " if any(each.startswith("-") for each in ids) else "") + shlex.join(ids)


_ID = re.compile(r"[A-Za-z0-9_]+")


def ids_of_job(job_id: str) -> tuple[str, str] | None:
    """Returns the app id and the repository id of a valid job id, otherwise None.

    Valid ids hold letters, digits and `_`: RQ allows no more but `-`, which separates the two.
    """
    app_id, _, repository_id = job_id.partition("-")
    if _ID.fullmatch(app_id) and _ID.fullmatch(repository_id):
        return app_id, repository_id
    return None


def possible_ids(job_id: str) -> Iterator[tuple[str, str]]:
    """Every pair of app and repository id that forms this job id."""
    if len(job_id) > _LONGEST_JOB_ID:
        return
    parts = job_id.split("-")
    for cut in range(1, len(parts)):
        yield "-".join(parts[:cut]), "-".join(parts[cut:])


@dataclass(frozen=True, slots=True)
class LinkRef(_OneLink):
    """Which link: the row and the two ids that make its job id."""

    id: str
    app_id: str
    repository_id: str


@dataclass(frozen=True, slots=True)
class Payload(_OneLink):
    """What a snapshot job is called with, but for the rescan flag."""

    app_id: str
    app_name: str
    repository_id: str
    github_url: str
    owner: str
    name: str
    base_url: str
    github_token_encrypted: str | None = field(repr=False)
    client_auth_key_encrypted: str = field(repr=False)

    @property
    def repository(self) -> str:
        """`owner/name`."""
        return f"{self.owner}/{self.name}"

    @property
    def description(self) -> str:
        """What RQ's own screens show of the job."""
        return f"{self.repository} → {self.app_name}"


@dataclass(frozen=True)
class Link:
    """One link with all that its screen and its job need."""

    ref: LinkRef
    payload: Payload
    status: str
    retry_count: int
    last_error: str | None
    circuit_open_until: datetime | None


@dataclass(frozen=True)
class LinkResult:
    """What one `retry` or `resync` did. `link` is the link as it was before."""

    operation: Action
    link: Link
    outcome: Outcome
    circuit_open_until: datetime | None
    circuit_reset: bool = False
    deliveries_cleared: int = 0
    audit_error: str | None = None
    """Why the audit trail does not say that the change was made."""


@dataclass(frozen=True, slots=True)
class LinkFailure:
    """A link that was left undone, and why."""

    job_id: str
    error: str


@dataclass(frozen=True, slots=True)
class PlannedLink(_OneLink):
    """What a dry run says of one link."""

    app_id: str
    app_name: str
    repository_id: str
    repository: str
    outcome: Outcome
    error: str | None = None


@dataclass(frozen=True)
class AppCount:
    """How many of the selected links belong to one app."""

    app: App
    links: int


@dataclass(frozen=True)
class FailedFilter:
    """Which failed links a bulk retry is about."""

    app_id: str | None = None
    error: str | None = None
    """Case-insensitive substring of `last_error`, taken literally."""
    limit: int | None = None
    """At most so many: each app has its turn before one has another."""
    skip_open_circuits: bool = False
