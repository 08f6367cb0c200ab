"""Links: lists and counts of them, one link, its retry or resync, and the wait for it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rich.text import Text

from docora_ops import links
from docora_ops.bulk import LinkWait, WaitEnd
from docora_ops.jobs import MOST_SEARCHED, Backend, JobPlace, when_docora_queues
from docora_ops.link_lists import (
    AppSummary,
    ErrorGroup,
    LinkDetails,
    LinkGroup,
    ListedLink,
    RepositoryCount,
    Snapshot,
    StatusCount,
)
from docora_ops.links import Action, AppCount, Link, LinkFailure, LinkResult, LinkStatus, Outcome
from docora_ops.render.columns import Column, Listing, Pairs, cell, state, style_of, words
from docora_ops.text import amount, duration, moment

NO_ERROR = "no error recorded"
ROWS_SHOWN = 20
"""Rows of a list that only says what a summary is about."""

# Lists of links, and counts of them.


def _error(link: ListedLink) -> str:
    """Returns the error; a link that is not failed needs none."""
    if link.error_message_cut:
        return f"{link.error_message}… all of it: docora-ops show {link.words}"
    if link.error_message:
        return link.error_message
    return f"({NO_ERROR})" if link.status == LinkStatus.FAILED else ""


_LINKS: tuple[Column[ListedLink], ...] = (
    Column("App", lambda link: link.app_name),
    Column("App id", lambda link: link.app_id, left_out=1),
    Column("Repository", lambda link: link.repository_name),
    Column("Repository id", lambda link: link.repository_id, left_out=1),
    Column("Status", lambda link: words(link.status), lambda link: style_of(link.status)),
    Column("Error", _error, lambda link: "" if link.error_message else "dim", folds=True),
    Column("Failed tries", lambda link: link.retry_count, is_number=True, left_out=3),
    Column("Last good scan", lambda link: link.last_scanned_at or "never", left_out=2),
    Column(
        "Circuit",
        lambda link: circuit(link.circuit_open_until, is_open=link.circuit_is_open),
        lambda link: "yellow" if link.circuit_is_open else "",
        left_out=4,
    ),
    Column("Job", lambda link: words(link.job or "unknown"), lambda it: style_of(it.job or "")),
)
_APPS: tuple[Column[AppSummary], ...] = (
    Column("App", lambda app: app.app_name),
    Column("App id", lambda app: app.app_id, left_out=1),
    Column("Links", lambda app: app.links, is_number=True),
    Column("Failed", lambda app: app.failed, lambda it: "bold red" * bool(it.failed), True),
    Column("Pending", lambda app: app.pending_snapshot, is_number=True),
    Column("Scanning", lambda app: app.scanning, is_number=True),
    Column("Last good scan", lambda app: app.last_scanned_at or "never"),
    Column("URL", lambda app: app.base_url, folds=True),
)
_LINKS_COUNTED: Column[Any] = Column("Links", lambda count: count.links, is_number=True)
_APP_COUNTS: tuple[Column[AppCount], ...] = (
    _LINKS_COUNTED,
    Column("App", lambda count: count.app_name),
    Column("App id", lambda count: count.app_id),
)
_REPOSITORY_COUNTS: tuple[Column[RepositoryCount], ...] = (
    _LINKS_COUNTED,
    Column("Repository", lambda count: count.repository_name),
    Column("Repository id", lambda count: count.repository_id),
)
_STATUS_COUNTS: tuple[Column[StatusCount], ...] = (
    _LINKS_COUNTED,
    Column("Status", lambda count: words(count.status), lambda count: style_of(count.status)),
)
_ERROR_COUNTS: tuple[Column[ErrorGroup], ...] = (
    _LINKS_COUNTED,
    Column("Apps", lambda group: group.apps, is_number=True),
    Column("Error", lambda it: it.error_message or f"({NO_ERROR}: --no-error)", folds=True),
)
_GROUPS: dict[LinkGroup, Sequence[Column[Any]]] = {
    LinkGroup.APP: _APP_COUNTS,
    LinkGroup.REPOSITORY: _REPOSITORY_COUNTS,
    LinkGroup.STATUS: _STATUS_COUNTS,
    LinkGroup.ERROR: _ERROR_COUNTS,
}


def links_list(rows: Sequence[ListedLink], *, with_status: bool) -> Listing[ListedLink]:
    """Lists the links."""
    return Listing([each for each in _LINKS if with_status or each.name != "Status"], rows)


def apps_list(rows: Sequence[AppSummary]) -> Listing[AppSummary]:
    """Lists the apps."""
    return Listing(_APPS, rows)


def group_list(group: LinkGroup, rows: Sequence[Any]) -> Listing[Any]:
    """Counts the links by a field."""
    return Listing(_GROUPS[group], rows)


def app_counts(rows: Iterable[AppCount]) -> Listing[AppCount]:
    """Counts the links of each app, the largest first; a terminal shows the first ones."""
    return Listing(_APP_COUNTS, sorted(rows, key=lambda count: -count.links), ROWS_SHOWN)


def failures(rows: Sequence[LinkFailure], heading: str = "Not queued") -> Listing[LinkFailure]:
    """Lists links, each with an error; a terminal shows the first ones."""
    columns: tuple[Column[LinkFailure], ...] = (
        Column(heading, lambda it: link_name(it.app_name, it.repository_name) or it.job_id),
        Column("Why", lambda failure: failure.error_message, folds=True),
    )
    return Listing(columns, rows, ROWS_SHOWN)


def link_name(app_name: str | None, repository_name: str | None) -> str | None:
    """Returns `Acme Search ← octo/api`, or None unless both names are known."""
    return links.link_name(app_name, repository_name) if app_name and repository_name else None


def with_id(name: str, identifier: str) -> str:
    """Returns `Acme Search (app_…)`."""
    return f"{name} ({identifier})"


def circuit(open_until: datetime | None, *, is_open: bool) -> str:
    """Tells whether a circuit is open, and until when."""
    return f"open until {moment(open_until)}" if is_open else "closed"


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
    previous = LinkBefore(link.status, link.retry_count, link.error_message)
    return LinkData(
        message=message(changed) if changed else "Snapshot awaited",
        dry_run=changed is not None and changed.dry_run,
        job_id=link.ref.job_id,
        outcome=changed.outcome if changed else None,
        app_id=link.ref.app_id,
        app_name=link.payload.app_name,
        repository_id=link.ref.repository_id,
        repository_name=link.payload.repository_name,
        previous=previous if changed else None,
        circuit_open_until=changed.circuit_open_until if changed else None,
        circuit_reset=changed.circuit_reset if changed else None,
        deliveries_cleared=None if changed and changed.update else cleared,
        deliveries_marked=cleared if changed and changed.update else None,
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


_PLANNED = {
    Outcome.QUEUED: "would queue",
    Outcome.REPLACED_STALE: "would replace a stale job",
    Outcome.RESET: "would reset",
    Outcome.NOT_QUEUED: "can't be queued",
}


def outcome_label(outcome: Outcome, *, planned: bool) -> str:
    """Returns an outcome in words; `planned`: that of a dry run."""
    return (planned and _PLANNED.get(outcome)) or words(outcome)


def records_in_words(count: int, *, update: bool, is_planned: bool) -> str:
    """Says what becomes of this many delivery records, and what is sent."""
    records = amount(count, "delivery record")
    verb = "would be " if is_planned else ""
    if update:
        return f"{records} {verb}marked: files are sent as updates, or deletions if gone"
    return f"{records} {verb}deleted: every file is sent again"


def forgotten(*, is_planned: bool = False) -> str:
    """Says what a resync without `--update` forgets."""
    if is_planned:
        return (
            "The app would keep files that are gone from the repository: with --update they are "
            "deleted there."
        )
    return "The app keeps files that are gone from the repository."


def result_screen(result: LinkResult) -> Pairs:
    """Shows the link as it was before, and the outcome."""
    link = result.link
    label = outcome_label(result.outcome, planned=result.dry_run)
    rows = [
        *_names(link),
        ("Was", cell(f"{link.status}, {_failed_tries(link.retry_count)}")),
        ("Last error", cell(link.error_message or "")),
        ("Outcome", cell(label, style_of(result.outcome))),
        ("Job", cell(link.ref.job_id)),
    ]
    if result.action is Action.RESYNC:
        cleared, update = result.deliveries_cleared, result.update
        records = records_in_words(cleared, update=update, is_planned=result.dry_run)
        rows.append(("Files", cell(records)))
    if link.circuit_open_until:
        # A dry run shows the circuit as it is, and then what would become of it.
        open_until = (link if result.dry_run else result).circuit_open_until
        if open_until and link.circuit_is_open:
            left = duration((open_until - link.read_at).total_seconds())
            meaning = "only the scheduler waits for that; --reset-circuit closes it"
            if result.circuit_reset:
                meaning = "--reset-circuit would close it now"
            until = f"open until {moment(open_until)} (in {left}) after git failures"
            rows += [("Circuit", cell(until, "yellow")), ("", cell(meaning))]
        else:
            rows.append(("Circuit", cell("closed")))
    return Pairs([row for row in rows if row[1]])


def _names(link: Link) -> list[tuple[str, Text]]:
    return [
        ("App", cell(with_id(link.payload.app_name, link.ref.app_id))),
        ("Repository", cell(with_id(link.payload.repository_name, link.ref.repository_id))),
    ]


_ENDS = {
    WaitEnd.SYNCED: ("in sync", "green"),
    WaitEnd.FAILED: ("failed again", "bold red"),
    WaitEnd.GONE: ("the link is gone", "yellow"),
    WaitEnd.LOST: ("the job is lost", "bold red"),
}


def wait_screen(wait: LinkWait, link: Link | None = None) -> Pairs:
    """Shows the result of the snapshot and, if it is given, which link it is of."""
    text, style = _ENDS.get(wait.result, (f"still {wait.status}", "yellow"))
    rows = _names(link) if link else []
    rows.append(("Result", cell(f"{text}, after {wait.seconds:.0f} s", style)))
    if wait.error_message is not None:
        rows.append(("Error", cell(wait.error_message)))
    return Pairs(rows)


# `show`.

_LISTED = {"queued", "wait"}
"""The status of a job that should stand in a list."""
_SCORES = {"scheduled": "due", "delayed": "due", "deferred": "since", "ready": "since"}
_SCORES["rate_limited"] = "since"
"""The meaning of an entry's score by place; elsewhere it is when the entry expires."""
_TOKEN = {True: "yes", False: "no", None: "not known: our role has no right to look for it"}


