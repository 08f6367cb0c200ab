"""Links: lists and counts of them, one link, its retry or resync, and the wait for it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Any

from docora_ops.bulk import LinkWait, WaitEnd
from docora_ops.drift import Drift
from docora_ops.jobs import JobPlace, QueuedJob, when_docora_queues
from docora_ops.link_lists import (
    AppSummary,
    DeliveredFile,
    ErrorGroup,
    LinkDetails,
    LinkGroup,
    LinkHistory,
    ListedLink,
    RepositoryCount,
    StatusCount,
)
from docora_ops.links import (
    Action,
    AppCount,
    Link,
    LinkFailure,
    LinkResult,
    LinkStatus,
    Outcome,
    PlannedLink,
)
from docora_ops.render.columns import Column, Listing, Pairs, cell, named_values, style_of, words
from docora_ops.text import amount, duration, good_until, moment
from docora_ops.verification import DifferingLink

NO_ERROR = "no error recorded"
ROWS_SHOWN = 20  # of a list that only says what a summary is about

# Lists of links, and counts of them.


LINKS: Sequence[Column[ListedLink]] = (
    Column("App", lambda link: link.app_name, narrowest=12),
    Column("App id", lambda link: link.app_id, left_out=1),
    Column("Repository", lambda link: link.repository_name, narrowest=14),
    Column("Repository id", lambda link: link.repository_id, left_out=1),
    Column("Status", lambda link: words(link.status), lambda link: style_of(link.status)),
    Column("Error", lambda it: (it.error_message or "") + "…" * it.error_message_cut, folds=True),
    Column("Failed tries", lambda link: link.retry_count, is_number=True, left_out=2),
    Column("Last good scan", lambda link: link.last_scanned_at or "never", left_out=4),
    Column(
        "Circuit open until",
        lambda link: link.circuit_open_until if link.circuit_is_open else None,
        lambda _: "yellow",
        left_out=3,
    ),
    Column("Job", lambda link: words(link.job or "unknown"), lambda it: style_of(it.job or "")),
)
_GOOD_UNTIL, _LAST_GOOD_UNTIL = "Good until", "Last good until"  # of one link, of several
FAILED: Sequence[Column[ListedLink]] = (
    *LINKS[:-1],
    Column(
        _GOOD_UNTIL,
        lambda it: good_until(it.last_scanned_at, it.last_scanned_seconds),
        left_out=5,
        narrowest=11,  # the time above the age
    ),
    LINKS[-1],
)
# A link in sync rarely has an error: where a terminal is narrow, its last good scan tells more.
OVERDUE: Sequence[Column[ListedLink]] = tuple(
    replace(each, left_out=4) if each.name == "Error" else each for each in FAILED
)
APPS: Sequence[Column[AppSummary]] = (
    Column("App", lambda app: app.app_name, narrowest=12),
    Column("App id", lambda app: app.app_id, left_out=1),
    Column("Links", lambda app: app.links, is_number=True),
    Column("Failed", lambda app: app.failed, lambda it: "bold red" * bool(it.failed), True),
    Column("Pending", lambda app: app.pending_snapshot, is_number=True),
    Column("Scanning", lambda app: app.scanning, is_number=True),
    Column("Last good scan", lambda app: app.last_scanned_at or "never", left_out=3),
    Column(
        _LAST_GOOD_UNTIL,
        lambda it: good_until(it.good_until_at, it.good_until_seconds) if it.failed else None,
    ),
    Column("URL", lambda app: app.base_url, folds=True, left_out=2),
)
FILES: Sequence[Column[DeliveredFile]] = (
    Column("Path", lambda file: file.path, folds=True),
    Column("SHA-256", lambda file: file.sha, left_out=1),
    Column("Delivered", lambda file: file.delivered_at),
)
_GROUPS: Mapping[LinkGroup, Sequence[Column[Any]]] = {
    LinkGroup.APP: (
        Column[AppCount]("App", lambda count: count.app_name, narrowest=12),
        Column[AppCount]("App id", lambda count: count.app_id),
    ),
    LinkGroup.REPOSITORY: (
        Column[RepositoryCount]("Repository", lambda count: count.repository_name, narrowest=14),
        Column[RepositoryCount]("Repository id", lambda count: count.repository_id),
    ),
    LinkGroup.STATUS: (
        Column[StatusCount]("Status", lambda it: words(it.status), lambda it: style_of(it.status)),
    ),
    LinkGroup.ERROR: (
        Column[ErrorGroup]("Apps", lambda group: group.apps, is_number=True),
        Column[ErrorGroup](
            _LAST_GOOD_UNTIL,
            lambda group: good_until(group.good_until_at, group.good_until_seconds),
        ),
        Column[ErrorGroup](
            "Error", lambda it: it.error_message or f"({NO_ERROR}: --no-error)", folds=True
        ),
    ),
}


def group_columns(group: LinkGroup, *, of_failed: bool = False) -> Sequence[Column[Any]]:
    """Returns the columns of a list that counts links by a field.

    of_failed: the list counts failed links only, and tells until when they were good.
    """
    columns = [each for each in _GROUPS[group] if of_failed or each.name != _LAST_GOOD_UNTIL]
    return [Column[Any]("Links", lambda count: count.links, is_number=True), *columns]


def app_counts(rows: Iterable[AppCount]) -> Listing[Any]:
    """Counts the links of each app, the largest first; a terminal shows the first ones."""
    largest_first = sorted(rows, key=lambda count: -count.links)
    return Listing(group_columns(LinkGroup.APP), largest_first, ROWS_SHOWN)


def failures(rows: Sequence[LinkFailure], heading: str = "Not queued") -> Listing[LinkFailure]:
    """Lists links, each with an error; a terminal shows the first ones."""
    columns: Sequence[Column[LinkFailure]] = (
        Column(heading, link_name),
        Column("Why", lambda failure: failure.error_message, folds=True),
    )
    return Listing(columns, rows, ROWS_SHOWN)


def link_name(
    found: LinkFailure | PlannedLink | Drift | QueuedJob | DifferingLink,
) -> str:
    """Returns `Acme Search ← octo/api`, or the job id unless both names are known."""
    names = found.app_name, found.repository_name
    return " ← ".join(filter(None, names)) if all(names) else found.job_id


# `retry` and `resync` of one link, and `wait` for one.


@dataclass(frozen=True)
class LinkBefore:
    """The link as it was before the change."""

    status: str
    retry_count: int
    error_message: str | None


@dataclass(frozen=True)
class LinkData:
    """The result of `retry`, `resync` or `wait` for one link, with Docora's own names.

    `outcome`, `previous` and `circuit_open_until`, which is read after the change, are null for
    `wait`. `circuit_reset` needs `--reset-circuit`. `deliveries_cleared` and, with `--update`,
    `deliveries_marked` are of a resync. `waited` needs `--wait`.
    """

    message: str
    dry_run: bool
    job_id: str
    outcome: Outcome | None
    app_id: str
    app_name: str
    repository_id: str
    repository_name: str
    previous: LinkBefore | None
    circuit_open_until: datetime | None
    circuit_reset: bool | None
    deliveries_cleared: int | None
    deliveries_marked: int | None
    worker_count: int
    waited: LinkWait | None


def link_data(result: LinkResult | Link, workers: int, wait: LinkWait | None = None) -> LinkData:
    """Returns the JSON data of a retry or resync, or of the wait for a link."""
    link, changed = (result, None) if isinstance(result, Link) else (result.link, result)
    cleared = changed.deliveries_cleared if changed and changed.action is Action.RESYNC else None
    is_update = changed is not None and changed.update
    previous = LinkBefore(link.status, link.retry_count, link.error_message)
    return LinkData(
        **link.names,
        message=message(changed) if changed else "Snapshot awaited",
        dry_run=changed is not None and changed.dry_run,
        job_id=link.ref.job_id,
        outcome=changed.outcome if changed else None,
        previous=previous if changed else None,
        circuit_open_until=changed.circuit_open_until if changed else None,
        circuit_reset=changed.circuit_reset if changed else None,
        deliveries_cleared=None if is_update else cleared,
        deliveries_marked=cleared if is_update else None,
        worker_count=workers,
        waited=wait,
    )


def message(result: LinkResult) -> str:
    """Returns the result in the dashboard's words where it has them."""
    if result.dry_run:
        return "Dry run"
    if result.outcome is Outcome.ALREADY_RUNNING:
        return "Snapshot already running"
    if result.outcome is Outcome.RESET:
        when = when_docora_queues(result.workers, result.scan_interval)
        return f"Link reset: Docora's scheduler queues it {when}"
    return "Re-sync queued" if result.action is Action.RESYNC else "Retry queued"


