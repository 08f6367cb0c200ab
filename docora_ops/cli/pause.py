"""`pause` and `resume`. Need only Redis."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from docora_ops import actions
from docora_ops.cli import options
from docora_ops.cli.context import context_of
from docora_ops.cli.exit_codes import ExitCode
from docora_ops.cli.signals import interrupted_code, until_stopped
from docora_ops.cli.terminal import terminal_to_ask
from docora_ops.errors import RedisError, UsageError
from docora_ops.interrupts import Stop
from docora_ops.jobs import QUEUE_NAME

_DURATION = re.compile("([0-9]{1,9})([smh]?)")
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600}
_LONGEST = 7 * 86_400


def pause(
    typer_context: typer.Context,
    at_most: Annotated[
        str | None,
        typer.Option(
            "--for",
            metavar="TIME",
            help="End the pause after TIME: 30s, 10m, 2h, or seconds; at most 7 days.",
        ),
    ] = None,
    reason: options.Reason = None,
    yes: options.Yes = False,
    as_json: options.Json = False,
    env_file: options.EnvFile = None,
) -> int:
    """Suspend all RQ workers of this Redis until `resume`.

    This includes workers of other queues. Each worker finishes its current job; a worker that is
    already waiting for a job may take one more. Waits a few seconds for the workers to notice;
    Ctrl-C only ends that wait.
    """
    context = context_of(typer_context)
    seconds = None if at_most is None else _seconds_of(at_most)
    terminal = terminal_to_ask(skip=yes)
    from docora_ops.render import queue_view
    from docora_ops.text import exact_duration

    docora, ours = context.docora, QUEUE_NAME
    found = actions.rq_workers(docora)
    queues = found.other_queues(ours)
    if found.suspension:
        context.say(f"Now {found.suspension.sentence}; this pause takes its place.")
    taken = f"no job is taken from {ours}"
    if queues:
        taken += f", nor from the other queues {', '.join(queues)}"
    if terminal is not None:
        end = "until docora-ops resume" if seconds is None else f"for {exact_duration(seconds)}"
        workers = f"all RQ workers ({len(found.workers)} now)"
        terminal.ask(f"{docora.redis_server}: suspend {workers} {end}: {taken}?")
    elif queues:
        context.warn(f"Warning: {taken}.")
    context.collect_garbage()
    stop, error = Stop(), None
    try:
        for paused in until_stopped(actions.pause(docora, seconds, reason=reason), stop):
            found = paused
    except RedisError as lost:
        if found.suspension is None:
            raise
        error = lost
    if context.as_json:
        context.show_document(found, error)
    if error:
        return context.report(error, next_step="the workers are suspended all the same")
    if not context.as_json:
        context.show_tables([queue_view.pause_screen(found)])
    context.say(f"{docora.redis_server}: workers suspended. To go on: docora-ops resume")
    return interrupted_code() if stop.requested else ExitCode.OK


def resume(
    typer_context: typer.Context,
    reason: options.Reason = None,
    as_json: options.Json = False,
    env_file: options.EnvFile = None,
) -> None:
    """Let the RQ workers of this Redis take jobs again.

    Undoes `pause` and `rq suspend`. Workers notice within a second.
    """
    context = context_of(typer_context)
    from docora_ops.render import queue_view

    suspension = actions.resume(context.docora, reason=reason)
    if context.as_json:
        context.show_document(queue_view.ResumeData(suspension is not None, suspension))
    elif suspension:
        context.say(f"{context.docora.redis_server}: workers resumed.")
    else:
        server = context.docora.redis_server
        context.say(f"{server}: nothing to resume, workers are not suspended.")


def _seconds_of(text: str) -> int:
    """Reads a duration. Raises UsageError."""
    found = _DURATION.fullmatch(text)
    seconds = int(found[1]) * _SECONDS[found[2]] if found else 0
    if not 1 <= seconds <= _LONGEST:
        raise UsageError(
            f"--for {text[:100]!r} is not a duration between 1 s and 7 days",
            hint="use seconds, or a number with s, m or h: --for 10m",
        )
    return seconds