def link_screen(details: LinkDetails, *, full: bool) -> Pairs:
    """Shows the rows of the database, then the job in the queue. `full`: all of its failure."""
    held = ", a worker holds the link" if details.lock_held else ""
    last = details.last_delivered_at
    delivered = amount(details.delivered_files, "file")
    return Pairs(
        [
            ("App", cell(with_id(details.app_name, details.app_id))),
            ("App URL", cell(details.base_url)),
            ("Repository", cell(with_id(details.repository_name, details.repository_id))),
            ("GitHub URL", cell(details.github_url)),
            ("Token", cell(_TOKEN[details.has_token])),
            ("Status", cell(f"{details.status}, {_failed_tries(details.retry_count)}")),
            ("Error", cell("none" if details.error_message is None else details.error_message)),
            ("Linked since", cell(moment(details.created_at))),
            ("Last good scan", cell(moment(details.last_scanned_at) or "never")),
            ("Circuit", _circuit(details)),
            ("Delivered", cell(delivered + (f", the last at {moment(last)}" if last else ""))),
            ("Snapshot", _snapshot(details.snapshot)),
            ("Job", cell(details.job_id)),
            ("Job state", state(details.job).append(held)),
            *_job(details, full=full),
        ]
    )


def _failed_tries(count: int) -> str:
    return f"{amount(count, 'try', 'tries')} failed"


