"""`report`: Markdown that can be pasted into an issue.

Text from a database, from Redis or from people is put into code spans, in which issue trackers
ignore links, images, mentions, references and HTML.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Annotated

import typer

from docora_ops.cli import options
from docora_ops.cli.app_page import TO_READ_CONTACTS
from docora_ops.cli.context import context_of
from docora_ops.cli.exit_codes import ExitCode, exit_code_of
from docora_ops.cli.status import status_rows
from docora_ops.cli.verify import LIMITS, compare, summary
from docora_ops.errors import PostgresError, UsageError
from docora_ops.render.columns import NO_ERROR, link_name
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
_MOST = 10  # errors or links to show of an operation


def report(
    typer_context: typer.Context,
    since: options.Since = None,
    operation: options.OfOperation = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Also compare what was delivered, as verify does.")
    ] = False,
    as_json: options.Json = False,
    target: options.Target = None,
    env_file: options.EnvFile = None,
) -> int:
    """Print a report of an incident in Markdown.

    Shows who did what, when and why, which links failed again, and the current state. Can be pasted
    into an issue. Covers the last 24 hours by default. With --verify, exits with code 6 if links
    differ. Changes nothing.
    """
    context = context_of(typer_context)
    if since is not None and operation is not None:
        raise UsageError("--since and --operation can't be combined", hint="remove one of them")
    from docora_ops.actions.report import read_report

    result, errors = read_report(context.docora, since=since, operation_id=operation)
    if verify and not any(isinstance(error, PostgresError) for error in errors):
        try:
            result = replace(result, verification=compare(context))
        except PostgresError as lost:
            errors = [*errors, lost]
    if as_json:
        context.show_document(result, next(iter(errors), None))
    else:
        context.show_tables([_markdown(result, errors, with_proof=verify)], paged=True)
    for error in errors:
        context.report(error)
    if errors:
        return exit_code_of(errors[0])
    differs = result.verification is not None and result.verification.differing
    return ExitCode.PROBLEMS if differs else ExitCode.OK


@dataclass(frozen=True, eq=False)
class Markdown:
    """A Markdown text whose lines are not wrapped: the wrapped part could change its meaning."""

    text: str

    def __str__(self) -> str:
        """Returns the text for a pipe."""
        return self.text

    def __rich_console__(self, console: object, options: object) -> Iterator[Text]:
        """Yields the lines for a terminal."""
        from rich.text import Text

        for line in self.text.split("\n"):
            yield Text(line, no_wrap=True, overflow="ignore")


def _markdown(
    report: Report, errors: Sequence[ServerError], *, with_proof: bool = False
) -> Markdown:
    """Returns the report.

    errors: the errors of unusable servers.
    with_proof: include a section with the result of `--verify`.
    """
    sections = (
        _head(report),
        _timeline(report),
        _operations(report),
        _pauses(report),
        _state(report, errors),
        _whom_to_tell(report),
        _proof(report) if with_proof else (),
    )
    return Markdown("\n".join(chain.from_iterable(sections)))


def _proof(report: Report) -> Iterator[str]:
    yield from ("", "## Proof", "")
    result = report.verification
    if result is None:
        yield "Nothing was compared, because Postgres could not be used: `docora-ops verify`"
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


def _head(report: Report) -> Iterator[str]:
    what = f"operation {code(report.operation_id)}" if report.operation_id else "what was done"
    yield f"# Report of {what}"
    yield ""
    yield f"From {_time(report.since)} to {_time(report.until)}. All times are UTC."


def _timeline(report: Report) -> Iterator[str]:
    yield from ("", "## Timeline", "")
    if report.changes_left_out:
        left_out = amount(report.changes_left_out, "earlier change")
        yield f"- {left_out} left out: `docora-ops history`"
    for entry in report.changes:
        yield f"- {_change(entry)}"
    if report.schedule and report.schedule.passes:
        passes = amount(report.schedule.passes, "pass", "passes")
        links = amount(report.schedule.links, "link")
        yield f"- {passes} of `schedule` queued {links}; the last: {_time(report.schedule.last_at)}"
        for reason in report.schedule.reasons:
            yield f"  - reason: {code(reason)}"
    elif not report.changes:
        yield "No change is recorded."


def _change(entry: HistoryEntry) -> str:
    from docora_ops.cli.bulk_view import command_line
    from docora_ops.cli.history import result_of_change

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


def _operations(report: Report) -> Iterator[str]:
    yield from ("", "## Bulk operations", "")
    if not report.operations:
        yield "None is recorded."
    if report.operations_left_out:
        yield f"{amount(report.operations_left_out, 'earlier operation')} left out."
    for number, operation in enumerate(report.operations):
        yield from [""] if number or report.operations_left_out else []
        yield from _operation(operation)


def _operation(operation: OperationRecord) -> Iterator[str]:
    from docora_ops.cli.bulk_view import command_line, counted_results, state_of

    yield f"### {code(operation.operation_id)}"
    yield ""
    if operation.who:
        yield f"- Started: {_time(operation.started_at)}, by {code(operation.who)}"
        yield f"- Command: {code(command_line(operation.command, operation.selection))}"
    else:
        yield "- Started: by Docora's dashboard, which does not record more"
    if operation.reason:
        yield f"- Reason: {code(operation.reason)}"
    yield f"- State: {code(state_of(operation))}, last step {_time(operation.last_step_at)}"
    done, taken_over = operation.completed - operation.taken_over, operation.taken_over
    yield (
        f"- Links: {done} of {operation.total} completed, "
        f"{f'{taken_over} taken over, ' if taken_over else ''}"
        f"{operation.put_to_work} put to work, {operation.not_queued} not queued"
    )
    if results := counted_results(operation.results):
        yield f"- Results: {', '.join(results)}"
    else:
        yield "- Results: not known, nobody has waited for the snapshots"
    yield from (f"- Message: {code(message)}" for message in operation.messages[-_MOST:])
    yield from _failures("Not queued", operation.failures, operation.not_queued)
    failed_again = operation.results.failed if operation.results else 0
    yield from _failures("Failed again", operation.failed_links, failed_again)


def _failures(heading: str, links: Sequence[LinkFailure], total: int) -> Iterator[str]:
    if not links:
        return
    from docora_ops.error_groups import LONGEST, group_errors

    of = f", of {total}" if total > len(links) else ""
    yield f"- {heading}, the errors of {amount(len(links), 'link')}{of}:"
    errors = group_errors((link.app_id, link.error_message[: LONGEST + 1], 1) for link in links)
    for group in errors[:_MOST]:
        whose = f"{amount(group.links, 'link')} of {amount(group.apps, 'app')}"
        yield f"  - {whose}: {code(group.error_message or NO_ERROR)}"
    if len(errors) > _MOST:
        yield f"  - and {amount(len(errors) - _MOST, 'more error')}"
    names = ", ".join(code(link_name(link)) for link in links[:_MOST])
    more = f" and {len(links) - _MOST} more" if len(links) > _MOST else ""
    yield f"  - the links: {names}{more}"


def _pauses(report: Report) -> Iterator[str]:
    yield from ("", "## Pauses", "")
    if not report.pauses:
        yield "None is recorded."
    for pause in report.pauses:
        end = f"until {_time(pause.ended_at)}" if pause.ended_at else "no end is recorded"
        reason = f"; reason: {code(pause.reason)}" if pause.reason else ""
        yield f"- From {_time(pause.started_at)}, {end}: {code(pause.who)}{reason}"


def _state(report: Report, errors: Sequence[ServerError]) -> Iterator[str]:
    yield from ("", "## State now", "")
    is_verified = report.verification is not None
    for name, value in status_rows(report.status, errors, is_verified=is_verified):
        shown = code(value.plain.strip())
        yield f"- {name}: {shown}" if name else f"  - {shown}"


def _whom_to_tell(report: Report) -> Iterator[str]:
    if not report.affected_apps:
        return
    yield from ("", "## Whom to tell", "")
    for app in report.affected_apps:
        email = code(app.email) if app.email else f"email unknown, {TO_READ_CONTACTS}"
        yield f"- {code(app.app_name)}: {amount(app.links, 'failed link')}, {email}"
    if more := (report.status.failed_apps or 0) - len(report.affected_apps):
        yield f"- and {amount(more, 'more app')}: `docora-ops apps`"
