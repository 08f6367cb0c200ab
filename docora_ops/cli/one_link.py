"""`retry`, and the screens and JSON of a link that was retried, resynced or awaited."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial

import typer

from docora_ops.cli import options
from docora_ops.cli.context import Context, context_of
from docora_ops.cli.exit_codes import ExitCode
from docora_ops.cli.terminal import terminal_to_ask
from docora_ops.cli.waiting import wait_for_link
from docora_ops.errors import AppHeldError
from docora_ops.links import Action, Link, LinkResult, Outcome
from docora_ops.operations import ChangeOptions, LinkWait, WaitEnd
from docora_ops.render.columns import Pairs, cell, planned, style_of, words
from docora_ops.text import amount, duration, flat, moment


def retry(
    typer_context: typer.Context,
    app: options.App,
    repo: options.Repo,
    front: options.Front = False,
    now: options.Now = False,
    reset_circuit: options.ResetCircuit = False,
    reason: options.Reason = None,
    wait: options.Wait = False,
    timeout: options.Timeout = None,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
    env_file: options.EnvFile = None,
) -> int:
    """Retry one failed link.

    Resets the link and queues its snapshot job atomically. Keeps a live job. Replaces a stale job,
    and a job that is marked as waiting but missing from the queue. With RQ, queues the link even if
    the circuit of its repository is open.
    """
    context = context_of(typer_context)
    from docora_ops.actions.one_link import retry

    change = partial(retry, context.docora, app, repo, reason=reason)
    return show_change(context, _change_held(context, change))


def _change_held(context: Context, change: Callable[[ChangeOptions], LinkResult]) -> LinkResult:
    """Changes a link. If its app is held, asks at a terminal whether to exempt this one job.

    Without a terminal, or in a dry run, raises AppHeldError.
    """
    try:
        return change(context.options)
    except AppHeldError as error:
        terminal = None if context.options.dry_run else terminal_to_ask()
        if terminal is None:
            raise
        told = context.docora.notices
        context.tell()
        terminal.ask(f"{context.docora.servers}: {error.message}; exempt this one job?")
        try:
            return change(replace(context.options, now=True))
        finally:
            new = [notice for notice in context.docora.notices if notice not in told]
            context.docora.notices = new


def show_change(context: Context, result: LinkResult) -> int:
    """Shows the result of the change and, with `--wait`, of the snapshot. Returns the exit code."""
    if not context.as_json:
        context.show_tables([result_screen(result)])
        done = "dry run, nothing was changed" if result.dry_run else message(result)
        context.say(f"{context.docora.servers}: {done}.")
        if sys.stderr.isatty() and not (result.dry_run or context.options.wait):
            context.say(f"To wait for the result: docora-ops wait {result.link.ref.words}")
    elif not context.options.wait:
        context.show_document(link_data(result, result.workers))
    if context.options.front and result.outcome is Outcome.ALREADY_QUEUED:
        context.say("The job already waits and keeps its place: --front does not move it.")
    if not context.options.wait:
        return ExitCode.OK
    from docora_ops.actions.waiting import wait_for_change

    steps = wait_for_change(context.docora, result, timeout=context.options.timeout)
    return wait_for_link(context, steps, result)


@dataclass(frozen=True)
class LinkBefore:
    """The link as it was before the change."""

    status: str
    retry_count: int
    error_message: str | None


@dataclass(frozen=True)
class LinkData:
    """The result of `retry`, `resync` or `wait` for one link, by Docora's own names.

    outcome, previous, circuit_open_until: null for `wait`. The circuit is read after the change.
    circuit_reset: null without `--reset-circuit`.
    deliveries_cleared: how many delivery records were deleted or, with `--update`, marked; null
        for `retry` and `wait`.
    waited: null without `--wait`.
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
    worker_count: int
    waited: LinkWait | None


