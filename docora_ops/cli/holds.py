"""`hold` and `release`."""

from __future__ import annotations

from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from docora_ops.cli import options
from docora_ops.cli.context import confirmation, context_of
from docora_ops.text import amount, duration, mask, seconds_of

if TYPE_CHECKING:
    from docora_ops.actions.holds import HoldResult

_LONGEST = 365 * 86_400  # seconds
_FOR_EVER = 0


def _length(value: str) -> int:
    """Reads a duration, or `ever`. Raises ValueError."""
    return _FOR_EVER if value == "ever" else seconds_of(value, longest=_LONGEST)


def hold(
    typer_context: typer.Context,
    app: options.App,
    length: Annotated[
        int,
        typer.Option(
            "--for",
            metavar="TIME",
            parser=_length,
            help="End the hold after TIME: 30m, 2h, 3d (at most 365 days), or ever.",
        ),
    ] = "24h",  # type: ignore[assignment]  # Typer parses it
    reason: options.Reason = None,
    yes: options.Yes = False,
    as_json: options.Json = False,
    env_file: options.EnvFile = None,
) -> None:
    """Send an app nothing more until `release`.

    Its jobs wait: no worker takes them, and no try is counted. A running snapshot stops before its
    next request to the app, and its job waits again. Files that were sent stay with the app. After
    TIME, the hold ends by itself.
    """
    context = context_of(typer_context)
    terminal = confirmation(typer_context)
    from docora_ops.actions.holds import hold, look

    docora, seconds = context.docora, length or None
    by_prefix = terminal is not None
    end = f"for {duration(length)}" if length else "for ever"
    if terminal is not None:
        now = look(docora, app, by_prefix=by_prefix)
        if now.held:
            context.say(f"{mask(now.app_name)} is {now.held.sentence}; this hold takes its place.")
        question = f"send {now.app_name} nothing more {end}: {_effect(now)}"
        terminal.ask(f"{docora.redis_server}: {question}?")
    result = hold(docora, app, seconds, by_prefix=by_prefix, reason=reason)
    if as_json:
        context.show_document(result)
        return
    if terminal is None and result.replaced:
        context.say(f"Before, it was {result.replaced.sentence}; this hold takes its place.")
    name = quote(mask(result.app_name))
    context.say(f"{docora.redis_server}: {mask(result.app_name)} is held {end}: {_effect(result)}.")
    context.say(f"To end the hold: docora-ops release {name}")


def _effect(app: HoldResult) -> str:
    waiting = f"{amount(app.waiting, 'job')} {'waits' if app.waiting == 1 else 'wait'}"
    if not app.running:
        return waiting
    stops = "stops after its" if app.running == 1 else "stop after their"
    return f"{waiting}, {amount(app.running, 'running snapshot')} {stops} current request"


def release(
    typer_context: typer.Context,
    app: options.App,
    reason: options.Reason = None,
    yes: options.NeedlessYes = False,
    as_json: options.Json = False,
    env_file: options.EnvFile = None,
) -> None:
    """End the hold of an app.

    Workers take its jobs again. The next pass of `schedule` queues due links without a live job.
    """
    context = context_of(typer_context)
    from docora_ops.actions.holds import release

    result = release(context.docora, app, reason=reason)
    if as_json:
        context.show_document(result)
        return
    name = mask(result.app_name)
    sentence = f"{name} is not held"
    if result.released:
        sentence = f"{name} is released, and workers take its jobs: {amount(result.jobs, 'job')}"
    context.say(f"{context.docora.redis_server}: {sentence}.")
