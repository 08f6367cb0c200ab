"""`history`. Needs only Redis."""

import sys
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Annotated

import typer

from docora_ops.cli import options
from docora_ops.cli.bulk_view import command_line, counted_results, stopped
from docora_ops.cli.context import context_of
from docora_ops.links import Outcome
from docora_ops.operations import HistoryEntry, HistoryState
from docora_ops.render.columns import Column, cell, words
from docora_ops.text import amount, inert


def history(
    typer_context: typer.Context,
    limit: options.Limit = 20,
    page: options.PageNumber = 1,
    since: options.Since = None,
    operation: options.OfOperation = None,
    app: Annotated[
        str | None,
        typer.Option(
            metavar="APP", help="Only changes with this app (id or name) among their options."
        ),
    ] = None,
    no_schedule: Annotated[
        bool, typer.Option("--no-schedule", help="Exclude the passes of schedule.")
    ] = False,
    as_json: options.Json = False,
    env_file: options.EnvFile = None,
) -> None:
    """Show who changed what, when and why, latest first.

    Leaves out passes of schedule that queued nothing. Only changes made with docora-ops are
    recorded, not those of the dashboard. A terminal shows one line per change, and one for
    consecutive passes of schedule, with times in UTC. A wide terminal also shows the reason and the
    operation.
    """
    context = context_of(typer_context)
    from docora_ops.actions.audit_history import history, now

    changes = history(
        context.docora,
        schedule=not no_schedule,
        folded=sys.stdout.isatty() and not as_json,
        since=since,
        operation_id=operation,
        app=app,
        page=page,
        limit=limit,
    )
    where, line = context.docora.redis_server, partial(_line, now(context.docora))
    context.show_page(changes, _COLUMNS, where, "change", line=line)


def result_of_change(entry: HistoryEntry, *, is_brief: bool = False) -> str:
    """Says how many links of a change had which outcome and result.

    Also says how many delivery records were deleted or marked, the state of a change that is not
    done, and the old URL of `set-url`.

    is_brief: for a line that may be cut; put the results first, omit delivery records and, if there
        are results, the outcomes of links that were put to work.
    """
    counts, results = dict(entry.counts), counted_results(entry.results)
    total, records = counts.pop("total", 0), counts.pop("deliveries_cleared", 0)
    if is_brief and results:
        counts = {name: count for name, count in counts.items() if name not in _PUT_TO_WORK}
    parts = [f"{count:,} {words(outcome)}" for outcome, count in counts.items()]
    if records and not is_brief:
        done = "marked" if entry.selection.get("update") else "deleted"
        parts.append(f"{amount(records, 'delivery record')} {done}")
    if old_url := entry.selection.get("old_url"):
        parts = [f"was {old_url}"]
    if entry.state is not HistoryState.DONE:
        is_cancelled = entry.state is HistoryState.CANCELLED
        end = stopped(entry.stopped_by, entry.cancelled_by) if is_cancelled else words(entry.state)
        parts = [f"{amount(total, 'link')}: {', '.join([*parts, end])}"]
    texts = (", ".join(parts), ", ".join(results))
    return "; ".join(filter(None, texts[::-1] if is_brief else texts))


def _line(now: datetime, entry: HistoryEntry, width: int) -> str:
    at = _clock(entry.started_at, now)
    last = _clock(entry.latest_at, entry.started_at)
    if "passes" in entry.counts and not at.endswith(last):
        at += f" to {last}"
    before = f"{at} {inert(entry.who)} "
    result = inert(result_of_change(entry, is_brief=True))
    after = f" → {result}" if result else ""
    room = max(_SHORTEST_COMMAND, width - len(before) - len(after))
    command = cell(command_line(entry.command, entry.selection))
    command.truncate(room, overflow="ellipsis")
    rest = (inert(text) for text in (entry.reason, entry.operation_id) if text)
    return "; ".join([f"{before}{command.plain}{after}", *rest])


def _clock(at: datetime, today: datetime) -> str:
    return f"{at:{'%H:%M' if at.date() == today.date() else '%Y-%m-%d %H:%M'}}"


_SHORTEST_COMMAND = 24  # characters
_PUT_TO_WORK = {outcome for outcome in Outcome if outcome.is_put_to_work}
_COLUMNS: Sequence[Column[HistoryEntry]] = (
    Column("When", lambda entry: entry.started_at),
    Column("Who", lambda entry: entry.who),
    Column("What", lambda entry: command_line(entry.command, entry.selection), folds=True),
    Column("Result", result_of_change),
    Column("Operation", lambda entry: entry.operation_id, left_out=1),
    Column("Reason", lambda entry: entry.reason),
)
