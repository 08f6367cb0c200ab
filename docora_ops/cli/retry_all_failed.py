"""`retry-all-failed`."""

from __future__ import annotations

from typing import Annotated

import typer

from docora_ops.audit import describe_change
from docora_ops.cli import options
from docora_ops.cli.change import reset_in_words
from docora_ops.cli.context import context_of
from docora_ops.cli.terminal import terminal_to_ask
from docora_ops.errors import UsageError


def retry_all_failed(
    typer_context: typer.Context,
    app: options.Apps = None,
    exclude_app: options.ExcludeApps = None,
    repo: options.Repositories = None,
    error: options.Errors = None,
    exclude_error: options.ExcludeErrors = None,
    no_error: options.NoError = False,
    circuit: options.CircuitFilter = None,
    limit: Annotated[
        int | None, options.number(10**9, "At most so many links, spread over the apps.")
    ] = None,
    skip_open_circuits: Annotated[
        bool,
        typer.Option(
            "--skip-open-circuits", help="Leave out repositories whose circuit breaker is open."
        ),
    ] = False,
    front: options.Front = False,
    reset_circuit: options.ResetCircuit = False,
    batch_size: Annotated[
        int, options.number(1000, "Links that are locked, queued and committed together.")
    ] = 500,
    reason: options.Reason = None,
    in_flight: options.InFlight = None,
    max_failures: options.FailureLimit = None,
    wait: options.Wait = False,
    timeout: options.Timeout = None,
    dry_run: options.DryRun = False,
    yes: options.Yes = False,
    as_json: options.Json = False,
) -> int:
    """Put every failed link back to work, as one bulk operation.

    Apps take turns: one link of each app, then a second one of each, and so on. So no app waits
    for the whole of another, and a few links, with `--limit`, show how all of them would fare. If
    the command is killed, run it again: it finishes the rest.
    """
    context = context_of(typer_context)
    excluded = "--circuit open" if circuit else "--reset-circuit" if reset_circuit else None
    if excluded and skip_open_circuits:
        raise UsageError(
            f"{excluded} and --skip-open-circuits exclude each other",
            hint="leave out one of them",
        )
    if front:
        from docora_ops.actions.workers import require_rq_for_front

        require_rq_for_front(context.docora)
    terminal = terminal_to_ask(skip=yes or dry_run)
    from docora_ops.actions.lookup import choose_links
    from docora_ops.cli.bulk_command import BulkCommand, BulkOptions, links_of
    from docora_ops.database.selection import select_failed
    from docora_ops.links import Action

    by_prefix = dry_run or terminal is not None
    chosen = choose_links(context.docora, options.link_choice(typer_context), by_prefix=by_prefix)
    bulk = BulkOptions(front, reset_circuit, in_flight, max_failures)
    change = describe_change(
        "retry-all-failed",
        reason,
        **chosen.recorded,
        limit=limit,
        skip_open_circuits=skip_open_circuits,
        **bulk.recorded,
    )
    selection = select_failed(
        context.docora.database,
        chosen.which,
        limit=limit,
        skip_open_circuits=skip_open_circuits or bulk.must_skip_open_circuits(context),
        or_held_back=context.docora.queue.is_docoras,
    )
    reset = reset_in_words(context, links_of(selection), "their snapshot jobs")
    question = f"{reset}{bulk.words}"
    command = BulkCommand(context, Action.RETRY, selection, change, batch_size, bulk)
    return command.run(question, terminal)
