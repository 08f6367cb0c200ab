"""`pause` and `resume`. Need only Redis."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer

from docora_ops.cli import options
from docora_ops.cli.change import describe_change
from docora_ops.cli.context import Context, context_of
from docora_ops.cli.exit_codes import ExitCode
from docora_ops.cli.signals import interrupt, interrupted_code, stopping_on_signals
from docora_ops.cli.terminal import terminal_to_ask
from docora_ops.errors import RedisError, UsageError

if TYPE_CHECKING:
    from docora_ops.interrupts import Stop
    from docora_ops.jobs import Suspension
    from docora_ops.queue import WorkerSwitch

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
            help="End the pause after so long: 30s, 10m, 2h, or seconds; 7 days at most.",
        ),
    ] = None,
    reason: options.Reason = None,
    yes: options.Yes = False,
    as_json: options.Json = False,
) -> int:
    """Suspend all RQ workers of this Redis, also those of other queues, until `resume`.

    Each worker finishes the job that it runs. A worker that already waits for a job may take one
    more. Waits a few seconds for the workers to notice; Ctrl-C ends only that.
    """
    context = context_of(typer_context)
    seconds = None if at_most is None else _seconds_of(at_most)
    terminal = terminal_to_ask(skip=yes)
    from docora_ops.interrupts import Stop
    from docora_ops.jobs import OtherQueue
    from docora_ops.queue import WorkerSwitch
    from docora_ops.text import exact_duration

    context.require_rq("pause", "to keep Docora's workers from taking jobs, stop them")
    if context.require_right_backend()[1] is OtherQueue.WORKED_ON:
        context.warn_of_others(has_workers=True)
    switch = WorkerSwitch(context.redis)
    workers = switch.workers()
    ours = context.settings.queue_name
    queues = sorted({name for worker in workers for name in worker.queues} - {ours})
    if before := context.queue.read_suspension():
        context.say(f"Now {before.sentence}; this pause takes its place.")
    taken = f"no job is taken from {ours}"
    if queues:
        taken += f", nor from the other queues {', '.join(queues)}"
    end = "until docora-ops resume" if seconds is None else f"for {exact_duration(seconds)}"
    if terminal is not None:
        terminal.ask(
            f"{context.redis_server}: suspend all RQ workers ({len(workers)} now) {end}: {taken}?"
        )
    elif queues:
        context.warn(f"Warning: {taken}.")
    change = describe_change("pause", reason, **{"for": at_most})
    context.collect_garbage()
    stop = Stop()
    with stopping_on_signals(stop, interrupt, announced=False):
        suspension = switch.suspend(seconds, change)
        return _wait(context, switch, stop, suspension, queues)


def _wait(
    context: Context, switch: WorkerSwitch, stop: Stop, suspension: Suspension, queues: list[str]
) -> int:
    """Waits for the workers and shows how far they are. Returns the exit code."""
    from docora_ops.actions.pause import await_stopped
    from docora_ops.render import queue_view

    try:
        workers = await_stopped(switch, stop)
    except RedisError as error:
        if context.as_json:
            context.show_document(queue_view.pause_data(suspension, [], queues), error)
        return context.report(error, next_step="the workers are suspended all the same")
    context.show(
        queue_view.pause_data(suspension, workers, queues),
        [queue_view.pause_screen(suspension, workers)],
    )
    context.say(f"{context.redis_server}: workers suspended. To go on: docora-ops resume")
    return interrupted_code() if stop.requested else ExitCode.OK


def resume(
    typer_context: typer.Context,
    reason: options.Reason = None,
    as_json: options.Json = False,
) -> None:
    """Let the RQ workers of this Redis take jobs again, after `pause` or `rq suspend`.

    A worker takes a second to notice.
    """
    context = context_of(typer_context)
    from docora_ops.queue import WorkerSwitch
    from docora_ops.render import queue_view

    context.require_rq("resume", context.advice.to_resume)
    suspension = context.queue.read_suspension()
    resumed = WorkerSwitch(context.redis).resume(describe_change("resume", reason))
    if context.as_json:
        context.show_document(queue_view.resume_data(suspension, resumed=resumed))
    elif resumed:
        context.say(f"{context.redis_server}: workers resumed.")
    else:
        context.say(f"{context.redis_server}: nothing to resume, workers are not suspended.")


def _seconds_of(text: str) -> int:
    """Reads a duration. Raises UsageError."""
    found = _DURATION.fullmatch(text)
    seconds = int(found[1]) * _SECONDS[found[2]] if found else 0
    if not 1 <= seconds <= _LONGEST:
        raise UsageError(
            f"--for {text[:100]!r} is not a duration from 1 s to 7 days",
            hint="use seconds, or a number with s, m or h: --for 10m",
        )
    return seconds
