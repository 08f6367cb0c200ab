"""Links between apps and repositories, the ways to change them, and the results of a change."""

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Self, TypeVar

Item = TypeVar("Item")
QUEUE_NAME = "snapshot-queue"
# If REDIS_URL is only in an env file, rq would silently resume the workers of localhost's Redis.
RESUME_RQ = 'rq resume --url "$REDIS_URL"'
_JOB_ID = re.compile(r"([A-Za-z0-9_]+)-([A-Za-z0-9_]+)")  # RQ allows no other characters


class Backend(StrEnum):
    """The queue that Docora's workers take their jobs from: the values of DOCORA_OPS_BACKEND."""

    AUTO = "auto"
    RQ = "rq"
    BULLMQ = "bullmq"


class LinkStatus(StrEnum):
    """The status of a link: the values of `app_repositories.status`."""

    PENDING_SNAPSHOT = "pending_snapshot"
    SCANNING = "scanning"
    SYNCED = "synced"
    FAILED = "failed"


LIVE_STATUSES = (LinkStatus.PENDING_SNAPSHOT, LinkStatus.SCANNING)
"""A link with one of these should have a live job."""


class JobState(StrEnum):
    """What the queue holds under the id of a job, judged by the job's own keys."""

    NONE = "none"
    WAITING = "waiting"  # in the list, or delayed
    RUNNING = "running"
    FINISHED = "finished"
    STALE = "stale"  # remains of a job that failed, was stopped or abandoned
    UNREADABLE = "unreadable"  # the job's key holds something that is not a job

    @property
    def is_live(self) -> bool:
        """Tells whether a worker runs the job or will take it."""
        return self in {JobState.WAITING, JobState.RUNNING}


class Action(StrEnum):
    """The kinds of change of a link."""

    RETRY = "retry"
    RESYNC = "resync"
    SCHEDULE = "schedule"
    REPAIR = "repair"


class State(StrEnum):
    """What a change has done to one link."""

    QUEUED = "queued"
    REPLACED_STALE = "replaced_stale"  # queued in place of a stale job
    RESET = "reset"  # Docora's scheduler will queue the job
    ALREADY_QUEUED = "already_queued"
    ALREADY_RUNNING = "already_running"  # left alone
    GIVEN_UP = "given_up"  # repair: the link has used up its tries, and is failed now
    SKIPPED = "skipped"  # the link no longer qualified, or another transaction had locked it
    NOT_QUEUED = "not_queued"

    @property
    def is_put_to_work(self) -> bool:
        """Tells whether the link has a waiting job, or gets one from Docora's scheduler."""
        return self in {State.QUEUED, State.REPLACED_STALE, State.RESET, State.ALREADY_QUEUED}

    @property
    def is_awaited(self) -> bool:
        """Tells whether a snapshot of the link is to come, so that `--wait` waits for it."""
        return self.is_put_to_work or self is State.ALREADY_RUNNING


def job_id_of(app_id: str, repository_id: str) -> str:
    """Returns the id of a link's job."""
    return f"{app_id}-{repository_id}"


def ids_of_job(job_id: str) -> tuple[str, str] | None:
    """Returns the app id and the repository id in a job id; None if it is not that of a link."""
    ids = _JOB_ID.fullmatch(job_id)
    return (ids[1], ids[2]) if ids else None


def arguments(*names: str) -> str:
    """Returns ids or names as arguments of a command, quoted for the shell."""
    return ("-- " if any(name.startswith("-") for name in names) else "") + shlex.join(names)


