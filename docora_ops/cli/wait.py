"""`wait`."""

from __future__ import annotations

from itertools import chain
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from docora_ops.cli import options
from docora_ops.cli.change import describe_change
from docora_ops.cli.completers import complete_app_or_operation
from docora_ops.cli.context import Context, context_of
from docora_ops.cli.exit_codes import ExitCode, gravest
from docora_ops.cli.signals import interrupted_code
from docora_ops.errors import NotFoundError, ServerError, UsageError

if TYPE_CHECKING:
    from docora_ops.actions.waiting.operation import OperationWatch


def wait(
    typer_context: typer.Context,
    app: Annotated[
        str,
        typer.Argument(
            metavar="APP|OPERATION_ID",
            help="With REPO, the app of a link; alone, a bulk operation.",
            autocompletion=complete_app_or_operation,
        ),
    ],
    repo: options.OptionalRepo = None,
    timeout: options.Timeout = None,
    as_json: options.Json = False,
) -> int:
    """Wait for the snapshot of a link, or for all those of a bulk operation.

    Takes up a wait again that was ended, also from another terminal. Changes no link and no job,
    and keeps the results with the operation. For a link that is in sync, or that has failed and
    has no live job, the wait is over at once.
    """
    context = context_of(typer_context, waits=True)
    is_operation = app.startswith("bulk_")
    if repo is not None and is_operation:
        raise UsageError(
            "an operation is waited for as a whole, without a repository",
            hint=f"docora-ops wait {quote(app)}",
        )
    if repo is not None:
        return _wait_for_link(context, app, repo)
    if not is_operation:
        raise UsageError(
            f"{app[:100]!r} is not the id of an operation, and no repository is named",
            hint="docora-ops wait APP REPO, or docora-ops wait bulk_…: see docora-ops operations",
        )
    return _wait_for_operation(context, app)


def _wait_for_link(context: Context, app: str, repo: str) -> int:
    from docora_ops.actions.decision import invalid_job_id
    from docora_ops.actions.lookup import resolve_link
    from docora_ops.actions.waiting.follow import Following, wait_for_one
    from docora_ops.cli.waiting import end_wait, waiting
    from docora_ops.links import LinkStatus, Outcome
    from docora_ops.render.link_view import link_data, wait_screen
    from docora_ops.waits import LinkWait, WaitEnd

    link = resolve_link(context.database, app, repo)
    if not link.ref.has_valid_job_id:
        raise invalid_job_id(link.ref)
    workers = context.count_workers()
    following = Following(context.database, context.queue, grace=context.settings.drift_grace)
    if link.status == LinkStatus.SYNCED:  # a live job, if any, is a rescan
        waited = LinkWait(WaitEnd.SYNCED, link.status, None, 0)
    else:
        if context.queue.is_docoras and link.circuit_is_open:
            context.warn(
                f"Warning: {link.held_back}. To close it: docora-ops retry {link.ref.words} "
                "--reset-circuit"
            )
        following.add(link.ref, Outcome.ALREADY_RUNNING)
        try:
            what = f"the snapshot of {link.payload.link_name}"
            with waiting(context, following, workers, what, link=link.ref.words):
                waited = wait_for_one(following, link.ref, context.timeout)
        except ServerError as error:
            return context.report(error, next_step="the job goes on")
    context.show(link_data(link, workers, waited), [wait_screen(waited, link)])
    interrupted = following.stop.requested
    return gravest(end_wait(context, following.result(), link.ref.words, interrupted=interrupted))


def _wait_for_operation(context: Context, operation_id: str) -> int:
    from docora_ops.actions.waiting.follow import Following
    from docora_ops.actions.waiting.operation import OperationWatch
    from docora_ops.cli.waiting import keep_results, waiting
    from docora_ops.interrupts import Stop

    progress = context.store.read(operation_id)
    if not context.store.has_links(operation_id):
        raise NotFoundError(
            f"the links of operation {operation_id!r} are not known: Docora's dashboard runs it",
            hint=f"docora-ops progress {quote(operation_id)} --follow shows how far it is",
        )
    grace = context.settings.drift_grace
    following = Following(context.database, context.queue_to_read(), Stop(), grace)
    watch = OperationWatch(following, context.store, progress)
    lost: ServerError | None = None
    try:
        with waiting(
            context,
            following,
            context.count_workers(),
            f"the snapshots of operation {operation_id}",
            left=lambda: watch.left if watch.goes_on else 0,
        ):
            watch.look()
            following.run(context.timeout, watch.look)
    except ServerError as error:
        lost = error
    keep_results(context, lambda: watch.record_results(describe_change("wait", None)), lost)
    return _show_operation(context, watch, lost)


def _show_operation(context: Context, watch: OperationWatch, lost: ServerError | None) -> int:
    """Shows the counts of the operation and the results of its snapshots."""
    from docora_ops.bulk import OperationState
    from docora_ops.cli.operations import RUNNER_IS_SILENT
    from docora_ops.cli.waiting import end_wait
    from docora_ops.render.bulk_view import wait_screens
    from docora_ops.render.operation_view import progress_data, progress_screens

    following, progress = watch.following, watch.progress
    waited, interrupted = following.result(), following.stop.requested
    failures, failures_total = watch.failures, watch.failures_total
    if context.as_json:
        context.show_document(progress_data(progress, failures, failures_total, waited), lost)
    else:
        screens = progress_screens(progress, failures, failures_total)
        found = chain(screens, wait_screens(waited))
        context.show_tables(found, is_last=not (lost or interrupted))
    if lost:
        return context.report(lost, next_step="the jobs go on")
    codes = end_wait(context, waited, operation_id=progress.operation_id, interrupted=interrupted)
    if watch.goes_on:
        codes.add(interrupted_code() if interrupted else ExitCode.TIMED_OUT)
        context.warn(f"The operation goes on: docora-ops wait {quote(progress.operation_id)}")
    elif progress.state is OperationState.OWNER_GONE:
        context.warn(RUNNER_IS_SILENT)
    elif watch.left:
        done = f"The operation was stopped after {progress.completed} of {progress.total} links"
        context.warn(f"{done}. To finish the rest, run its command again.")
    if watch.left or progress.not_queued:
        codes.add(ExitCode.PROBLEMS)
    return gravest(codes)