FORGOTTEN = "Files that are gone from the repository stay in the app: --update deletes them."
"""Said of a resync without `--update`."""


def records_in_words(count: int, *, update: bool, is_planned: bool, only_some: bool = False) -> str:
    """Says what becomes of this many delivery records, and what is sent."""
    if only_some and not count:
        return "no delivery records yet: the snapshot sends these files"
    what = f"deleted: {'these files are' if only_some else 'every file is'} sent again"
    if update:
        what = "marked: files are sent as updates, or deletions if gone"
    return f"{amount(count, 'delivery record')} {'would be ' * is_planned}{what}"


def result_screen(result: LinkResult) -> Pairs:
    """Shows the link as it was before, and the outcome."""
    link = result.link
    rows = [
        ("App", cell(f"{link.payload.app_name} ({link.ref.app_id})")),
        ("Repository", cell(f"{link.payload.repository_name} ({link.ref.repository_id})")),
        ("Was", cell(f"{link.status}, {amount(link.retry_count, 'try', 'tries')} failed")),
        ("Last error", cell(link.error_message or "")),
        ("Outcome", cell(words(result.outcome), style_of(result.outcome))),
        ("Job", cell(link.ref.job_id)),
    ]
    if result.action is Action.RESYNC:
        cleared, update = result.deliveries_cleared, result.update
        records = records_in_words(
            cleared, update=update, is_planned=result.dry_run, only_some=result.path is not None
        )
        rows.append(("Files", cell(records)))
    if link.circuit_is_open:
        circuit = f"open until {moment(link.circuit_open_until)}: only the scheduler waits for it"
        if result.circuit_reset:
            circuit = "would be closed" if result.dry_run else "closed"
        rows.append(("Circuit", cell(circuit, "yellow")))
    return Pairs([row for row in rows if row[1]])


