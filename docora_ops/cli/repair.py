"""`repair`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from docora_ops.cli import options
from docora_ops.cli.change import describe_change, names_of
from docora_ops.cli.context import context_of
from docora_ops.cli.terminal import terminal_to_ask


def repair(
    typer_context: typer.Context,
    app: options.OptionalApp = None,
    repo: options.OptionalRepo = None,
    reason: options.Reason = None,
    remove_unknown_jobs: Annotated[
        bool,
        typer.Option(
            "--remove-unknown-jobs",
            help="Repair even if most jobs have no link in the database.",
        ),
    ] = False,
    with_list: Annotated[
        bool,
        typer.Option("--list", help="List each mismatch, in addition to the counts by app."),
    ] = False,
    dry_run: options.DryRun = False,
    yes: options.Yes = False,
    as_json: options.Json = False,
    env_file: options.EnvFile = None,
) -> int:
    """Repair the drift that doctor finds.

    Everywhere, of one app, or of one link. Queues lost and stuck links again; a stuck link counts a
    failure. Removes orphaned and duplicate jobs and stale entries. Never touches a running job.
    Changes nothing if database and queue do not seem to belong together. If the command is killed,
    run it again to finish the rest.
    """
    context = context_of(typer_context)
    terminal = terminal_to_ask(skip=yes or dry_run)
    from docora_ops.actions.lookup import resolve_app, resolve_link
    from docora_ops.actions.repair.fix import Repair
    from docora_ops.cli.repair_command import RepairCommand

    fix = Repair(
        context.database,
        context.queue,
        context.store,
        context.settings.drift_grace,
        context.settings.max_retry_attempts,
        remove_unknown_jobs=remove_unknown_jobs,
    )
    names: dict[str, object] = {}
    of = ""
    if app is not None and repo is not None:
        link = resolve_link(context.database, app, repo)
        fix.ref, fix.app_id = link.ref, link.ref.app_id
        names = names_of(link)
        of = f" of {link.payload.link_name}"
    elif app is not None:
        by_prefix = dry_run or terminal is not None
        found = resolve_app(context.database, app, by_prefix=by_prefix)
        fix.app_id = found.app_id
        names = asdict(found)
        of = f" of {found.app_name}"
    fix.change = describe_change("repair", reason, **names, remove_unknown_jobs=remove_unknown_jobs)
    return RepairCommand(context, fix, of, with_list=with_list).run(terminal)
