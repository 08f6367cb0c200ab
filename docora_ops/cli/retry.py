"""`retry` and `retry-all-failed`."""

from typing import Annotated

import typer

from docora_ops import actions
from docora_ops.bulk import ChangeOptions
from docora_ops.cli import options
from docora_ops.cli.context import context_of
from docora_ops.cli.terminal import terminal_to_ask
from docora_ops.errors import UsageError


def retry(
    typer_context: typer.Context,
    app: options.App,
    repo: options.Repo,
    front: options.Front = False,
    reset_circuit: options.ResetCircuit = False,
    reason: options.Reason = None,
    wait: options.Wait = False,
    timeout: options.Timeout = None,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
    env_file: options.EnvFile = None,
) -> int:
    """Retry one failed link.

    Resets the link and queues its snapshot job, both or neither. Keeps a live job, and replaces a
    stale one. An open circuit does not delay the job.
    """
    context = context_of(typer_context)
    from docora_ops.cli.link_command import show_change

    chosen = ChangeOptions(front=front, reset_circuit=reset_circuit, dry_run=dry_run)
    result = actions.retry(context.docora, app, repo, chosen, reason=reason)
    return show_change(context, result, chosen)


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
            "--reset-circuit and --circuit closed can't be combined", hint="remove one of them"
        )
    terminal = terminal_to_ask(skip=yes or dry_run)
    from docora_ops.cli.bulk_command import run_bulk

    choice = options.link_choice(typer_context)
    chosen = ChangeOptions(
        front=front,
        reset_circuit=reset_circuit,
        dry_run=dry_run,
        in_flight=in_flight,
        max_failures=max_failures,
        wait=wait,
        timeout=timeout,
    )
    by_prefix = dry_run or terminal is not None
    events = actions.retry_all_failed(
        context.docora, choice, chosen, limit=limit, by_prefix=by_prefix, reason=reason
    )
    return run_bulk(context, events, chosen, terminal)
