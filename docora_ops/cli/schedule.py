"""`schedule`."""

import time
from typing import Annotated

import typer

from docora_ops.cli import options
from docora_ops.cli.context import Context, context_of
from docora_ops.cli.terminal import finishing_first, interruption, is_interrupted
from docora_ops.errors import ExitCode, ServerError
from docora_ops.text import amount


def schedule(
    typer_context: typer.Context,
    repeat: Annotated[
        bool, typer.Option("--repeat", help="Go on, with a pass every SCAN_INTERVAL_MS.")
    ] = False,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
    env_file: options.EnvFile = None,
) -> ExitCode:
    """Queue the links that are due, and repair drift.

    As in Docora's scheduler, a link is due if it is pending, or synced and past RESCAN_INTERVAL_MS,
    or failed without a circuit to wait for; while its circuit is open, it is not. Only for Docoras
    whose jobs RQ workers run. Run it by cron, or with --repeat as a service, which goes on through
    outages.
    """
    context = context_of(typer_context)
    if dry_run:
        return _show_plan(context)
    if not repeat:
        return _run_pass(context)
    with finishing_first("Stopping after the current batch. A second signal stops at once."):
        while not is_interrupted():
            begun = time.monotonic()
            try:
                _run_pass(context)
            except ServerError as error:
                context.document_is_printed = False
                context.say(f"Error: {error.message}. The next pass tries again.")
                context.docora.close()
            pause = context.docora.settings.scan_interval_ms / 1000
            while not is_interrupted() and (left := begun + pause - time.monotonic()) > 0:
                time.sleep(min(left, 0.5))
    return ExitCode(interruption().exit_code)


def _run_pass(context: Context) -> ExitCode:
    from docora_ops.actions.schedule import run_pass

    operations = {}
    for batch in run_pass(context.docora):
        operations[batch.operation.operation_id] = batch.operation
        if is_interrupted():
            break
    counts: dict[str, int] = {}
    for operation in operations.values():
        for state, count in operation.states.items():
            counts[state] = counts.get(state, 0) + count
    total = sum(counts.values())
    listed = ", ".join(f"{count:,} {state.replace('_', ' ')}" for state, count in counts.items())
    message = f"{amount(total, 'link')}: {listed}" if total else "nothing is due"
    data = {
        "message": "Schedule pass done",
        "total": total,
        "states": counts,
        "operations": list(operations.values()),
    }
    context.show(data, [f"{context.docora.servers}: {message}."])
    failed = any(operation.failed for operation in operations.values())
    return ExitCode.PROBLEMS if failed else ExitCode.OK


def _show_plan(context: Context) -> ExitCode:
    from docora_ops.actions.schedule import due_links
    from docora_ops.cli.progress import show_plan

    return show_plan(context, due_links(context.docora), "Nothing is due")
