"""Links between apps and repositories, and the results of their changes."""

import re
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TypeVar

from docora_ops.text import inert, moment

Item = TypeVar("Item")


def batches(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Yields the items in order, `size` at a time."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


class LinkStatus(StrEnum):
    """The status of a link: the values of `app_repositories.status`."""

    PENDING_SNAPSHOT = "pending_snapshot"
    SCANNING = "scanning"
    SYNCED = "synced"
    FAILED = "failed"


class Outcome(StrEnum):
    """The result of a change of one link."""

    QUEUED = "queued"
    REPLACED_STALE = "replaced_stale"
    RESET = "reset"  # the next pass of Docora's scheduler queues its job
    ALREADY_QUEUED = "already_queued"
    ALREADY_RUNNING = "already_running"
    SKIPPED = "skipped"
    NOT_QUEUED = "not_queued"

    @property
    def is_put_to_work(self) -> bool:
        """Tells whether the link has a waiting job, or gets one from Docora's scheduler."""
        left_alone = {Outcome.ALREADY_RUNNING, Outcome.SKIPPED, Outcome.NOT_QUEUED}
        return self not in left_alone


def count_put_to_work(counts: Mapping[Outcome, int]) -> int:
    """Counts the links that are put to work."""
    return sum(count for outcome, count in counts.items() if outcome.is_put_to_work)


class Action(StrEnum):
    """The kinds of change of a link."""

    RETRY = "retry"
    RESYNC = "resync"
    SCHEDULE = "schedule"
    REPAIR = "repair"

    def is_rescan(self, status: str) -> bool:
        """Returns the rescan flag of the job for a link with this status."""
        if self in {Action.SCHEDULE, Action.REPAIR}:
            return status != LinkStatus.PENDING_SNAPSHOT  # except first snapshots
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
    def repository_name(self) -> str:
        """Returns `owner/name`."""
        return f"{self.owner}/{self.name}"


def link_name(app_name: str, repository_name: str) -> str:
    """Returns `App ← owner/name`."""
    return f"{app_name} ← {repository_name}"


def arguments(*names: str) -> str:
    """Returns ids or names as arguments of a command, quoted for the shell."""
    return ("-- " if any(name.startswith("-") for name in names) else "") + shlex.join(names)


def only_app(apps: Collection[str]) -> str:
    """Returns the only app as an argument of a command; empty if there are none or several."""
    return arguments(*apps) if len(apps) == 1 else ""


class LinkIds:
    """The two ids of a link."""

    __slots__ = ()
    app_id: str
    repository_id: str

    @property
    def job_id(self) -> str:
        """Returns the id of the link's job."""
        return f"{self.app_id}-{self.repository_id}"

    @property
    def has_valid_job_id(self) -> bool:
        """Tells whether the job id is valid, so that `ids_of_job` can parse it."""
        return _JOB_ID.fullmatch(self.job_id) is not None

    @property
    def words(self) -> str:
        """Returns the ids as arguments of a command."""
        return arguments(self.app_id, self.repository_id)


_JOB_ID = re.compile(r"([A-Za-z0-9_]+)-([A-Za-z0-9_]+)")  # RQ allows no other characters


def ids_of_job(job_id: str) -> tuple[str, str] | None:
    """Returns the app id and the repository id of a job id; None if it is invalid."""
    ids = _JOB_ID.fullmatch(job_id)
    return (ids[1], ids[2]) if ids else None


@dataclass(frozen=True, slots=True)
class LinkRef(LinkIds):
    """The id of a link's row, and the two ids that form its job id."""

    id: str
    app_id: str
    repository_id: str


@dataclass(frozen=True, slots=True)
class PublicPayload(LinkIds):
    """The arguments of a snapshot job, without secrets and without the rescan flag."""

    app_id: str
    app_name: str
    repository_id: str
    github_url: str
    owner: str
    name: str
    base_url: str

    @property
    def repository_name(self) -> str:
        """Returns `owner/name`."""
        return f"{self.owner}/{self.name}"

    @property
    def link_name(self) -> str:
        """Returns `App ← owner/name`."""
        return link_name(self.app_name, self.repository_name)

    @property
    def description(self) -> str:
        """Returns the job's description for RQ's screens and log, as inert text."""
        return f"{inert(self.repository_name)} → {inert(self.app_name)}"


@dataclass(frozen=True, slots=True)
class Payload(PublicPayload):
    """The arguments of a snapshot job with secrets, without the rescan flag."""

    github_token_encrypted: str | None = field(repr=False)
    client_auth_key_encrypted: str = field(repr=False)


@dataclass(frozen=True)
class Link:
    """One link, without secrets."""

    ref: LinkRef
    payload: PublicPayload
    status: str
    retry_count: int
    error_message: str | None
    circuit_open_until: datetime | None
    circuit_is_open: bool  # by the clock of Postgres, when the link was read

    @property
    def names(self) -> dict[str, str]:
        """Returns the ids and names of app and repository."""
        names = ("app_id", "app_name", "repository_id", "repository_name")
        return {name: getattr(self.payload, name) for name in names}

    @property
    def behind_circuit(self) -> str:
        """Says until when Docora's scheduler leaves the link alone."""
        repository, until = self.payload.repository_name, moment(self.circuit_open_until)
        alone = "until then Docora's scheduler leaves the link alone"
        return f"the circuit of {repository} is open until {until}: {alone}"


@dataclass(frozen=True)
class LinkResult:
    """The result of one `retry` or `resync`. `link`: the link before the change."""

    action: Action
    link: Link
    outcome: Outcome
    circuit_open_until: datetime | None  # after the change
    circuit_reset: bool | None = None  # None without `--reset-circuit`
    deliveries_cleared: int = 0  # deleted or, with `update`, marked
    update: bool = False
    path: str | None = None  # only these files are sent again
    dry_run: bool = False
    workers: int = 0  # live workers
    queued_when: str = ""  # when Docora's scheduler queues the link, in words, if it was reset
    run: str = ""  # the id shared by the audit entries; empty if there are none


@dataclass(frozen=True, slots=True)
class LinkFailure:
    """A link that could not be queued, failed again, or has lost its job; and why.

    app_name, repository_name: None if unknown.
    """

    job_id: str
    app_id: str
    repository_id: str
    error_message: str
    app_name: str | None = None
    repository_name: str | None = None


@dataclass(frozen=True, slots=True)
class PlannedLink:
    """The outcome that a dry run predicts for one link."""

    job_id: str
    app_id: str
    app_name: str
    repository_id: str
    repository_name: str
    outcome: Outcome
    error_message: str | None = None


@dataclass(frozen=True)
class AppCount(App):
    """The number of links of one app."""

    links: int


@dataclass(frozen=True)
class LinkFilter:
    """A filter for links: a link must match one value of each field. Empty fields match all links.

    exclude_app_ids, exclude_errors: a link must match none of the values.
    """

    app_ids: Sequence[str] = ()
    exclude_app_ids: Sequence[str] = ()
    repository_ids: Sequence[str] = ()
    repository_names: Sequence[str] = ()  # `owner/name` with `*`; alternative to `repository_ids`
    statuses: Sequence[LinkStatus] = ()
    errors: Sequence[str] = ()  # the error contains the text; with `*`, the whole error matches it
    exclude_errors: Sequence[str] = ()
    no_error: bool = False  # also match links without an error
    open_circuit: bool | None = None  # whether the repository's circuit is open; None matches both
    or_behind_circuit: bool = False  # also match pending links with an open circuit
    last_scan_before: datetime | None = None  # also matches links that were never scanned
    last_scan_after: datetime | None = None  # at this time or later
    overdue_before: datetime | None = None  # overdue links: without a good scan since this time


FAILED_LINKS = LinkFilter(statuses=[LinkStatus.FAILED])
# Links whose last try failed: each change and each successful scan removes the error.
TRIED_LINKS = LinkFilter(statuses=[LinkStatus.PENDING_SNAPSHOT, LinkStatus.SCANNING], errors=["*"])


class LinkSort(StrEnum):
    """The order of a list of links."""

    APP = "app"
    ERROR = "error"
    RETRIES = "retries"
    LAST_SCAN = "last-scan"
    OVERDUE = "overdue"


class AppSort(StrEnum):
    """The order of a list of apps."""

    FAILED = "failed"
    NAME = "name"


class LinkGroup(StrEnum):
    """The fields by which links can be counted."""

    APP = "app"
    REPOSITORY = "repository"
    ERROR = "error"
    STATUS = "status"