def _circuit(details: LinkDetails) -> Text:
    until, count = details.circuit_open_until, details.consecutive_failures
    text = circuit(until, is_open=details.circuit_is_open)
    if until is not None and not details.circuit_is_open:
        text = f"was open until {moment(until)}"
    if count:
        text += f", {amount(count, 'git failure')} in a row"
    return cell(text, "yellow" if details.circuit_is_open else "")


def _snapshot(snapshot: Snapshot | None) -> Text:
    if snapshot is None:
        return cell("none")
    return cell(
        f"{snapshot.commit_sha} of {snapshot.branch}, {amount(snapshot.files, 'file')}, "
        f"{moment(snapshot.scanned_at) or 'never'}"
    )


def _job(details: LinkDetails, *, full: bool) -> Iterator[tuple[str, Text]]:
    job = details.job_record
    if job.status is not None:
        parts = [job.status]
        if job.attempts is not None:
            parts.append(f"{amount(job.attempts, 'try', 'tries')} made")
        if job.retries_left is not None:
            parts.append(f"{amount(job.retries_left, 'retry', 'retries')} left")
        yield "RQ status" if details.backend is Backend.RQ else "BullMQ", cell(", ".join(parts))
    if job.origin is not None:
        yield "Queue", cell(job.origin)
    for place in job.places:
        yield "Stands in", _place(place)
    if job.status in _LISTED and not any(place.position for place in job.places):
        yield "Stands in", cell(f"none of the first {MOST_SEARCHED:,} places of its list")
    for name, when in (
        ("Created", job.created_at),
        ("Queued", job.enqueued_at),
        ("Began", job.started_at),
        ("Ended", job.ended_at),
    ):
        if when is not None:
            yield name, cell(moment(when))
    if job.worker:
        yield "Worker", cell(job.worker)
    if job.expires_in is not None:
        yield "Is kept for", cell(duration(job.expires_in))
    if job.last_failure is not None:
        failure = job.last_failure
        by = f" on {failure.worker}" if failure.worker else ""
        yield "Last failure", cell(f"{moment(failure.failed_at) or 'in an earlier try'}{by}")
        # The error is the last line of Python's traceback, and the first one of Node's text.
        lines = failure.text.split("\n")
        yield "", cell(lines.pop(-1 if details.backend is Backend.RQ else 0))
        if full:
            yield from (("", cell(line)) for line in lines)
        elif lines:
            yield "", cell(f"and {amount(len(lines), 'line')} more: add --full", "dim")


def _place(place: JobPlace) -> Text:
    if place.where == "list":
        return cell(f"waiting list of {place.queue_name}, place {place.position}")
    if place.where == "intermediate":
        return cell(f"between {place.queue_name} and a worker")
    text = f"{place.where} of {place.queue_name}"
    if place.position is not None:
        text += f", place {place.position}"
    if place.worker:
        text += f" on {place.worker}"
    if place.alive is not None:
        text += ", alive" if place.alive else ", dead"
    elif place.score_at is not None:
        text += f", {_SCORES.get(place.where, 'expires')} {moment(place.score_at)}"
    return cell(text)
