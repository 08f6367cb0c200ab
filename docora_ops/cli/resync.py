"""`resync`."""

from dataclasses import replace
from typing import Annotated

import typer

from docora_ops.cli import options
from docora_ops.cli.context import confirmation, context_of
from docora_ops.cli.one_link import kept_in_words, show_change
from docora_ops.errors import UsageError


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
    last_scan_before: options.LastScanBefore = None,
    last_scan_after: options.LastScanAfter = None,
    path: Annotated[
        str | None,
        typer.Option(
            metavar="GLOB",
            help="Send only files whose path matches GLOB (* matches any text).",
        ),
    ] = None,
    front: options.Front = False,
    now: options.Now = False,
    reset_circuit: options.ResetCircuit = False,
    reason: options.Reason = None,
    in_flight: options.InFlight = None,
    max_failures: options.FailureLimit = None,
    wait: options.Wait = False,
    timeout: options.Timeout = None,
    dry_run: options.DryRun = False,
    yes: options.Yes = False,
    as_json: options.Json = False,
    env_file: options.EnvFile = None,
) -> int:
    """Send an app all files of a repository again.

    Deletes the delivery records of the link (--update: marks them), resets the link and queues its
    snapshot job atomically, regardless of the link's status. Refused while a snapshot of the link
    is running.

    Once the delivery records are deleted, the app is not told about files that were deleted from
    the repository since the last snapshot. Use --update, unless the app has lost its files.
    """
    context = context_of(typer_context)
    if (repo is None) != all_links:
        raise UsageError(
            "resync needs REPO or --all, and not both",
            hint="--all sends the files of all repositories",
        )
    for name in ("in_flight", "last_scan_before", "last_scan_after"):
        if repo is not None and typer_context.params[name] is not None:
            option = f"--{name.replace('_', '-')}"
            raise UsageError(f"{option} needs --all", hint=f"remove {option}")
    if now and repo is None:
        raise UsageError("--now needs REPO", hint="bulk changes leave held apps out")
    if path is not None and repo is None:
        raise UsageError("--path needs REPO", hint="name one repository, or remove --path")
    terminal = confirmation(typer_context)
    from docora_ops.actions.many_links import resync_all
    from docora_ops.actions.one_link import link_to_resync, resync
    from docora_ops.cli.bulk_command import reset_in_words, run_bulk
    from docora_ops.text import amount

    docora = context.docora
    if repo is not None:
        if terminal is not None:
            link, files = link_to_resync(docora, app, repo, path)
            above = [] if update else [kept_in_words(only_some=path is not None)]
            question = f"send {link.payload.app_name} {amount(files, 'file')} of "
            question += f"{link.payload.repository_name} again, "
            question += reset_in_words(docora, "the link", 1)
            hold = docora.read_holds().get(link.ref.app_id)
            if hold and not now:
                context.options = replace(context.options, now=True)
                question = f"the app is {hold.sentence}; exempt this one job, {question}"
            context.tell()
            terminal.ask(f"{docora.servers}: {question}?", *above)
        return show_change(context, resync(docora, app, repo, context.options, reason=reason))
    if not (yes or dry_run or terminal):
        raise UsageError(
            "resync --all sends the app all files again, and there is no terminal to confirm that",
            hint="add --yes to skip the confirmation",
        )
    by_prefix = dry_run or terminal is not None
    events = resync_all(
        docora,
        app,
        context.options,
        last_scan_before=last_scan_before,
        last_scan_after=last_scan_after,
        by_prefix=by_prefix,
        reason=reason,
    )
    return run_bulk(context, events, terminal)
