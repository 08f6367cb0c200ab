"""`retry` or `resync` of one link."""

from __future__ import annotations

from docora_ops.actions.belonging import require_servers_to_match
from docora_ops.actions.link_change import change_one
from docora_ops.actions.lookup import resolve_link
from docora_ops.actions.workers import count_workers, require_rq_for_front
from docora_ops.audit import describe_change
from docora_ops.cli.change import in_words, names_of, reset_in_words, sent_again
from docora_ops.cli.context import Context
from docora_ops.cli.exit_codes import ExitCode, gravest
from docora_ops.cli.terminal import Terminal
from docora_ops.database.link_rows import count_deliveries
from docora_ops.errors import ServerError
from docora_ops.interrupts import Stop
from docora_ops.links import Action, LinkResult, Outcome
from docora_ops.render import link_view
from docora_ops.text import amount


def change_link(
    context: Context,
    action: Action,
    app: str,
    repo: str,
    reason: str | None,
    terminal: Terminal | None = None,
    *,
    front: bool = False,
    reset_circuit: bool = False,
    update: bool = False,
) -> int:
    """Asks at the terminal, changes the link and shows the result. Returns the exit code."""
    database = context.docora.database
    if front:
        require_rq_for_front(context.docora)
    with database.snapshot():  # one transaction, instead of one for each statement
        link = resolve_link(database, app, repo)
    workers = count_workers(context.docora, to_change=True)
    require_servers_to_match(database, context.docora.queue)
    if terminal is not None:
        files = amount(count_deliveries(database, [link.ref]), "file")
        above = [] if update else [link_view.forgotten(is_planned=True)]
        context.tell()
        terminal.ask(
            f"{context.docora.servers}: send {link.payload.app_name} {files} of "
            f"{link.payload.repository_name} {sent_again(update=update)} the delivery records, "
            f"{reset_in_words(context, 'the link', 'its snapshot job')}"
            f"{in_words(front=front, reset_circuit=reset_circuit)})?",
            *above,
        )
    change = describe_change(
        action, reason, **names_of(link), front=front, reset_circuit=reset_circuit, update=update
    )
    result = change_one(
        database,
        context.docora.queue,
        action,
        link.ref,
        front=front,
        reset_circuit=reset_circuit,
        update=update,
        dry_run=context.dry_run,
        change=change,
    )
    _show(context, result, workers)
    if front and result.outcome is Outcome.ALREADY_QUEUED:
        context.say("The job was waiting already and keeps its place: --front moves no job.")
    return _wait(context, result, workers) if context.wait else ExitCode.OK


def _show(context: Context, result: LinkResult, workers: int) -> None:
    if not context.as_json:
        context.show_tables([link_view.result_screen(result)], is_last=not context.wait)
        if result.deliveries_cleared and not result.update:
            context.say(link_view.forgotten(is_planned=result.dry_run))
        if result.dry_run:
            context.say("Dry run: nothing was changed.")
        else:
            context.say(f"{context.docora.servers}: {link_view.message(result, workers)}.")
    elif not context.wait:
        context.show_document(link_view.link_data(result, workers))
    if result.audit_error:
        context.warn(
            "Warning: the change was made, but history shows it as not finished: "
            f"{result.audit_error}"
        )


def _wait(context: Context, result: LinkResult, workers: int) -> int:
    from docora_ops.actions.following import wait_for_link
    from docora_ops.cli.wait import await_link, end_wait

    link, stop = result.link, Stop()
    steps = wait_for_link(context.docora, link, result.outcome, workers, timeout=context.timeout)
    try:
        step = await_link(context, steps, stop, "1 snapshot")
    except ServerError as error:
        if context.as_json:
            context.show_document(link_view.link_data(result, workers), error)
        return context.report(error, next_step="the job goes on")
    if context.as_json:
        context.show_document(link_view.link_data(result, workers, step.end))
    else:
        context.show_tables([link_view.wait_screen(step.end)], is_last=not stop.requested)
    return gravest(end_wait(context, step.wait, link.ref.words, interrupted=stop.requested))