def link_data(result: LinkResult | Link, workers: int, wait: LinkWait | None = None) -> LinkData:
    """Returns the JSON data of a retry or a resync, or of the wait for a link."""
    link, changed = (result, None) if isinstance(result, Link) else (result.link, result)
    cleared = changed.deliveries_cleared if changed and changed.action is Action.RESYNC else None
    previous = LinkBefore(link.status, link.retry_count, link.error_message)
    return LinkData(
        **link.names,
        message=message(changed) if changed else "Snapshot awaited",
        dry_run=changed is not None and changed.dry_run,
        job_id=link.ref.job_id,
        outcome=changed.outcome if changed else None,
        previous=previous if changed else None,
        circuit_open_until=changed.circuit_open_until if changed else None,
        circuit_reset=changed.circuit_reset if changed else None,
        deliveries_cleared=cleared,
        worker_count=workers,
        waited=wait,
    )


def message(result: LinkResult) -> str:
    """Returns the result in a few words, if possible with the text of Docora's dashboard."""
    if result.dry_run:
        return "Dry run"
    if result.outcome is Outcome.ALREADY_RUNNING:
        return "Snapshot already running"
    if result.outcome is Outcome.RESET:
        return f"Link reset: Docora's scheduler queues it {result.queued_when}"
    if result.action is Action.RESYNC:
        return "Re-sync queued"
    return "Already queued" if result.outcome is Outcome.ALREADY_QUEUED else "Retry queued"


def kept_in_words(*, only_some: bool = False) -> str:
    """Says which files stay in the app after a resync without `--update`.

    only_some: the resync is restricted by `--path`.
    """
    files = "matching files" if only_some else "files"
    return f"Without --update, {files} that were deleted from the repository stay in the app."


def records_in_words(count: int, *, update: bool, is_planned: bool, only_some: bool = False) -> str:
    """Says what happens to `count` delivery records, and what is sent."""
    if only_some and not count:
        return "no delivery records yet: the snapshot sends these files"
    effect = f"deleted: {'these files are' if only_some else 'every file is'} sent again"
    if update:
        effect = "marked: files are sent as updates, or deletions if gone"
    return f"{amount(count, 'delivery record')} {'would be ' * is_planned}{effect}"


def result_screen(result: LinkResult) -> Pairs:
    """Shows the link as it was before, and the outcome."""
    link, outcome = result.link, planned(result.outcome, is_planned=result.dry_run)
    tries = f", {amount(link.retry_count, 'try', 'tries')} failed" if link.retry_count else ""
    rows = [
        ("App", cell(f"{link.payload.app_name} ({link.ref.app_id})")),
        ("Repository", cell(f"{link.payload.repository_name} ({link.ref.repository_id})")),
        ("Was", cell(f"{words(link.status)}{tries}")),
        ("Last error", cell(flat(link.error_message))),
        ("Outcome", cell(outcome, style_of(result.outcome))),
        ("Job", cell(link.ref.job_id)),
    ]
    if result.action is Action.RESYNC:
        cleared, update = result.deliveries_cleared, result.update
        records = records_in_words(
            cleared, update=update, is_planned=result.dry_run, only_some=result.path is not None
        )
        rows.append(("Files", cell(records)))
        if cleared and not update and not result.dry_run:
            rows.append(("", cell(kept_in_words(only_some=result.path is not None))))
    if link.circuit_is_open:
        circuit = f"open until {moment(link.circuit_open_until)}: only the scheduler waits for it"
        if result.circuit_reset:
            circuit = "would be closed" if result.dry_run else "closed"
        rows.append(("Circuit", cell(circuit, "yellow")))
    return Pairs([row for row in rows if row[1]], piped="Job")


_ENDS = {
    WaitEnd.SYNCED: "in sync",
    WaitEnd.FAILED: "failed again",
    WaitEnd.GONE: "the link is gone",
    WaitEnd.LOST: "the job is lost",
}


def wait_screen(wait: LinkWait, link: Link | None = None) -> Pairs:
    """Shows the result of a snapshot. If `link` is given, names the link first."""
    end = _ENDS.get(wait.result, f"still {words(wait.status or '')}")
    text = f"{end}, after {duration(wait.seconds)}"
    rows = [
        ("Link", cell(link.payload.link_name if link else "")),
        ("Result", cell(text, style_of(wait.result))),
        ("Error", cell(flat(wait.error_message))),
    ]
    return Pairs([row for row in rows if row[1]])
