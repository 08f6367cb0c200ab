"""`wait`, and how commands with `--wait` show how far the snapshots are."""

from __future__ import annotations

import sys
import textwrap
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from docora_ops import actions
from docora_ops.bulk import OperationState
from docora_ops.cli import options
from docora_ops.cli.completion import complete_app_or_operation
from docora_ops.cli.context import Context, context_of
from docora_ops.cli.exit_codes import ExitCode, gravest
from docora_ops.cli.operations import RUNNER_IS_SILENT
from docora_ops.cli.signals import interrupted_code, until_stopped
from docora_ops.errors import ServerError, UsageError
from docora_ops.interrupts import Stop
from docora_ops.jobs import Backend
from docora_ops.text import amount

if TYPE_CHECKING:
    from docora_ops.actions import LinkStep, OperationStep
    from docora_ops.waits import BulkWait

_BLANK = "\x1f"  # stands for a blank within a part
_LEAST_WIDTH = 20
_SAY_EACH = 60  # seconds, where no bar can move: silence looks like a hang


def wait(
    typer_context: typer.Context,
    app: Annotated[
        str,
        typer.Argument(
            metavar="APP|OPERATION_ID",
            parser=options.checked_text,
            help="The app of a link (with REPO), or a bulk operation.",
            autocompletion=complete_app_or_operation,
        ),
    ],
    repo: options.OptionalRepo = None,
    timeout: options.Timeout = None,
    as_json: options.Json = False,
    env_file: options.EnvFile = None,
) -> int:
    """Wait for the snapshots of a link or of a bulk operation.

    Resumes an interrupted --wait, from any terminal. Changes no link and no job; keeps the results
    with the operation. Returns at once for a link that is in sync, or that has failed and has no
    live job.
    """
    context = context_of(typer_context, waits=True)
    is_operation = app.startswith("bulk_")
    if repo is not None and is_operation:
        raise UsageError(
            "REPO can't be combined with an operation: the whole operation is waited for",
            hint=f"docora-ops wait {quote(app)}",
        )
    if repo is not None:
        return _wait_for_link(context, app, repo)
    if not is_operation:
        raise UsageError(
            f"{app[:100]!r} is not an operation id, and REPO is missing",
            hint="docora-ops wait APP REPO, or docora-ops wait bulk_…: see docora-ops operations",
        )
    return _wait_for_operation(context, app)


def _wait_for_link(context: Context, app: str, repo: str) -> int:
    from docora_ops.render.link_view import link_data, wait_screen

    steps, stop = actions.wait(context.docora, app, repo, timeout=context.timeout), Stop()
    try:
        step = await_link(context, steps, stop)
    except ServerError as error:
        return context.report(error, next_step="the job goes on")
    link, words = step.link, step.link.ref.words
    context.show(link_data(link, step.workers, step.end), [wait_screen(step.end, link)])
    return gravest(end_wait(context, step.wait, words, interrupted=stop.requested))


def await_link(
    context: Context, steps: Generator[LinkStep], stop: Stop, what: str = ""
) -> LinkStep:
    """Shows the wait for one link, until it ends or a signal comes. Returns the last step.

    Raises what the wait raises.
    """
    context.collect_garbage()
    events = until_stopped(steps, stop)
    step = next(events)  # from here on, a signal ends the wait only
    what = what or f"the snapshot of {step.link.payload.link_name}"
    if step.wait.unfinished:
        with showing_wait(context, what, step.wait) as show:
            for step in events:
                show(step.wait)
    return step


def _wait_for_operation(context: Context, operation_id: str) -> int:
    context.collect_garbage()
    steps = actions.wait_for_operation(context.docora, operation_id, timeout=context.timeout)
    stop, lost = Stop(), None
    events = until_stopped(steps, stop)
    step = next(events)
    try:
        with showing_wait(context, f"the snapshots of operation {operation_id}") as show:
            for found in events:
                step = found
                show(step.wait, step.left if step.goes_on else 0)
    except ServerError as error:
        lost = error
    return _show_operation(context, step, lost, interrupted=stop.requested)


