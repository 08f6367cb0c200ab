"""`retry-all-failed`."""

from __future__ import annotations

from typing import Annotated

import typer

from docora_ops import actions
from docora_ops.cli import options
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
        int | None,
        typer.Option(metavar="N", min=1, help="Retry at most N links, spread evenly across apps."),
    ] = None,
    front: options.Front = False,
    reset_circuit: options.ResetCircuit = False,
    in_flight: options.InFlight = None,
    max_failures: options.FailureLimit = None,
    wait: options.Wait = False,
    timeout: options.Timeout = None,
    dry_run: options.DryRun = False,
    yes: options.Yes = False,
    reason: options.Reason = None,
    as_json: options.Json = False,
    env_file: options.EnvFile = None,
) -> int:
    """Retry all failed links as one bulk operation.

    Links are queued round-robin across apps. If the command is killed, run it again to finish the
    rest.
    """
    context = context_of(typer_context)
    if reset_circuit and circuit is options.Circuit.CLOSED:
        raise UsageError(
            "--reset-circuit and --circuit closed can't be combined",
            hint="remove one of them",
        )
    terminal = terminal_to_ask(skip=yes or dry_run)
    from docora_ops.cli.bulk_command import run_bulk

    choice = options.link_choice(typer_context)
    bulk = options.change_options(typer_context)
    by_prefix = dry_run or terminal is not None
    events = actions.retry_all_failed(
        context.docora, choice, bulk, limit=limit, by_prefix=by_prefix, reason=reason
    )
    return run_bulk(context, events, bulk, terminal)
