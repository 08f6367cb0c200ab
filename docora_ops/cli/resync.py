"""`resync`."""

from typing import Annotated

import typer

from docora_ops.cli import options, progress
from docora_ops.cli.context import Context, context_of
from docora_ops.cli.output import Part
from docora_ops.errors import ExitCode, UsageError
from docora_ops.links import Change, Link, LinkFilter
from docora_ops.text import amount

_KEPT = (
    "The app is not told about files that were deleted from the repository since the last "
    "snapshot: --update tells it."
)


def resync(
    typer_context: typer.Context,
    app: options.App,
    repo: options.OptionalRepo = None,
    all_links: Annotated[bool, typer.Option("--all", help="Resync all links of the app.")] = False,
    update: Annotated[
        bool,
        typer.Option(
            "--update",
            help="Send known files as updates, and have the app delete files that are gone from "
            "the repository.",
        ),
    ] = False,
    limit: options.BulkLimit = None,
    reset_circuit: options.ResetCircuit = False,
    wait: options.Wait = False,
    timeout: options.Timeout = None,
    dry_run: options.DryRun = False,
    yes: options.Yes = False,
    reason: options.Reason = None,
    as_json: options.Json = False,
    env_file: options.EnvFile = None,
) -> ExitCode:
    """Send an app all files of a repository again.

    In one transaction, deletes the delivery records of the link (--update: marks them), resets the
    link, whatever its status, and queues its snapshot job. Refused while a snapshot is running.
    """
    context = context_of(typer_context)
    if (repo is None) != all_links:
        raise UsageError(
            "resync needs either REPO or --all",
            hint="--all sends the files of all repositories",
        )
    if repo is not None and limit is not None:
        raise UsageError("--limit needs --all", hint="leave out --limit")
    from docora_ops.actions.changes import run_single
    from docora_ops.actions.lookup import resolve_link

    if repo is None:
        return _resync_all(typer_context, context, app)
    if not (yes or dry_run):
        link = resolve_link(context.docora.database, app, repo)
        app, repo = link.app_id, link.repository_id
        _ask(context, [link.id], link, update=update)
    change = Change.resync(LinkFilter(), update=update, closes_circuit=reset_circuit)
    outcome, operation = run_single(
        context.docora, change, app, repo, reason=reason, dry_run=dry_run
    )
    return progress.show_single(
        context, "Re-sync queued", outcome, operation, wait=wait, timeout=timeout
    )


def _resync_all(typer_context: typer.Context, context: Context, app_text: str) -> ExitCode:
    from docora_ops.actions.changes import select_links
    from docora_ops.actions.lookup import resolve_app

    chosen, docora = typer_context.params, context.docora
    app, update = resolve_app(docora.database, app_text), chosen["update"]
    which = LinkFilter(app_ids=[app.app_id])
    change = Change.resync(which, update=update, closes_circuit=chosen["reset_circuit"])
    ids = select_links(docora, which, chosen["limit"])
    return progress.change_in_bulk(
        typer_context,
        change,
        ids,
        confirm=lambda: _ask(context, ids, update=update, needs_yes=True),
        target=f"all links of {app.app_name}",
        message="Bulk re-sync started",
    )


def _ask(
    context: Context,
    ids: list[str],
    link: Link | None = None,
    *,
    update: bool,
    needs_yes: bool = False,
) -> None:
    from docora_ops.actions.lists import count_deliveries

    above: list[Part] = [] if link else [progress.by_app(context, ids)]
    above += [] if update else [_KEPT]
    files = amount(count_deliveries(context.docora, ids), "delivered file")
    question = f"send {files} again, {progress.queues_in_words(context, len(ids), link)}"
    progress.ask(context, question, above, needs_yes=needs_yes)
