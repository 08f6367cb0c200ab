"""`probe` and `set-url`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from docora_ops.cli import options
from docora_ops.cli.completion import complete_repo
from docora_ops.cli.context import Context, confirmation, context_of
from docora_ops.cli.exit_codes import ExitCode
from docora_ops.cli.worker import extra_is_missing
from docora_ops.errors import UsageError

if TYPE_CHECKING:
    from types import ModuleType

    from docora_ops.probe import Probe


def probe(
    typer_context: typer.Context,
    app: options.OptionalApp = None,
    repo: Annotated[
        str | None,
        typer.Option(
            "--repo",
            metavar="REPO",
            help="List the branches of this repository (id, owner/name or URL) with the token of "
            "each of its links, or of APP's link.",
            autocompletion=complete_repo,
        ),
    ] = None,
    as_json: options.Json = False,
    target: options.Target = None,
    env_file: options.EnvFile = None,
) -> int:
    """Try what a worker would meet at an app or a git host.

    Tries DNS, TCP, TLS and an unsigned HEAD of the app's base_url, with the proxies, authorities
    and limits of a worker; with --repo, lists the branches of a repository by git. Sends no file
    and changes nothing. Any HTTP answer counts as reachable. Exit code 6 if a step fails. Needs the
    extra `worker`.
    """
    context = context_of(typer_context)
    if app is None and repo is None:
        raise UsageError("probe needs APP or --repo", hint="name an app, a repository, or both")
    prober = _prober()
    from docora_ops.render.probe_view import probe_screens

    found = prober.probe(context.docora, app, repo)
    context.show(found, probe_screens(found))
    return _end(context, found)


def set_url(
    typer_context: typer.Context,
    app: options.App,
    url: Annotated[
        str,
        typer.Argument(metavar="URL", help="New base_url, by the rules of Docora's onboarding."),
    ],
    probe_first: Annotated[
        bool,
        typer.Option("--probe", help="Probe the URL first; change nothing if a step fails."),
    ] = False,
    reason: options.Reason = None,
    dry_run: options.DryRun = False,
    yes: options.Yes = False,
    confirm: options.Confirm = None,
    as_json: options.Json = False,
    target: options.Target = None,
    env_file: options.EnvFile = None,
) -> int:
    """Change the base_url of an app.

    Workers of docora-ops use the new URL from the next job on. Jobs of BullMQ keep the URL that
    they were queued with, running jobs the URL that they began with. Names the links that read
    synced afterwards though their files went to the old URL, and the resync that they need. Needs a
    grant of its own: see docora-ops help privileges.
    """
    context = context_of(typer_context)
    terminal = confirmation(typer_context, context)
    from dataclasses import replace

    from docora_ops.actions.app_url import set_url
    from docora_ops.render import probe_view as render

    docora, found = context.docora, None
    shows_plan = dry_run or terminal is not None
    planned = set_url(docora, app, url, by_prefix=shows_plan, find_jobs=shows_plan, dry_run=True)
    change = replace(planned, dry_run=dry_run)
    if probe_first and change.changed:
        found = _prober().probe(docora, change.app_id, new_url=url)
        if found.found_problems:
            change = replace(change, changed=False, links_to_resync=(), probe=found)
            context.show(change, [*render.change_screen(change), *render.step_screen(found)])
            context.say("base_url was not changed: a step of the probe has failed.")
            return _end(context, found)
    if change.changed and not dry_run:
        if terminal is not None:
            context.tell()
            kept = render.left_behind_in_words(change)
            above = [*(render.step_screen(found) if found else []), *([kept] if kept else [])]
            urls = f"from {change.old_url} to {change.new_url}"
            question = f"change the base_url of {change.app_name} {urls}?"
            terminal.ask(f"{docora.servers}: {question}", *above)
        change = set_url(docora, change.app_id, url, reason=reason)
    change = replace(
        change,
        probe=found,
        resync_command=change.resync_command and context.addressed(change.resync_command),
        retry_command=change.retry_command and context.addressed(change.retry_command),
    )
    steps = render.step_screen(found) if found and terminal is None else []
    context.show(change, [*render.change_screen(change), *steps], footer="")
    if kept := render.left_behind_in_words(change):
        context.warn(f"Warning: {kept}.")
    done = "base_url changed" if change.changed else "nothing to do, the app has this URL"
    if dry_run and change.changed:
        done = "dry run, nothing was changed"
    context.say(f"{docora.servers}: {done}.")
    code = _end(context, found) if found else ExitCode.OK
    for step in render.next_steps(change):
        context.say(step)
    return code


def _prober() -> ModuleType:
    """Returns the module that probes. Raises ConfigurationError without the extra `worker`."""
    try:
        from docora_ops.worker import probe
    except ImportError as error:
        raise extra_is_missing(error) from error
    return probe


def _end(context: Context, found: Probe) -> ExitCode:
    context.say(f"Probed from {found.host}; a worker elsewhere may see otherwise.")
    return ExitCode.PROBLEMS if found.found_problems else ExitCode.OK
