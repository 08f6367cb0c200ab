"""`report`: Markdown that can be pasted into an issue.

Text from a database, from Redis or from people is put into code spans, in which issue trackers
ignore links, images, mentions, references and HTML.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import TYPE_CHECKING, Annotated

import typer

from docora_ops.cli import options
from docora_ops.cli.app_page import TO_READ_CONTACTS
from docora_ops.cli.context import Context, context_of
from docora_ops.cli.exit_codes import ExitCode, exit_code_of
from docora_ops.cli.status import sentence_of, status_rows
from docora_ops.cli.verification import LIMITS, progress_of, summary
from docora_ops.errors import PostgresError, UsageError
from docora_ops.operations import OperationState
from docora_ops.render.columns import NO_ERROR, link_name
from docora_ops.render.link_tables import apps_of
from docora_ops.text import amount, inert, mask

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from rich.text import Text

    from docora_ops.actions.report import Report
    from docora_ops.errors import ServerError
    from docora_ops.links import LinkFailure
    from docora_ops.operations import HistoryEntry, OperationRecord

_LONGEST_VALUE = 2_000  # characters
_MOST = 10  # errors, links or messages to show of an operation


def report(
    typer_context: typer.Context,
    since: options.Since = None,
    operation: options.OfOperation = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Also compare what was delivered, as verify does.")
    ] = False,
    as_json: options.Json = False,
    env_file: options.EnvFile = None,
) -> int:
    """Print a report of an incident in Markdown.

    Begins with what is open now, then shows who did what, when and why, and which links failed
    again. Can be pasted into an issue. Covers the last 24 hours by default. With
    --verify, exits with code 6 if links differ or are failed. Changes nothing.
    """
    context = context_of(typer_context)
    if since is not None and operation is not None:
        raise UsageError("--since and --operation can't be combined", hint="remove one of them")
    from docora_ops.actions.report import read_report
    from docora_ops.actions.verification import verify as compare

    result, errors = read_report(context.docora, since=since, operation_id=operation)
    if verify and not any(isinstance(error, PostgresError) for error in errors):
        try:
            result = replace(result, verification=progress_of(context, compare(context.docora)))
        except PostgresError as lost:
            errors = [*errors, lost]
    if as_json:
        context.show_document(result, next(iter(errors), None))
    else:
        text = "\n".join(_lines(context, result, errors))
        context.show_tables([Markdown(text)])
    for error in errors:
        context.report(error)
    if errors:
        return exit_code_of(errors[0])
    is_problem = result.verification is not None and result.verification.has_problems
    return ExitCode.PROBLEMS if is_problem else ExitCode.OK


@dataclass(frozen=True, eq=False)
class Markdown:
    """A Markdown text whose lines are never wrapped, because wrapping could change its meaning."""

    text: str

    def __str__(self) -> str:
        """Returns the text for a pipe."""
        return self.text

    def __rich_console__(self, console: object, options: object) -> Iterator[Text]:
        """Yields the lines for a terminal."""
        from rich.text import Text

        for line in self.text.split("\n"):
            yield Text(line, no_wrap=True, overflow="ignore")


def _lines(context: Context, report: Report, errors: Sequence[ServerError]) -> Iterator[str]:
    """Yields the lines of the report.

    errors: the errors of unusable servers.
    """
    subject = f"operation {code(report.operation_id)}" if report.operation_id else "what was done"
    yield from (f"# Report of {subject}", "")
    yield f"From {_time(report.since)} to {_time(report.until)}. All times are UTC."
    yield from _open_now(report, errors)
    yield from _timeline(context, report)
    yield from _whom_to_tell(report)
    yield from _verified(report, is_complete=not errors)


def _open_now(report: Report, errors: Sequence[ServerError]) -> Iterator[str]:
    from docora_ops.cli.bulk_view import links_done, state_of

    yield from ("", "## Open now", "", code(sentence_of(report.status)), "")
    for name, value in status_rows(report.status, errors):
        if name != "Operation":  # told below, with all others that are not finished
            shown = code(value.plain.strip())
            yield f"- {name}: {shown}" if name else f"  - {shown}"
    for operation in report.operations:
        if operation.is_open:
            state = f"{state_of(operation)}, {links_done(operation)}"
            see = f"docora-ops operations {operation.operation_id}"
            yield f"- Operation: {code(state)}: {code(see)}"


def _verified(report: Report, *, is_complete: bool) -> Iterator[str]:
    yield from ("", "## Verified", "")
    result = report.verification
    if result is None:
        how = " For proof of what was delivered: `docora-ops report --verify`"
        yield f"Nothing was compared.{how * is_complete}"
        return
    yield from (f"{summary(result)} {LIMITS}", "")
    links = [*result.differing_links, *result.uncertain_links]
    for link in links[:_MOST]:
        counts = f"{link.missing} missing, {link.outdated} outdated, {link.extra} extra"
        yield f"- {code(link_name(link))}: {counts}{' (uncertain)' if link.doubt else ''}"
    if more := len(links[_MOST:]):
        yield f"- and {amount(more, 'more link')}: `docora-ops verify`"


def code(value: object) -> str:
    """Returns the value as a code span, in which Markdown has no effect."""
    text = mask(inert(value))
    if len(text) > _LONGEST_VALUE:
        text = f"{text[:_LONGEST_VALUE]}…"
    if not text.strip():
        return "` `"
    fence = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    pad = " " if text[0] in " `" or text[-1] in " `" else ""  # Markdown strips one blank
    return f"{fence}{pad}{text}{pad}{fence}"


def _time(when: datetime | None) -> str:
    return f"{when:%Y-%m-%d %H:%M:%S}" if when else "unknown"


def _timeline(context: Context, report: Report) -> Iterator[str]:
    yield from ("", "## Timeline", "")
    if report.changes_left_out:
        left_out = amount(report.changes_left_out, "earlier change")
        yield f"- {left_out} left out: `docora-ops history`"
    if report.operations_left_out:
        earlier = amount(report.operations_left_out, "earlier operation")
        see = "`docora-ops report --operation ID`"
        yield f"- {earlier} without details: {see}"
    operations = {operation.operation_id: operation for operation in report.operations}
    lines: list[tuple[datetime, str, OperationRecord | None]] = []
    for entry in report.changes:
        begins = entry.command != "cancel"
        operation = operations.pop(entry.operation_id or "", None) if begins else None
        lines.append((entry.started_at, _change(entry), operation))
    for operation in operations.values():  # of the dashboard, or begun before all listed changes
        at = operation.started_at or operation.last_step_at or report.since
        lines.append((at, _unrecorded(operation), operation))
    for _, line, operation in sorted(lines, key=itemgetter(0)):
        yield f"- {line}"
        if operation:
            yield from (f"  {detail}" for detail in _details(operation))
    if report.schedule and report.schedule.passes:
        passes = amount(report.schedule.passes, "pass", "passes")
        links = amount(report.schedule.links, "link")
        yield f"- {passes} of `schedule` queued {links}; the last: {_time(report.schedule.last_at)}"
        for reason in report.schedule.reasons:
            yield f"  - reason: {code(reason)}"
    elif not lines:
        yield "No change is recorded."


def _change(entry: HistoryEntry) -> str:
    from docora_ops.cli.audit_history import result_of_change
    from docora_ops.cli.bulk_view import command_line

    when = _time(entry.started_at)
    if entry.ended_at and _time(entry.ended_at) != when:
        is_same_day = entry.ended_at.date() == entry.started_at.date()
        end = _time(entry.ended_at)
        when += f" to {end[-8:] if is_same_day else end}"
    parts = [f"{when}: {code(entry.who)}: {code(command_line(entry.command, entry.selection))}"]
    if result := result_of_change(entry):
        parts.append(code(result))
    if entry.reason:
        parts.append(f"reason: {code(entry.reason)}")
    if entry.operation_id:
        parts.append(f"operation {code(entry.operation_id)}")
    return "; ".join(parts)


def _unrecorded(operation: OperationRecord) -> str:
    from docora_ops.cli.bulk_view import command_line

    when = f"{_time(operation.started_at)}: " if operation.started_at else ""
    who = "Docora's dashboard, which does not record more"
    if operation.who:
        who = f"{code(operation.who)}: {code(command_line(operation.command, operation.selection))}"
    reason = f"; reason: {code(operation.reason)}" if operation.reason else ""
    return f"{when}{who}{reason}; operation {code(operation.operation_id)}"


def _details(operation: OperationRecord) -> Iterator[str]:
    """Yields what the line of an operation leaves out: state, messages, and errors of links."""
    from docora_ops.cli.bulk_view import links_done, state_of

    if operation.state is not OperationState.DONE or operation.taken_over or not operation.who:
        state = code(f"{state_of(operation)}, {links_done(operation)}")
        counts = f"{operation.put_to_work} put to work, {operation.not_queued} not queued"
        yield f"- {state}, last step {_time(operation.last_step_at)}: {counts}"
    if not operation.results:
        yield "- Results: not known, nobody has waited for the snapshots"
    yield from (f"- Message: {code(message)}" for message in operation.messages[-_MOST:])
    yield from _failures("Not queued", operation.failures, operation.not_queued)
    failed_again = operation.results.failed if operation.results else 0
    yield from _failures("Failed again", operation.failed_links, failed_again)


def _failures(heading: str, links: Sequence[LinkFailure], total: int) -> Iterator[str]:
    if not links:
        return
    from docora_ops.error_groups import group_failures

    of_all = f", of {total}" if total > len(links) else ""
    yield f"- {heading}, the errors of {amount(len(links), 'link')}{of_all}:"
    errors = group_failures(links)
    for group in errors[:_MOST]:
        whose = f"{amount(group.links, 'link')} of {code(apps_of(group))}"
        yield f"  - {whose}: {code(group.error_message or NO_ERROR)}"
    if len(errors) > _MOST:
        yield f"  - and {amount(len(errors) - _MOST, 'more error')}"
    names = ", ".join(code(link_name(link)) for link in links[:_MOST])
    more = f" and {len(links) - _MOST} more" if len(links) > _MOST else ""
    yield f"  - the links: {names}{more}"


def _whom_to_tell(report: Report) -> Iterator[str]:
    if not report.affected_apps:
        return
    yield from ("", "## Whom to tell", "")
    for app in report.affected_apps:
        email = code(app.email) if app.email else f"email unknown, {TO_READ_CONTACTS}"
        yield f"- {code(app.app_name)}: {amount(app.links, 'failed link')}, {email}"
    if more := (report.status.failed_apps or 0) - len(report.affected_apps):
        yield f"- and {amount(more, 'more app')}: `docora-ops apps`"
