"""`set-url`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from docora_ops.cli import options
from docora_ops.cli.context import confirmation, context_of
from docora_ops.cli.exit_codes import ExitCode
from docora_ops.cli.probe import load_probe, say_where, step_screen
from docora_ops.links import arguments
from docora_ops.render.columns import Pairs, cell
from docora_ops.text import amount, moment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from docora_ops.actions.app_url import UrlChange

_MOST_NAMED = 5  # links in a sentence


def set_url(
    typer_context: typer.Context,
    app: options.App,
    url: Annotated[
        str,
        typer.Argument(metavar="URL", help="New base_url, valid for Docora's onboarding."),
    ],
    probe_first: Annotated[
        bool,
        typer.Option("--probe", help="Probe the URL first; change nothing if a step fails."),
    ] = False,
    reason: options.Reason = None,
    dry_run: options.DryRun = False,
    yes: options.Yes = False,
    as_json: options.Json = False,
    env_file: options.EnvFile = None,
) -> int:
    """Change the base_url of an app.

    Workers of docora-ops use the new URL from their next job on. Running jobs and queued BullMQ
    jobs keep the old URL. Names the links of these jobs, which need a resync afterwards. Needs a
    separate grant: see docora-ops help privileges.
    """
    context = context_of(typer_context)
    terminal = confirmation(typer_context)
    from docora_ops.actions.app_url import set_url

    docora, asks = context.docora, terminal is not None
    probe = load_probe() if probe_first else None
    steps = set_url(docora, app, url, asks=asks, probe=probe, reason=reason, dry_run=dry_run)
    change = next(steps)
    if terminal is not None and change.changed and not dry_run:
        context.tell()
        remains = _remains(change)
        above = [*step_screen(change.probe), *([cell(remains)] if remains else [])]
        urls = f"from {change.old_url} to {change.new_url}"
        question = f"change the base_url of {change.app_name} {urls}?"
        terminal.ask(f"{docora.servers}: {question}", *above)
    *_, change = change, *steps
    has_failed = change.probe is not None and change.probe.has_failed
    shown = [] if terminal and not has_failed else step_screen(change.probe)
    commands = [command for _, command in _next_commands(change)]
    change = replace(change, next_commands=commands)
    context.show(change, [_screen(change), *shown], footer="")
    if has_failed:
        context.say("base_url was not changed: a step of the probe has failed.")
    elif remains := _remains(change):
        context.warn(f"Warning: {remains}.")
    done = "base_url changed" if change.changed else "nothing to do, the app has this URL"
    if dry_run and change.changed:
        done = "dry run, nothing was changed"
    if not has_failed:
        context.say(f"{docora.servers}: {done}.")
    say_where(context, change.probe)
    for when, command in _next_commands(change):
        context.say(f"{when}: {command}")
    return ExitCode.PROBLEMS if has_failed else ExitCode.OK


def _screen(change: UrlChange) -> Pairs:
    names = {
        "App": f"{change.app_name} ({change.app_id})",
        "Old URL": change.old_url,
        "New URL": change.new_url,
    }
    return Pairs([(name, cell(text)) for name, text in names.items()])


def _remains(change: UrlChange) -> str:
    """Names the links that need a resync because their jobs use the old URL; empty if none do."""
    links, count = change.links_to_resync, change.jobs_with_old_url
    if not links:
        return ""
    names = ", ".join(link.repository_name for link in links[:_MOST_NAMED])
    if (more := len(links) - _MOST_NAMED) > 0:
        names += f" and {amount(more, 'other')}"
    jobs = f" ({amount(count, 'BullMQ job keeps', 'BullMQ jobs keep')} that URL)" if count else ""
    if len(links) == 1:
        return (
            f"1 link needs a resync, because its job sends files to the old URL{jobs} and then "
            f"marks the link as synced: {names}"
        )
    return (
        f"{len(links)} links need a resync, because their jobs send files to the old URL{jobs} "
        f"and then mark the links as synced: {names}"
    )


def _next_commands(change: UrlChange) -> Iterator[tuple[str, str]]:
    """Yields the next commands to run, each after the words that say when to run it."""
    app_id = arguments(change.app_id)
    if change.dry_run or not change.changed:
        return
    if change.scanned_since:
        since = moment(change.scanned_since)
        resync = f"docora-ops resync {app_id} --all --last-scan-after {since}"
        yield "Next, once these jobs have ended", resync
    if change.has_failed_links:
        first = "Then" if change.scanned_since else "Next"
        yield first, f"docora-ops retry-all-failed --app {app_id}"