def batches(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Yields the items in order, `size` at a time."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


@dataclass(frozen=True, slots=True)
class App:
    """One client app. `email` and `base_url` tell whom to write to."""

    app_id: str
    app_name: str
    base_url: str
    email: str


@dataclass(frozen=True, slots=True)
class Repository:
    """One watched repository. `repository_name`: `owner/name`."""

    repository_id: str
    repository_name: str


@dataclass(frozen=True, slots=True)
class Link:
    """One link: its row, its app and its repository.

    id: the id of the row.
    base_url: the address that the app's files are posted to. It may contain a password.
    error_message: the error of the last try; None if there was none.
    circuit_is_open: whether the circuit was open by the clock of Postgres, when the link was read.
    """

    id: str
    app_id: str
    app_name: str
    repository_id: str
    repository_name: str  # owner/name
    github_url: str
    owner: str
    name: str
    base_url: str
    status: str
    retry_count: int
    error_message: str | None
    last_scanned_at: datetime | None
    circuit_open_until: datetime | None
    circuit_is_open: bool
    github_token_encrypted: str | None = field(repr=False)
    client_auth_key_encrypted: str = field(repr=False)

    @property
    def job_id(self) -> str:
        """Returns the id of the link's job."""
        return job_id_of(self.app_id, self.repository_id)

    @property
    def has_valid_job_id(self) -> bool:
        """Tells whether RQ accepts the job id."""
        return _JOB_ID.fullmatch(self.job_id) is not None

    @property
    def link_name(self) -> str:
        """Returns `App ← owner/name`."""
        return f"{self.app_name} ← {self.repository_name}"

    @property
    def words(self) -> str:
        """Returns the ids as arguments of a command."""
        return arguments(self.app_id, self.repository_id)


@dataclass(frozen=True)
class LinkFilter:
    """A filter for links: a link must match one value of each field. Empty fields match all links.

    exclude_app_ids, exclude_errors: a link must match none of the values.
    repository_names: `owner/name` with `*`; an alternative to `repository_ids`.
    errors: texts that the error contains (case-insensitive); a text with `*` must match all of it.
    open_circuit: whether the repository's circuit is open; None matches both.
    overdue_before: links without a good scan since this time that no open circuit holds back.
    rescan_interval_ms: links that are due, as Docora's scheduler sees it; None matches all.
    """

    app_ids: Sequence[str] = ()
    exclude_app_ids: Sequence[str] = ()
    repository_ids: Sequence[str] = ()
    repository_names: Sequence[str] = ()
    statuses: Sequence[LinkStatus] = ()
    errors: Sequence[str] = ()
    exclude_errors: Sequence[str] = ()
    open_circuit: bool | None = None
    overdue_before: datetime | None = None
    rescan_interval_ms: int | None = None


class Deliveries(StrEnum):
    """What a change does to the delivery records of a link."""

    KEEP = "keep"
    DELETE = "delete"  # the app receives every file as a creation
    MARK = "mark"  # the app receives every file as an update


@dataclass(frozen=True)
class Change:
    """What differs between the actions.

    which: the links that qualify. It is checked again when a link is locked.
    resets: set the link to `pending_snapshot`, without error and failures.
    counts_failure: count a failure of each scanning link, whose worker was killed.
    closes_circuit: also close the circuit of the repository.
    """

    action: Action
    which: LinkFilter
    resets: bool = False
    deliveries: Deliveries = Deliveries.KEEP
    counts_failure: bool = False
    closes_circuit: bool = False

    @classmethod
    def retry(cls, which: LinkFilter, *, closes_circuit: bool = False) -> Self:
        """Returns the change that puts failed links back to work."""
        failed = replace(which, statuses=[LinkStatus.FAILED])
        return cls(Action.RETRY, failed, resets=True, closes_circuit=closes_circuit)

    @classmethod
    def resync(
        cls, which: LinkFilter, *, update: bool = False, closes_circuit: bool = False
    ) -> Self:
        """Returns the change that sends all files again. `update`: as updates, not as creations."""
        deliveries = Deliveries.MARK if update else Deliveries.DELETE
        return cls(Action.RESYNC, which, True, deliveries, closes_circuit=closes_circuit)

    @classmethod
    def schedule(cls, rescan_interval_ms: int) -> Self:
        """Returns the change that queues what Docora's scheduler would queue."""
        return cls(Action.SCHEDULE, LinkFilter(rescan_interval_ms=rescan_interval_ms))

    @classmethod
    def repair(cls) -> Self:
        """Returns the change that queues links that should have a live job and have none."""
        return cls(Action.REPAIR, LinkFilter(statuses=LIVE_STATUSES), counts_failure=True)

    def is_rescan(self, link: Link) -> bool:
        """Returns the rescan flag of the link's job, as Docora sets it."""
        if self.action in {Action.SCHEDULE, Action.REPAIR}:
            return link.status != LinkStatus.PENDING_SNAPSHOT  # except first snapshots
        return self.action is Action.RETRY


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a change of one link.

    link: the link before the change; None if it was skipped.
    detail: why it was not queued or was skipped; empty otherwise.
    """

    id: str
    link: Link | None
    state: State
    detail: str = ""
