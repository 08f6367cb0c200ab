"""The values that pass between the rooms: links, outcomes, operations.

Only what exists a thousand times over has slots: making such a class takes time at each start.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
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


class JobState(StrEnum):
    """Where the job of a link stands in the queue.

    `NONE`: no job, or only a dead leftover, which a detailed look calls `STALE`. `DOUBTFUL`:
    `queued` yet in no list, so either an orphan or just now in a worker's hand. `UNREADABLE`: the
    job's key holds something else.
    """

    NONE = "none"
    STALE = "stale"
    WAITING = "waiting"
    RUNNING = "running"
    DOUBTFUL = "doubtful"
    UNREADABLE = "unreadable"


PLANNED_OUTCOMES = {
    JobState.NONE: Outcome.QUEUED,
    JobState.STALE: Outcome.REPLACED_STALE,
    JobState.WAITING: Outcome.ALREADY_QUEUED,
}
"""What a push would do, by the state that a detailed look finds."""


class Operation(StrEnum):
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
        if self in {Operation.SCHEDULE, Operation.REPAIR}:
            return status != LinkStatus.PENDING_SNAPSHOT
        return self is Operation.RETRY


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
    def words(self) -> str:
        """The two ids, as they are typed behind a command."""
        import shlex  # seldom needed

        ids = (self.app_id, self.repository_id)
        return ("-- " if any(each.startswith("-") for each in ids) else "") + shlex.join(ids)


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

    operation: Operation
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


@dataclass(frozen=True)
class KeptFailures:
    """The links that an operation has left undone, as far as they were kept with it."""

    items: Sequence[LinkFailure] = ()
    total: int = 0

    @property
    def not_kept(self) -> int:
        """How many more there were."""
        return max(self.total - len(self.items), 0)


class WaitEnd(StrEnum):
    """How the wait for the snapshot of one link has ended."""

    SYNCED = "synced"
    FAILED = "failed"
    GONE = "gone"
    LOST = "lost"
    TIMEOUT = "timeout"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True)
class LinkWait:
    """What the wait for one link has shown. `status`: None where the link is gone."""

    end: WaitEnd
    status: str | None
    error: str | None
    seconds: float


@dataclass(frozen=True)
class JobCounts:
    """Where the jobs of links that are followed stood at the last look.

    A job that was just changing its place is in none of the counts.
    """

    waiting: int = 0
    running: int = 0
    delayed: int = 0
    lost: int = 0
    """Links without a live job."""


@dataclass(frozen=True)
class BulkWait:
    """What the wait for many links has shown so far."""

    synced: int
    failed: int
    gone: int
    running: int
    """Links that have not ended yet."""
    failures: Sequence[LinkFailure]
    seconds: float
    jobs: JobCounts = field(default_factory=JobCounts)
    """Where the jobs of those that have not ended stand."""

    @property
    def only_lost_left(self) -> bool:
        """Whether nobody works on any of the links that have not ended."""
        return 0 < self.running <= self.jobs.lost

    @property
    def total(self) -> int:
        """How many links have been followed."""
        return self.synced + self.failed + self.gone + self.running


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
class Progress:
    """A bulk operation as everybody can see it in Redis."""

    operation_id: str
    total: int
    completed: int
    succeeded: int
    failed: int
    cancelled: bool

    @property
    def finished(self) -> bool:
        """Whether every link of the operation has been seen to."""
        return self.completed >= self.total


class OperationState(StrEnum):
    """What a bulk operation is doing, as far as Redis can tell."""

    RUNNING = "running"
    DONE = "done"
    CANCELLED = "cancelled"
    OWNER_GONE = "owner_gone"


@dataclass(frozen=True)
class KnownOperation:
    """A bulk operation that is still remembered."""

    progress: Progress
    state: OperationState
    silence: timedelta | None
    """Time since its last step, if it can be told."""
    last_step_at: datetime | None


@dataclass(frozen=True)
class ChangeNote:
    """What the audit trail is to say of a change: who asked for it, how, and why."""

    who: str
    command: str
    selection: Mapping[str, object]
    reason: str | None = None


class HistoryState(StrEnum):
    """How a change has ended, as far as the audit trail tells."""

    DONE = "done"
    CANCELLED = "cancelled"
    NOT_FINISHED = "not_finished"


@dataclass(frozen=True)
class HistoryEntry:
    """A change in the audit trail. `counts`: links by outcome, and their `total`."""

    when: datetime
    who: str
    command: str
    selection: Mapping[str, str | int]
    reason: str | None
    operation_id: str | None
    counts: Mapping[str, int]
    state: HistoryState


@dataclass(frozen=True)
class AppCount:
    """How many of the selected links belong to one app."""

    app: App
    links: int


@dataclass(frozen=True)
class BulkResult:
    """What a bulk operation has done so far, or in all."""

    operation: Operation
    operation_id: str | None
    total: int
    counts: Mapping[Outcome, int]
    by_app: Mapping[App, Mapping[Outcome, int]]
    failures: Sequence[LinkFailure] = ()
    cancelled: bool = False
    open_circuits_left_out: int | None = None
    """Matching links that were not selected, if open circuits were to be skipped."""
    deliveries_cleared: int = 0
    links: Sequence[PlannedLink] | None = None
    """The links one by one, of a dry run only."""

    @property
    def succeeded(self) -> int:
        """Links that now have a job waiting."""
        return count_succeeded(self.counts)

    @property
    def completed(self) -> int:
        """Links that have been seen to, whatever came of it."""
        return sum(self.counts.values())

    @property
    def failed(self) -> int:
        """Links that could not be queued."""
        return self.counts.get(Outcome.FAILED, 0)


@dataclass(frozen=True)
class FailedFilter:
    """Which failed links a bulk retry is about."""

    app_id: str | None = None
    error: str | None = None
    """Case-insensitive substring of `last_error`, taken literally."""
    limit: int | None = None
    """At most so many: each app has its turn before one has another."""
    skip_open_circuits: bool = False
