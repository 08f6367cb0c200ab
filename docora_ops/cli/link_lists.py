"""`links`, `failed`, `apps` and `show`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from docora_ops.cli import options
from docora_ops.cli.app_page import show_app
from docora_ops.cli.context import context_of, link_choice
from docora_ops.cli.exit_codes import ExitCode
from docora_ops.errors import UsageError
from docora_ops.jobs import QUEUE_NAME, Backend
from docora_ops.links import AppSort, LinkGroup, LinkSort, LinkStatus, arguments
from docora_ops.render.columns import Column, Pairs, cell, named_values, one_line, style_of, words
from docora_ops.render.link_tables import GOOD_UNTIL, group_columns
from docora_ops.text import amount, duration, flat, good_until, moment

if TYPE_CHECKING:
    from rich.text import Text

    from docora_ops.actions.link_lists import LinkDetails
    from docora_ops.database.link_reports import AppSummary, ListedLink
    from docora_ops.jobs import JobPlace


Sort = Annotated[
    LinkSort,
    typer.Option(
        metavar="ORDER",
        help="Sort by app (app id, then repository id), error, retries (most first), last-scan "
        "(never scanned first, then oldest first) or overdue (longest without a good scan first). "
        "Groups are sorted by size.",
    ),
]
Overdue = Annotated[
    bool,
    typer.Option("--overdue", help="Only links in sync that have not been scanned for too long."),
]
GroupBy = Annotated[
    LinkGroup | None,
    typer.Option(
        metavar="FIELD",
        help="Count links by app, repository, status or error (ignoring paths, numbers and ids).",
    ),
]


def links(
    typer_context: typer.Context,
    app: options.Apps = None,
    exclude_app: options.ExcludeApps = None,
    repo: options.Repositories = None,
    status: options.Statuses = None,
    error: options.Errors = None,
    exclude_error: options.ExcludeErrors = None,
    no_error: options.NoError = False,
    circuit: options.CircuitFilter = None,
    last_scan_before: options.LastScanBefore = None,
    last_scan_after: options.LastScanAfter = None,
    overdue: Overdue = False,
    sort: Sort = LinkSort.APP,
    group_by: GroupBy = None,
    limit: options.Limit = 50,
    page: options.PageNumber = 1,
    as_json: options.Json = False,
    env_file: options.EnvFile = None,
) -> int:
    """List links and the state of their jobs.

    Values of the same option are alternatives; different options must all match. Changes nothing.
    """
    if overdue and status and not {LinkStatus.SYNCED, LinkStatus.PENDING_SNAPSHOT} & set(status):
        raise UsageError(
            "--overdue finds nothing with this --status: failed and scanning links are never "
            "overdue",
            hint="docora-ops help links",
        )
    return _show(typer_context, status or [], "link")


def failed(
    typer_context: typer.Context,
    app: options.Apps = None,
    exclude_app: options.ExcludeApps = None,
    repo: options.Repositories = None,
    error: options.Errors = None,
    exclude_error: options.ExcludeErrors = None,
    no_error: options.NoError = False,
    circuit: options.CircuitFilter = None,
    last_scan_before: options.LastScanBefore = None,
    last_scan_after: options.LastScanAfter = None,
    sort: Sort = LinkSort.APP,
    group_by: GroupBy = None,
    limit: options.Limit = 50,
    page: options.PageNumber = 1,
    as_json: options.Json = False,
    env_file: options.EnvFile = None,
) -> int:
    """List failed links and the state of their jobs.

    Short for `links --status failed`: `docora-ops help links` explains the columns and options.
    Changes nothing.
    """
    return _show(typer_context, [LinkStatus.FAILED], "failed link")


def _show(typer_context: typer.Context, statuses: Sequence[LinkStatus], noun: str) -> int:
    context, parameters = context_of(typer_context), typer_context.params
    from docora_ops.actions import link_lists
    from docora_ops.actions.lookup import LinkChoice

    docora, choice = context.docora, link_choice(typer_context, statuses)
    if choice != LinkChoice(statuses=statuses) or parameters.get("status"):
        noun = f"matching {noun}"
    pages: dict[str, int] = {name: parameters[name] for name in ("page", "limit")}
    if group := parameters["group_by"]:
        groups = link_lists.link_groups(docora, group, choice, **pages)
        columns = group_columns(group, of_failed=statuses == [LinkStatus.FAILED])
        # A text that is cut could not be given to `--error`.
        is_compact = group is not LinkGroup.ERROR
        where = docora.postgres_server
        context.show_page(groups, columns, where, "group", is_compact=is_compact)
        return ExitCode.OK
    listed, lost = link_lists.links(docora, choice, sort=parameters["sort"], **pages)
    columns = _LINKS
    if statuses == [LinkStatus.FAILED]:
        columns = _FAILED
    elif parameters.get("overdue") or choice.last_scan_before or choice.last_scan_after:
        columns = _OVERDUE
    if len(statuses) == 1:  # all rows have this status
        columns = [column for column in columns if column.name != "Status"]
    context.show_page(listed, columns, docora.servers, noun, lost, is_compact=True)
    failed_links = [link for link in listed.rows if link.status == LinkStatus.FAILED]
    left = sum(link.circuit_open_until is not None for link in failed_links)
    if left and not context.as_json:
        links = amount(left, "of these links stays", "of these links stay")
        until = "a retry, or until git succeeds for another link of the repository"
        context.say(f"{links} failed until {until}: {_LEFT_ALONE}.")
    return context.report(lost) if lost else ExitCode.OK


def apps(
    typer_context: typer.Context,
    app: options.OptionalApp = None,
    last_scan_before: options.LastScanBefore = None,
    last_scan_after: options.LastScanAfter = None,
    sort: Annotated[
        AppSort, typer.Option(metavar="ORDER", help="Sort by failed (most first) or name.")
    ] = AppSort.FAILED,
    limit: options.Limit = 50,
    page: options.PageNumber = 1,
    as_json: options.Json = False,
    env_file: options.EnvFile = None,
) -> None:
    """List apps, or one app, most failed links first.

    Shows the links of each app by status, the last successful scan, the URL and, if the role may
    read it, the email. With a filter, counts only matching links. Without Redis, shows no app as
    held. Changes nothing.
    """
    context = context_of(typer_context)
    from docora_ops.actions.link_lists import apps
    from docora_ops.actions.lookup import LinkChoice

    choice = replace(link_choice(typer_context), apps=(app,) if app else ())
    noun = "app" if choice == LinkChoice(apps=choice.apps) else "matching app"
    listed = apps(context.docora, choice, sort=sort, page=page, limit=limit)
    is_seen = any(app.held for app in listed.rows) or not sys.stdout.isatty()
    columns = [*_APPS, *(_HELD if is_seen else ())]
    where = context.docora.postgres_server
    context.show_page(listed, columns, where, noun, is_compact=True)


def show(
    typer_context: typer.Context,
    app: options.App,
    repo: options.OptionalRepo = None,
    show_all: Annotated[
        bool,
        typer.Option(
            "--all", help="Show everything, such as the whole error and the traceback of the job."
        ),
    ] = False,
    as_json: options.Json = False,
    env_file: options.EnvFile = None,
) -> int:
    """Show one app, or one link: error, next step, job.

    For an app: whom to tell, links by status, errors, the last delivery, and what is running. For a
    link: also its last tries, deliveries, circuit and stored commit. A terminal shows only the
    beginning of a long error: --all shows everything. Changes nothing.
    """
    context = context_of(typer_context)
    if repo is None:
        return show_app(context, app, show_all=show_all)
    from docora_ops.actions.link_lists import show

    details = show(context.docora, app, repo)
    context.show(details, [_whole_screen(details) if show_all else _link_screen(details)])
    return ExitCode.OK


_LEFT_ALONE = "the scheduler does not queue failed links whose circuit was opened"
_LONGEST_ON_SCREEN = 240  # characters of a value that `show` prints
_MOST_PLACES = 3  # places of a job that `show` prints
_HISTORY = ("Created", "Last scanned", "Consecutive", "Delivered", "Last delivered", "Snapshot")
_LINKS: Sequence[Column[ListedLink]] = (
    Column("App", lambda link: link.app_name, narrowest=12),
    Column("App id", lambda link: link.app_id, left_out=1),
    Column("Repository", lambda link: link.repository_name, narrowest=14),
    Column("Repository id", lambda link: link.repository_id, left_out=1),
    Column("Status", lambda link: words(link.status), lambda link: style_of(link.status)),
    Column(
        "Error",
        lambda link: flat(link.error_message) + "…" * link.error_message_cut,
        folds=True,
    ),
    Column("Failed tries", lambda link: link.retry_count, is_number=True, left_out=2),
    Column("Last good scan", lambda link: link.last_scanned_at or "never", left_out=4),
    Column(
        "Circuit open until",
        lambda link: link.circuit_open_until if link.circuit_is_open else None,
        lambda _: "yellow",
        left_out=3,
    ),
    Column("Job", lambda link: words(link.job or "unknown"), lambda link: style_of(link.job or "")),
)
_FAILED: Sequence[Column[ListedLink]] = (
    *_LINKS[:-1],
    Column(
        GOOD_UNTIL,
        lambda link: good_until(link.last_scanned_at, link.last_scanned_seconds),
        left_out=5,
        narrowest=20,  # its full width, so that names are cut before it is left out
    ),
    _LINKS[-1],
)
# Synced links rarely have an error, so on a narrow terminal their last good scan is more useful.
_OVERDUE: Sequence[Column[ListedLink]] = tuple(
    replace(column, left_out=4) if column.name == "Error" else column for column in _FAILED
)
_APPS: Sequence[Column[AppSummary]] = (
    Column("App", lambda app: app.app_name, narrowest=12),
    Column("App id", lambda app: app.app_id, left_out=1),
    Column("Links", lambda app: app.links, is_number=True),
    Column("Failed", lambda app: app.failed, lambda app: "bold red" * bool(app.failed), True),
    Column("Pending", lambda app: app.pending_snapshot, is_number=True, left_out=4),
    Column("Scanning", lambda app: app.scanning, is_number=True, left_out=4),
    Column("Last good scan", lambda app: app.last_scanned_at or "never", left_out=3),
    Column(
        GOOD_UNTIL,
        lambda app: (
            good_until(app.good_until_at, app.good_until_seconds, app.oldest_scan_seconds)
            if app.failed
            else None
        ),
        left_out=5,  # before the email, which says whom to tell
        narrowest=24,  # its full width
    ),
    Column("URL", lambda app: app.base_url, left_out=2, narrowest=20),
    # With 25 characters of an email, all these columns fit 80, and so do those with the hold.
    Column("Email", lambda app: app.email, left_out=6, narrowest=25),
)
_HELD: Sequence[Column[AppSummary]] = (
    Column("Held until", lambda app: app.held and app.held.until, lambda _: "yellow"),
    Column("Held by", lambda app: app.held and app.held.by, left_out=3, narrowest=16),
)


def _link_screen(details: LinkDetails) -> Pairs:
    ids = arguments(details.app_id, details.repository_id)
    state = words(details.status)
    if details.retry_count:
        state += f", {amount(details.retry_count, 'try', 'tries')} failed"
    bound = ""
    if details.status == LinkStatus.FAILED:
        bound = good_until(details.last_scanned_at, details.last_scanned_seconds)
    job, expires_in = words(details.job), details.job_record.expires_in
    job += "" if expires_in is None else f", expires in {duration(expires_in)}"
    job += ", and a worker holds the link" if details.lock_held else ""
    held = details.held.sentence if details.held else ""
    if details.is_exempt:
        held = f"its job is exempt from the hold; the app is {held}"
    next_step = f"{_next_step(details)} {ids}"
    is_left = details.status == LinkStatus.FAILED and details.circuit_open_until
    if details.held and not details.is_exempt and details.status != LinkStatus.SYNCED:
        next_step = f"release {arguments(details.app_id)}"
    delivered, snapshot = f"{details.delivered_files:,} files", details.snapshot
    if details.last_delivered_at:
        delivered += f", the last at {moment(details.last_delivered_at)}"
    if details.is_partly_sent:
        delivered += "; its last snapshot was cut off, and some of its files are out"
    rows = [
        ("Status", cell(state, style_of(details.status))),
        ("Error", cell(flat(details.error_message))),
        ("Failed at", cell(moment(details.failed_at) or "")),
        (GOOD_UNTIL, cell(bound)),
        ("Next", cell(f"docora-ops {next_step}")),
        ("", cell(_LEFT_ALONE if is_left else "", "yellow")),
        ("App", cell(f"{details.app_name} ({details.app_id})")),
        ("", cell(held, "yellow")),
        ("URL", cell(details.base_url)),
        ("Repository", cell(f"{details.repository_name} ({details.repository_id})")),
        ("Job", cell(job, style_of(details.job))),
        *(("", cell(_place(place))) for place in details.job_record.places[:_MOST_PLACES]),
        *_tries(details, one_line),
        ("Delivered", cell(delivered)),
    ]
    if details.circuit_is_open:
        until = f"open until {moment(details.circuit_open_until)}"
        rows.append(("Circuit", cell(until, "yellow")))
    if snapshot:
        stored = f"{snapshot.commit_sha} of {snapshot.branch}, {snapshot.files:,} files"
        rows.append(("Stored commit", cell(stored)))
    return Pairs([row for row in rows if row[1]], longest=_LONGEST_ON_SCREEN)


def _tries(details: LinkDetails, text_of: Callable[[str, str], Text]) -> Iterator[tuple[str, Text]]:
    """Yields a line for each of the last tries, newest first; with BullMQ, for the failed job.

    text_of: `one_line`, which cuts a line at the edge of a terminal, or `cell`, which wraps it.
    """
    name = "Last tries" if details.backend is Backend.RQ else "Failed job"
    for number, end in enumerate(details.tries):
        shown = f"{end.ended_at:%Y-%m-%dT%H:%M:%SZ}  {words(end.outcome)}"
        if end.try_number is not None:
            limit = f" of {end.tries}" if end.tries and end.try_number <= end.tries else ""
            shown += f", try {end.try_number}{limit}"
        shown += f", {end.seconds:.1f} s" if end.seconds is not None else ""
        # The end of the line is cut off where a terminal is narrow.
        shown += f": {flat(end.error_message)}" if end.error_message else ""
        shown += f", {amount(end.files, 'file')}" if end.files else ""
        yield "" if number else name, text_of(shown, style_of(end.outcome))


def _next_step(details: LinkDetails) -> str:
    if details.status == LinkStatus.FAILED and not details.job.is_live:
        is_refused = details.circuit_is_open and details.backend is Backend.BULLMQ
        return "retry --reset-circuit" if is_refused else "retry"
    if details.status == LinkStatus.SYNCED:
        return "verify"
    # Docora's own scheduler queues what is pending.
    is_queued = details.backend is Backend.BULLMQ and details.status != LinkStatus.SCANNING
    return "wait" if is_queued or details.job.is_live or details.lock_held else "repair"


def _whole_screen(details: LinkDetails) -> Pairs:
    job, failure = details.job_record, details.job_record.last_failure
    record = replace(job, last_failure=None, expires_in=None)
    shown = replace(details, job_record=record, last_scanned_seconds=None)
    rows = [(name.replace("Job record", "Job"), text) for name, text in named_values(shown)]
    if details.status == LinkStatus.FAILED:
        bound = good_until(details.last_scanned_at, details.last_scanned_seconds)
        if details.last_scanned_at:
            bound += ": it failed after that"
        status = next(number for number, (name, _) in enumerate(rows) if name == "Status")
        rows.insert(status + 1, (GOOD_UNTIL, cell(bound)))
    if job.expires_in is not None:
        rows.append(("Job expires", cell(f"in {duration(job.expires_in)}")))
    rows.sort(key=lambda row: row[0].startswith(_HISTORY))
    rows += _tries(details, cell)
    rows += (("Job place", cell(_place(place))) for place in job.places)
    if failure:
        by = f" on {failure.worker}" if failure.worker else ""
        failed_at = moment(failure.failed_at) or "in an earlier try"
        rows.append(("Last failure", cell(f"{failed_at}{by}")))
        lines = failure.text.split("\n")
        lines.remove(failure.error_message)
        rows.append(("", cell(failure.error_message)))
        rows += (("", cell(line)) for line in lines)
    return Pairs(rows)


def _place(place: JobPlace) -> str:
    text = f"{QUEUE_NAME}: {place.where}"
    if place.position is not None:
        text += f", position {place.position}"
    if place.worker:
        text += f" on {place.worker}, {'alive' if place.alive else 'dead'}"
    elif place.where == "scheduled":
        text += f", due at {moment(place.score_at)}"
    return text