_ENDS = {
    WaitEnd.SYNCED: "in sync",
    WaitEnd.FAILED: "failed again",
    WaitEnd.GONE: "the link is gone",
    WaitEnd.LOST: "the job is lost",
}


def wait_screen(wait: LinkWait, link: Link | None = None) -> Pairs:
    """Shows the result of the snapshot and, if it is given, which link it is of."""
    text = f"{_ENDS.get(wait.result, f'still {wait.status}')}, after {wait.seconds:.0f} s"
    rows = [
        ("Link", cell(link.payload.link_name if link else "")),
        ("Result", cell(text, style_of(wait.result))),
        ("Error", cell(wait.error_message or "")),
    ]
    return Pairs([row for row in rows if row[1]])


# `show`.

_HISTORY = tuple(words(field.name).capitalize() for field in fields(LinkHistory))


def link_screen(details: LinkDetails) -> Pairs:
    """Shows the link, its job, and its history."""
    job, failure = details.job_record, details.job_record.last_failure
    record = replace(job, last_failure=None, expires_in=None)
    shown = replace(details, job_record=record, last_scanned_seconds=None)
    rows = [(name.replace("Job record", "Job"), text) for name, text in named_values(shown)]
    if details.status == LinkStatus.FAILED:
        bound = good_until(details.last_scanned_at, details.last_scanned_seconds)
        if details.last_scanned_at:
            bound += ": it failed after that"
        status = next(number for number, (name, _) in enumerate(rows) if name == "Status")
        rows.insert(status + 1, (_GOOD_UNTIL, cell(bound)))
    if job.expires_in is not None:
        rows.append(("Job expires", cell(f"in {duration(job.expires_in)}")))
    rows.sort(key=lambda row: row[0].startswith(_HISTORY))
    rows += (("Job place", cell(_place(place))) for place in job.places)
    if failure:
        by = f" on {failure.worker}" if failure.worker else ""
        failed_at = moment(failure.failed_at) or "in an earlier try"
        rows.append(("Last failure", cell(f"{failed_at}{by}")))
        lines = failure.text.split("\n")
        lines.remove(failure.error_message)
        rows += (("", cell(line)) for line in (failure.error_message, *lines))
    return Pairs(rows)


def _place(place: JobPlace) -> str:
    text = f"{place.queue_name}: {place.where}"
    if place.position is not None:
        text += f", position {place.position}"
    if place.worker:
        text += f" on {place.worker}, {'alive' if place.alive else 'dead'}"
    elif place.score_at is not None:
        text += f", score at {moment(place.score_at)}"
    return text
