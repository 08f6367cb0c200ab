"""`report`: Markdown that can be pasted into an issue.

Whatever comes from a database, from Redis or from a person stands in code spans: there, no tracker
reads links, images, mentions, references or HTML.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain

from rich.text import Text

from docora_ops.audit import HistoryEntry
from docora_ops.bulk import OperationRecord
from docora_ops.folding import LONGEST, group_errors
from docora_ops.links import LinkFailure
from docora_ops.render.bulk_view import (
    command_line,
    counted_results,
    result_of_change,
    state_of,
)
from docora_ops.render.link_view import NO_ERROR, link_name
from docora_ops.render.verify_view import LIMITS, summary
from docora_ops.report import Report
from docora_ops.text import amount, inert, mask

_LONGEST_VALUE = 2_000  # characters
_MOST = 10
"""Errors, or links, that are shown of an operation."""


@dataclass(frozen=True, eq=False)
class Markdown:
    """A Markdown text, of which a terminal breaks no line: the rest might begin something else."""

    text: str

    def __str__(self) -> str:
        """Returns the text for a pipe."""
        return self.text

    def __rich_console__(self, console: object, options: object) -> Iterator[Text]:
        """Yields the lines for a terminal."""
        for line in self.text.split("\n"):
            yield Text(line, no_wrap=True, overflow="ignore")


def report_markdown(
    report: Report, state: Iterable[tuple[str, Text]], *, with_proof: bool = False
) -> Markdown:
    """Returns the report, section by section.

    state: the rows of `status`.
    with_proof: the proof was asked for.
    """
    sections = (
        _head(report),
        _timeline(report),
        _operations(report),
        _pauses(report),
        _state(state),
        _proof(report) if with_proof else (),
    )
    return Markdown("\n".join(chain.from_iterable(sections)))


def _proof(report: Report) -> Iterator[str]:
    yield from ("", "## Proof", "")
    found = report.verification
    if found is None:
        yield "Nothing was compared, because Postgres could not be used: `docora-ops verify`"
        return
    yield from (f"{summary(found)} {LIMITS}", "")
    links = [*found.differing_links, *found.uncertain_links]
    for link in links[:_MOST]:
        counts = f"{link.missing} missing, {link.outdated} outdated, {link.extra} extra"
        yield f"- {code(link_name(link))}: {counts}{' (uncertain)' if link.doubt else ''}"
    if more := len(links[_MOST:]):
        yield f"- and {amount(more, 'more link')}: `docora-ops verify`"


def code(value: object) -> str:
    """Returns the value as a code span, in which Markdown means nothing."""
    text = mask(inert(value))
    if len(text) > _LONGEST_VALUE:
        text = f"{text[:_LONGEST_VALUE]}…"
    if not text.strip():
        return "` `"
    fence = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    pad = " " if text[0] in " `" or text[-1] in " `" else ""  # which Markdown takes away
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
    yield from (f"- Message: {code(each)}" for each in operation.messages[-_MOST:])
    yield from _failures("Not queued", operation.failures, operation.not_queued)
    failed_again = operation.results.failed if operation.results else 0
    yield from _failures("Failed again", operation.failed_links, failed_again)


def _failures(heading: str, links: Sequence[LinkFailure], total: int) -> Iterator[str]:
    """Yields the errors with their links, and the first links."""
    if not links:
        return
    of = f", of {total}" if total > len(links) else ""
    yield f"- {heading}, the errors of {amount(len(links), 'link')}{of}:"
    errors = group_errors((it.app_id, it.error_message[: LONGEST + 1], 1) for it in links)
    for each in errors[:_MOST]:
        apps = amount(each.apps, "app")
        yield f"  - {amount(each.links, 'link')} of {apps}: {code(each.error_message or NO_ERROR)}"
    if len(errors) > _MOST:
        yield f"  - and {amount(len(errors) - _MOST, 'more error')}"
    names = ", ".join(code(link_name(each)) for each in links[:_MOST])
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


def _state(state: Iterable[tuple[str, Text]]) -> Iterator[str]:
    yield from ("", "## State now", "")
    for name, value in state:
        shown = code(value.plain.strip())
        yield f"- {name}: {shown}" if name else f"  - {shown}"
