"""What all commands that change links have in common: the question, progress, results, `--wait`."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import typer

from docora_ops.cli.context import Context, context_of
from docora_ops.cli.output import (
    Column,
    Pairs,
    Part,
    Table,
    console_of,
    may_animate,
    render,
    style_of,
)
from docora_ops.cli.terminal import (
    confirm,
    finishing_first,
    interruption,
    is_interrupted,
    terminal_to_ask,
)
from docora_ops.errors import ExitCode, ServerError, UsageError
from docora_ops.links import RESUME_RQ, Backend, Change, Link, Outcome, State
from docora_ops.text import amount, duration

if TYPE_CHECKING:
    from datetime import datetime

    from docora_ops.actions.changes import Batch
    from docora_ops.actions.waiting import Wait
    from docora_ops.queue.operations import Operation

_SHOWN = 20  # rows of a list on a terminal
_SAY_EACH = 60  # seconds between lines where no bar is shown: silence would look like a hang
_GRAVEST_FIRST = (
    ExitCode.HUNG_UP,
    ExitCode.INTERRUPTED,
    ExitCode.SNAPSHOT_FAILED,
    ExitCode.PROBLEMS,
    ExitCode.TIMED_OUT,
    ExitCode.OK,
)

FAILURES = (
    Column[Any]("App", lambda failure: failure.app_name, drop=1),
    Column[Any]("Repository", lambda failure: failure.repository_name),
    Column[Any]("Job id", lambda failure: failure.job_id, drop=2),
    Column[Any]("Error", lambda failure: failure.error_message, folds=True),
)
_PLANNED = (
    Column[Outcome]("Link", lambda outcome: outcome.link and outcome.link.link_name),
    Column[Outcome]("Outcome", lambda outcome: words(outcome.state), lambda o: style_of(o.state)),
    Column[Outcome]("Why", lambda outcome: outcome.detail, folds=True),
)


def words(name: str) -> str:
    """Returns a name from JSON in words."""
    return name.replace("_", " ")


def ask(context: Context, question: str, above: Sequence[Part], *, needs_yes: bool = False) -> None:
    """Asks for confirmation wherever a terminal can answer. Without one, goes on.

    needs_yes: without a terminal, raise UsageError instead, because `--yes` is missing.

    Raises CommandInterruptedError unless the answer is yes.
    """
    terminal = terminal_to_ask()
    if terminal is not None:
        context.tell()
        confirm(terminal, f"{context.docora.servers}: {question}?", render(above))
    elif needs_yes:
        raise UsageError(
            f"this would {question}, and there is no terminal to confirm that",
            hint="add --yes to skip the confirmation",
        )


def show_single(
    context: Context,
    message: str,
    outcome: Outcome,
    operation: Operation | None,
    *,
    wait: bool = False,
    timeout: int | None = None,
) -> ExitCode:
    """Shows the outcome of one link and, with `wait`, that of its snapshot.

    operation: None for a dry run.
    """
    link = outcome.link
    assert link is not None  # noqa: S101 - single changes raise errors instead
    waited = None
    if wait and operation and outcome.state.is_awaited:
        if outcome.detail:
            context.warn(f"{link.link_name}: {outcome.detail}.")
        waited, code = _wait(context, [outcome.id], timeout)
    else:
        code = ExitCode.OK
    dry_run = operation is None
    data = {
        "message": "Dry run" if dry_run else message,
        "job_id": link.job_id,
        "state": outcome.state,
        "detail": outcome.detail,
        "link": link,
        "operation_id": operation.operation_id if operation else None,
        "dry_run": dry_run,
        "wait": waited,
    }
    rows: list[tuple[str, object] | tuple[str, object, str | None]] = [
        ("Link", link.link_name),
        ("Job id", link.job_id),
        ("Outcome", words(outcome.state), style_of(outcome.state)),
        ("Why", outcome.detail),
        ("Was", f"{words(link.status)}, {amount(link.retry_count, 'failed try', 'failed tries')}"),
        ("Error", link.error_message),
        ("Operation", operation.operation_id if operation else None),
    ]
    parts: list[Part] = [Pairs([row for row in rows if row[1]])]
    context.show(data, parts + (["", *_wait_parts(waited)] if waited else []))
    done = "dry run, nothing was changed" if dry_run else message
    context.say(f"{context.docora.servers}: {done}.")
    if operation and not wait and sys.stderr.isatty() and outcome.state.is_put_to_work:
        follow = f"docora-ops operations {operation.operation_id} --follow"
        context.say(f"To wait for the snapshot: {follow}")
    return code


def change_in_bulk(
    typer_context: typer.Context,
    change: Change,
    ids: Sequence[str],
    *,
    confirm: Callable[[], None],
    target: str,
    message: str,
    looked_at: datetime | None = None,
) -> ExitCode:
    """Changes links as `--dry-run`, `--yes`, `--reason`, `--wait` and `--timeout` say.

    ids: row ids.
    confirm: asks the question, unless `--yes` is given.
    target: the links in words, for the record.
    message: what has begun, in Docora's own words.
    looked_at: as in `LinkQueue.push`.
    """
    from docora_ops.actions.changes import change_links, new_operation, run_bulk

    context, chosen = context_of(typer_context), typer_context.params
    docora, nothing = context.docora, f"Nothing to {change.action}"
    if chosen["dry_run"]:
        batches = change_links(docora, change, ids, dry_run=True)
        return show_plan(context, [outcome for batch in batches for outcome in batch], nothing)
    if not ids:
        context.show({"message": nothing, "operation_id": None, "total": 0}, [nothing])
        return ExitCode.OK
    if not chosen["yes"]:
        confirm()
    operation = new_operation(docora, change.action, target, reason=chosen["reason"])
    events = run_bulk(docora, change, ids, operation, looked_at=looked_at)
    return _run_bulk(context, events, message, wait=chosen["wait"], timeout=chosen["timeout"])


def show_plan(context: Context, outcomes: Sequence[Outcome], message: str) -> ExitCode:
    """Shows what a change would do, link by link."""
    states = Counter(outcome.state.value for outcome in outcomes)
    data = {
        "message": "Dry run" if outcomes else message,
        "dry_run": True,
        "total": len(outcomes),
        "states": states,
        "links": outcomes,
    }
    parts: list[Part] = [_counts(states)]
    if outcomes:
        parts += ["", Table(_PLANNED, outcomes, _SHOWN)]
    context.show(data, parts if outcomes else [message])
    context.say(f"{context.docora.servers}: dry run, nothing was changed.")
    has_problem = any(outcome.state is State.NOT_QUEUED for outcome in outcomes)
    return ExitCode.PROBLEMS if has_problem else ExitCode.OK


def _run_bulk(
    context: Context,
    events: Generator[Batch],
    message: str,
    *,
    wait: bool,
    timeout: int | None,
) -> ExitCode:
    """Carries out a bulk operation with progress, and shows the result.

    The first signal ends the operation after its current batch, a second one at once. If a server
    is lost, says how far the operation came.
    """
    awaited, held_back = list[str](), 0
    by_app: Counter[str] = Counter()
    operation = None
    stopping = "Stopping after the current batch. A second signal stops at once."
    with closing(events), finishing_first(stopping):
        try:
            operation = next(events).operation
            begun = f"operation {operation.operation_id}, {amount(operation.total, 'link')}"
            context.say(f"{context.docora.servers}: {begun}.")
            with progress_bar(operation.total, words(operation.action)) as move:
                for batch in events:
                    operation = batch.operation
                    for outcome in batch.outcomes:
                        if outcome.link:
                            by_app[outcome.link.app_name] += 1
                        held_back += outcome.state is State.RESET and bool(outcome.detail)
                        if wait and outcome.state.is_awaited:
                            awaited.append(outcome.id)
                    move(operation.completed, None)
                    if is_interrupted() and operation.completed < operation.total:
                        operation = operation.stopped()
                        break
        except ServerError as error:
            if operation is not None:
                error.details = {**error.details, **_document(operation.stopped())}
                error.hint = f"{_stopped(operation)}; {error.hint}"
            raise
    if held_back:
        context.warn(
            f"Docora's scheduler waits for the open circuits of {amount(held_back, 'link')}"
            + ("." if operation.action == "repair" else ": --reset-circuit closes them.")
        )
    code, waited = ExitCode.OK, None
    if operation.failed or operation.cancelled:
        code = ExitCode.PROBLEMS
    if is_interrupted():
        code = interruption().exit_code
    elif wait and awaited:
        waited, wait_code = _wait(context, awaited, timeout)
        code = gravest(code, wait_code)
    parts: list[Part] = [_counts(operation.states)]
    if len(by_app) > 1:
        apps = [Column[tuple[str, int]]("App", lambda row: row[0])]
        apps.append(Column[tuple[str, int]]("Links", lambda row: row[1], is_number=True))
        parts += ["", Table(apps, by_app.most_common(), _SHOWN)]
    if operation.failures:
        parts += ["", Table(FAILURES, operation.failures, _SHOWN)]
    data = {"message": message, **_document(operation), "dry_run": False, "wait": waited}
    context.show(data, parts + (["", *_wait_parts(waited)] if waited else []))
    if operation.completed < operation.total:
        context.warn(f"{_stopped(operation)}.")
    elif operation.total and not wait and sys.stderr.isatty():
        follow = f"docora-ops operations {operation.operation_id} --follow"
        context.say(f"To wait for the snapshots: {follow}")
    return code


def _document(operation: Operation) -> dict[str, object]:
    return dict(vars(operation))


def _stopped(operation: Operation) -> str:
    done = f"{operation.completed:,} of {amount(operation.total, 'link')}"
    rest = "the same command finishes the rest"
    if operation.action == "resync":
        rest = "a resync that is run again sends the first links once more"
    return f"stopped after {done}: {rest}"


def gravest(*codes: ExitCode) -> ExitCode:
    """Returns the most important of the exit codes that apply to a command."""
    return next(code for code in _GRAVEST_FIRST if code in codes)


def show_wait(context: Context, events: Generator[Wait], data: dict[str, object]) -> ExitCode:
    """Waits with a bar, then shows the results, in JSON together with `data`."""
    waited, code = _follow(context, events)
    context.show(data | {"wait": waited}, _wait_parts(waited))
    return code


def _wait(context: Context, ids: Sequence[str], timeout: int | None) -> tuple[Wait, ExitCode]:
    from docora_ops.actions.waiting import wait_for

    return _follow(context, wait_for(context.docora, ids, timeout))


def _follow(context: Context, events: Generator[Wait]) -> tuple[Wait, ExitCode]:
    """Shows how the wait goes on. The first signal ends it; the jobs go on."""
    wait = None
    said: set[str] = set()
    codes = [ExitCode.OK]
    said_at = time.monotonic()
    with (
        closing(events),
        finishing_first("No longer waiting; the jobs go on."),
        progress_bar(1, "waiting for the snapshots") as move,
    ):
        for wait in events:
            why = _why_not(context, wait)
            if why and wait.unfinished and why not in said:
                said.add(why)
                context.warn(why)
            move(wait.total - wait.unfinished, wait.total)
            if not may_animate(sys.stderr) and time.monotonic() - said_at > _SAY_EACH:
                said_at = time.monotonic()
                context.say(f"{_counted(wait)}, after {duration(wait.seconds)}.")
            if is_interrupted():
                codes.append(interruption().exit_code)
                break
    assert wait is not None  # noqa: S101 - the first look always yields
    if wait.failed or wait.lost:
        codes.append(ExitCode.SNAPSHOT_FAILED)
    if wait.timed_out:
        codes.append(ExitCode.TIMED_OUT)
    return wait, gravest(*codes)


def _why_not(context: Context, wait: Wait) -> str:
    is_rq = context.docora.queue.backend is Backend.RQ
    if wait.is_suspended:
        how = f" until {RESUME_RQ}" if is_rq else ""
        return f"The workers are suspended: the jobs wait{how}."
    if not wait.has_workers:
        start = "docora-ops worker" if is_rq else "Docora's own, RUN_MODE=all or worker"
        return f"No worker is running: the jobs wait until one starts ({start})."
    return ""


def _counted(wait: Wait) -> str:
    counts = {
        "synced": wait.synced,
        "failed": wait.failed,
        "lost": wait.lost,
        "deleted": wait.gone,
        "without a result yet": wait.unfinished,
    }
    return ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)


def _wait_parts(wait: Wait) -> list[Part]:
    parts: list[Part] = [f"{_counted(wait)}, after {duration(wait.seconds)}"]
    if wait.failures:
        parts += ["", Table(FAILURES, wait.failures, _SHOWN)]
    return parts


def _counts(states: Mapping[str, int]) -> Part:
    return Pairs([(words(name), count, style_of(name)) for name, count in states.items()])


def by_app(context: Context, ids: Sequence[str]) -> Table[tuple[str, str, int]]:
    """Returns the number of links of each app, to be shown above a question."""
    from docora_ops.actions.lists import count_by_app

    columns = (
        Column[tuple[str, str, int]]("App", lambda row: row[1]),
        Column[tuple[str, str, int]]("App id", lambda row: row[0], drop=1),
        Column[tuple[str, str, int]]("Links", lambda row: row[2], is_number=True),
    )
    return Table(columns, count_by_app(context.docora, ids), _SHOWN)


def queues_in_words(context: Context, count: int, link: Link | None = None) -> str:
    """Returns the part of a question that says what happens to links and their jobs."""
    links = link.link_name if link else amount(count, "link")
    if context.docora.queue.backend is Backend.BULLMQ:
        return f"reset {links}, so that Docora's scheduler queues {'it' if count == 1 else 'them'}"
    jobs = "its snapshot job" if count == 1 else "a snapshot job for each"
    return f"reset {links} and queue {jobs}"


@contextmanager
def progress_bar(total: int, description: str) -> Iterator[Callable[[int, int | None], None]]:
    """Shows a progress bar if stderr is a terminal. Yields a function that moves it.

    The function takes the number of links done and, optionally, a new total.
    """
    if not may_animate(sys.stderr):
        yield lambda *_: None
        return
    from rich import progress as rich  # not needed by commands that show no bar

    columns = (
        rich.TextColumn("{task.description}"),
        rich.BarColumn(20),
        rich.MofNCompleteColumn(),
        rich.TimeElapsedColumn(),
    )
    with rich.Progress(
        *columns, console=console_of(sys.stderr), redirect_stdout=False, redirect_stderr=False
    ) as progress:
        task = progress.add_task(description, total=total)

        def move(done: int, new_total: int | None) -> None:
            progress.update(task, completed=done, total=new_total or total)

        yield move