def _show_operation(
    context: Context, step: OperationStep, lost: ServerError | None, *, interrupted: bool
) -> int:
    """Shows the counts of the operation and the results of its snapshots."""
    from docora_ops.render.bulk_view import progress_data, progress_screens, wait_screens

    operation, waited = step.operation, step.wait
    if waited.total and not (operation.results and not operation.results.unfinished):
        operation = replace(operation, results=waited.results)
    shown = (operation, step.failures)
    if context.as_json:
        context.show_document(progress_data(*shown, waited), lost)
    else:
        found = chain(progress_screens(*shown), wait_screens(waited))
        context.show_tables(found, is_last=not (lost or interrupted))
    if lost:
        return context.report(lost, next_step="the jobs go on")
    operation_id = operation.operation_id
    codes = end_wait(context, waited, operation_id=operation_id, interrupted=interrupted)
    if step.goes_on:
        codes.add(interrupted_code() if interrupted else ExitCode.TIMED_OUT)
        context.warn(f"The operation goes on: docora-ops wait {quote(operation_id)}")
    elif operation.state is OperationState.OWNER_GONE:
        context.warn(RUNNER_IS_SILENT)
    elif step.left:
        done = f"The operation was stopped after {operation.completed} of {operation.total} links"
        context.warn(f"{done}. To finish the rest, run its command again.")
    if step.left or operation.not_queued:
        codes.add(ExitCode.PROBLEMS)
    return gravest(codes)


@contextmanager
def showing_wait(
    context: Context, what: str, wait: BulkWait | None = None
) -> Iterator[Callable[..., None]]:
    """Says that it waits for `what`, and how far it is. Yields a function that shows how far.

    The function takes the results so far, the number of links that are not queued yet, and of
    those that others have queued first.
    """
    from docora_ops.render.bulk_view import wait_progress
    from docora_ops.render.console import may_animate, progress_bar

    at_most = f", {context.timeout} s at most" if context.timeout else ""
    context.say(f"Waiting for {what}{at_most}.")
    is_animated, said_at = may_animate(sys.stderr), time.monotonic()
    first = _wrapped(wait_progress(wait, 0, 0), context) if wait else ""
    with progress_bar(context.err, wait.total if wait else None, first or "looking") as move:

        def show(wait: BulkWait, left: int = 0, taken_over: int = 0) -> None:
            nonlocal said_at
            context.tell()
            parts = wait_progress(wait, left, taken_over)
            move(wait.total - wait.unfinished, _wrapped(parts, context), wait.total + left)
            if not is_animated and time.monotonic() - said_at >= _SAY_EACH:
                said_at = time.monotonic()
                context.say(f"{', '.join(parts)}.")

        yield show


def _wrapped(parts: Sequence[str], context: Context) -> str:
    """Breaks the text beside a bar between its parts, not within one."""
    from docora_ops.render.console import BESIDE_TEXT

    text = ", ".join(part.replace(" ", _BLANK) for part in parts)
    width = max(context.err.width - BESIDE_TEXT, _LEAST_WIDTH)
    return textwrap.fill(text, width, break_on_hyphens=False).replace(_BLANK, " ")


def end_wait(
    context: Context,
    wait: BulkWait,
    link: str = "",
    operation_id: str | None = None,
    *,
    interrupted: bool,
) -> set[ExitCode]:
    """Says which results are missing. Returns every exit code that fits the wait.

    `link` or `operation_id`: what the command waits for.
    """
    codes = {ExitCode.OK}
    if wait.failed:
        codes.add(ExitCode.SNAPSHOT_FAILED)
    if wait.gone:
        codes.add(ExitCode.PROBLEMS)
    if wait.only_lost_left and not interrupted:
        codes.add(ExitCode.PROBLEMS)
        again = f"docora-ops repair {link}".rstrip()
        them = "it" if link else "them"
        lost = f"No live job for {amount(wait.unfinished, 'link')}"
        context.warn(f"{lost}. To queue {them} again: {again}")
    elif wait.unfinished:
        codes.add(interrupted_code() if interrupted else ExitCode.TIMED_OUT)
        end = "No longer waiting" if interrupted else "Time ran out"
        left = amount(wait.unfinished, "result")
        again = f"docora-ops wait {link or quote(operation_id or '')}"
        # Beside Docora's own workers, a link may wait for the scheduler without a job.
        backend = context.docora.backend
        is_known = backend.is_clear and backend.backend is Backend.RQ
        jobs = "The jobs go on; to wait for them" if is_known else "To go on waiting"
        context.warn(f"{end}; {left} still to come. {jobs}: {again}")
    return codes
