"""`wait`, and the progress that commands with `--wait` show."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from docora_ops.cli import options
from docora_ops.cli.bulk_operations import RUNNER_IS_SILENT
from docora_ops.cli.completion import complete_app
from docora_ops.cli.context import Context, context_of
from docora_ops.cli.exit_codes import ExitCode, gravest
from docora_ops.cli.terminal import interrupted_code, is_interrupted, until_interrupted
from docora_ops.errors import ServerError, UsageError
from docora_ops.links import only_app
from docora_ops.operations import OperationState, WaitEnd
from docora_ops.text import amount, duration

if TYPE_CHECKING:
    from docora_ops.actions.waiting import LinkStep
    from docora_ops.links import LinkResult
    from docora_ops.operations import BulkWait, KnownOperation

_SAY_EACH = 60  # seconds between lines where no bar is shown: silence would look like a hang


def wait(
    typer_context: typer.Context,
    app: Annotated[
        str | None,
        typer.Argument(
            metavar="APP|OPERATION_ID",
            help="The app of a link (with REPO), or a bulk operation.",
            autocompletion=complete_app,
        ),
    ] = None,
    repo: options.OptionalRepo = None,
    timeout: options.Timeout = None,
    as_json: options.Json = False,
    env_file: options.EnvFile = None,
) -> int:
    """Wait for the snapshots of a link or of a bulk operation.

    Resumes an interrupted --wait, from any terminal. Without arguments, waits for the operation
    that is running. Changes no link and no job; stores the results with the operation. Returns at
    once for a link that is in sync, or that has failed and has no live job.
    """
    context = context_of(typer_context, waits=True)
    if app is None:
        from docora_ops.actions.bulk_operations import running_operation

        app = running_operation(context.docora).operation_id
    if app.startswith("bulk_") and repo is None:
        return _wait_for_operation(context, app)
    if repo is None or app.startswith("bulk_"):
        raise UsageError(
            "wait takes APP and REPO, or the id of an operation alone",
            hint="docora-ops wait APP REPO, or docora-ops wait bulk_…: see docora-ops operations",
        )
    from docora_ops.actions.waiting import wait

    return wait_for_link(context, wait(context.docora, app, repo, timeout=timeout))


def wait_for_link(
    context: Context, steps: Generator[LinkStep], change: LinkResult | None = None
) -> int:
    """Waits for the snapshot of a link, and shows its result. Returns the exit code.

    change: what the command has changed before the wait; None for `wait`.
    """
    from docora_ops.cli.one_link import link_data, wait_screen

    events = until_interrupted(steps)
    try:
        step = next(events)  # from here on, a signal ends only the wait
        link = step.link
        if step.wait.unfinished:
            with showing_wait(context, "1 snapshot", step.wait) as show:
                for step in events:
                    show(step.wait)
    except ServerError as error:
        if change and context.as_json:
            context.show_document(link_data(change, change.workers), error)
        return context.report(error, next_step="the job goes on")
    events.close()  # from here on, a signal ends the command
    if context.as_json:
        context.show_document(link_data(change or link, step.workers, step.end))
    else:
        context.show_tables([wait_screen(step.end, None if change else link)])
    if step.end.result is WaitEnd.FAILED:
        context.say(f"For details: docora-ops show {link.ref.words}")
    return gravest(end_wait(context, step.wait, link.ref.words, link.ref.words))


def _wait_for_operation(context: Context, operation_id: str) -> int:
    from docora_ops.actions.waiting import wait_for_operation
    from docora_ops.cli.bulk_operations import operation_data, operation_screens
    from docora_ops.cli.bulk_view import wait_screens

    steps = wait_for_operation(context.docora, operation_id, timeout=context.options.timeout)
    lost, events = None, until_interrupted(steps)
    step = next(events)
    try:
        with showing_wait(context, f"the snapshots of operation {operation_id}") as show:
            for step in events:
                show(step.wait, step.left if step.goes_on else 0)
    except ServerError as error:
        lost = error
    operation, waited = step.operation, step.wait
    if waited.total and not (operation.results and not operation.results.unfinished):
        operation = replace(operation, results=waited.results)
    if context.as_json:
        context.show_document(operation_data(operation, waited), lost)
    else:
        screens = [*operation_screens(operation), *wait_screens(waited)]
        context.show_tables(screens)
    if lost:
        return context.report(lost, next_step="the jobs go on")
    codes = end_wait(context, waited, operation_id, only_app(_apps_of(operation)))
    if step.goes_on:
        codes.add(interrupted_code() if is_interrupted() else ExitCode.TIMED_OUT)
        context.warn(f"The operation goes on: {amount(step.left, 'link')} not queued yet.")
    elif operation.state is OperationState.OWNER_GONE:
        context.warn(RUNNER_IS_SILENT)
    elif step.left:
        done = f"The operation was stopped after {operation.completed} of {operation.total} links"
        context.warn(f"{done}. To finish the rest, run its command again.")
    if operation.not_queued or (step.left and not step.goes_on):
        codes.add(ExitCode.PROBLEMS)
    return gravest(codes)


@contextmanager
def showing_wait(
    context: Context, awaited: str, wait: BulkWait | None = None
) -> Iterator[Callable[..., None]]:
    """Says what is awaited, and shows the progress. Yields a function that updates the progress.

    The function takes the results so far, the number of links that are not queued yet, and the
    number of links that may be in flight now.
    """
    from docora_ops.cli.bulk_view import wait_counts
    from docora_ops.render.console import may_animate, progress_bar

    at_most = f", {duration(context.options.timeout)} at most" if context.options.timeout else ""
    context.say(f"Waiting for {awaited}{at_most}.")
    is_animated, said_at = may_animate(sys.stderr), time.monotonic()
    first = wait_counts(wait) if wait else "looking"
    with progress_bar(wait.total if wait else None, first) as move:

        def show(wait: BulkWait, left: int = 0, limit: int | None = None) -> None:
            nonlocal said_at
            context.tell()
            text = wait_counts(wait, left, limit)
            move(wait.total - wait.unfinished, text, wait.total + left)
            if not is_animated and time.monotonic() - said_at >= _SAY_EACH:
                said_at = time.monotonic()
                context.say(f"{text}.")

        yield show


def _apps_of(operation: KnownOperation) -> list[str]:
    """Returns the apps to which the operation was restricted; empty if it was not."""
    app_id, names = operation.selection.get("app_id"), operation.selection.get("app")
    return [app_id] if isinstance(app_id, str) else names if isinstance(names, list) else []


def end_wait(context: Context, wait: BulkWait, awaited: str, to_verify: str = "") -> set[ExitCode]:
    """Says how many results are missing, and what to run next. Returns all exit codes that apply.

    awaited: the arguments of `wait` that name the link or the operation.
    to_verify: the arguments of `verify` that name the link or the app; empty for all links.
    """
    codes, interrupted = {ExitCode.OK}, is_interrupted()
    if wait.failed:
        codes.add(ExitCode.SNAPSHOT_FAILED)
    if wait.gone:
        codes.add(ExitCode.PROBLEMS)
    if wait.only_lost_left and not interrupted:
        codes.add(ExitCode.PROBLEMS)
        again = "" if awaited.startswith("bulk_") else f" {awaited}"
        lost = f"No live job for {amount(wait.unfinished, 'link')}"
        context.warn(f"{lost}. To queue again: docora-ops repair{again}")
    elif wait.unfinished:
        codes.add(interrupted_code() if interrupted else ExitCode.TIMED_OUT)
        end = "No longer waiting" if interrupted else "Time ran out"
        left = amount(wait.unfinished, "result")
        context.warn(f"{end}; {left} still to come. To go on waiting: docora-ops wait {awaited}")
    if wait.synced and not interrupted:
        verify = f"docora-ops verify {to_verify}".rstrip()
        context.say(f"For proof, compare what was delivered: {verify}")
    return codes
