"""`retry` or `resync` of one link."""

from __future__ import annotations

from docora_ops.actions.belonging import require_servers_to_match
from docora_ops.actions.link_change import LinkChange
from docora_ops.actions.lookup import resolve_link
from docora_ops.cli.change import (
    describe_change,
    in_words,
    names_of,
    reset_in_words,
    sent_again,
)
from docora_ops.cli.context import Context
from docora_ops.cli.exit_codes import ExitCode, gravest
from docora_ops.cli.terminal import Terminal
from docora_ops.database.link_rows import count_deliveries
from docora_ops.errors import ServerError
from docora_ops.links import Action, LinkResult
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
    database = context.database
    if front:
        context.require_rq_for_front()
    with database.transaction():  # one, instead of one for each statement
        link = resolve_link(database, app, repo)
    workers = context.count_workers(to_change=True)
    require_servers_to_match(database, context.queue)
    if terminal is not None:
        files = amount(count_deliveries(database, [link.ref]), "file")
        above = [] if update else [link_view.forgotten(is_planned=True)]
        terminal.ask(
            f"{context.servers}: send {link.payload.app_name} {files} of "
            f"{link.payload.repository_name} {sent_again(update=update)} the delivery records, "
            f"{reset_in_words(context, 'the link', 'its snapshot job')}"
            f"{in_words(front=front, reset_circuit=reset_circuit)})?",
            *above,
        )
    change = describe_change(
        action, reason, **names_of(link), front=front, reset_circuit=reset_circuit, update=update
    )
    dry_run = context.dry_run
    result = LinkChange(
        action, database, context.queue, link.ref, front, reset_circuit, dry_run, change, update
    ).make()
    _show(context, result, workers)
    return _wait(context, result, workers) if context.wait else ExitCode.OK


def _show(context: Context, result: LinkResult, workers: int) -> None:
    if not context.as_json:
        context.show_tables([link_view.result_screen(result)], is_last=not context.wait)
        if result.deliveries_cleared and not result.update:
            context.say(link_view.forgotten(is_planned=result.dry_run))
        if result.dry_run:
            context.say("Dry run: nothing was changed.")
        else:
            context.say(f"{context.servers}: {link_view.message(result, workers)}.")
    elif not context.wait:
        context.show_document(link_view.link_data(result, workers))
    if result.audit_error:
        context.warn(
            "Warning: the change was made, but history shows it as not finished: "
            f"{result.audit_error}"
        )


def _wait(context: Context, result: LinkResult, workers: int) -> int:
    from docora_ops.actions.waiting.follow import Following, wait_for_one
    from docora_ops.cli.waiting import end_wait, waiting

    ref = result.link.ref
    following = Following(context.database, context.queue, grace=context.settings.drift_grace)
    following.add(ref, result.outcome)
    try:
        with waiting(context, following, workers, link=ref.words):
            waited = wait_for_one(following, ref, context.timeout)
    except ServerError as error:
        if context.as_json:
            context.show_document(link_view.link_data(result, workers), error)
        return context.report(error, next_step="the job goes on")
    interrupted = following.stop.requested
    if context.as_json:
        context.show_document(link_view.link_data(result, workers, waited))
    else:
        context.show_tables([link_view.wait_screen(waited)], is_last=not interrupted)
    return gravest(end_wait(context, following.result(), ref.words, interrupted=interrupted))
