"""`pause` and `resume`. Need only Redis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from docora_ops.cli import options
from docora_ops.cli.context import confirmation, context_of
from docora_ops.jobs import QUEUE_NAME
from docora_ops.text import amount, duration, moment, seconds_of

if TYPE_CHECKING:
    from docora_ops.actions.pauses import RqWorkers


def pause(
    typer_context: typer.Context,
    at_most: Annotated[
        int | None,
        typer.Option(
            "--for",
            metavar="TIME",
            parser=seconds_of,
            help="End the pause after TIME: 30s, 10m, 2h or seconds; at most 7 days.",
        ),
    ] = None,
    reason: options.Reason = None,
    yes: options.Yes = False,
    as_json: options.Json = False,
    env_file: options.EnvFile = None,
) -> None:
    """Suspend all RQ workers of this Redis until `resume`.

    This includes workers of other queues. Each worker finishes its current job; a worker that is
    already waiting for a job may take one more.
    """
    context = context_of(typer_context)
    terminal = confirmation(typer_context)
    from docora_ops.actions.pauses import pause, rq_workers

    docora = context.docora
    if terminal is not None:
        now = rq_workers(docora)
        if now.suspension:
            context.say(f"Now {now.suspension.sentence}; this pause takes its place.")
        end = "until docora-ops resume" if at_most is None else f"for {duration(at_most)}"
        workers = f"all RQ workers ({len(now.workers)} now)"
        effect = f"no job is taken from {QUEUE_NAME}{_other_queues(now)}"
        terminal.ask(f"{docora.redis_server}: suspend {workers} {end}: {effect}?")
    paused = pause(docora, at_most, reason=reason)
    if as_json:
        context.show_document(paused)
    if terminal is None:
        if paused.replaced:
            context.say(f"Before, {paused.replaced.sentence}; this pause takes its place.")
        if others := _other_queues(paused):
            context.warn(f"Warning: no job is taken from {QUEUE_NAME}{others}.")
    end = f" until {moment(paused.suspension.ends_at)}" if at_most and paused.suspension else ""
    context.say(f"{docora.redis_server}: workers suspended{end}. To go on: docora-ops resume")
    if busy := sum(worker.state == "busy" for worker in paused.workers):
        finishing = amount(busy, "busy worker finishes its job", "busy workers finish their jobs")
        context.say(f"{finishing}.")
    if idle := sum(worker.state not in {"busy", "suspended"} for worker in paused.workers):
        context.say(f"{amount(idle, 'idle worker')} may take one more job{' each' * (idle > 1)}.")


def _other_queues(workers: RqWorkers) -> str:
    """Names the queues besides Docora's from which no job is taken; empty if there are none."""
    names = {name for worker in workers.workers for name in worker.queues} - {QUEUE_NAME}
    return f", nor from the other queues {', '.join(sorted(names))}" if names else ""


def resume(
    typer_context: typer.Context,
    reason: options.Reason = None,
    yes: options.NeedlessYes = False,
    as_json: options.Json = False,
    env_file: options.EnvFile = None,
) -> None:
    """Let the RQ workers of this Redis take jobs again.

    Undoes `pause` and `rq suspend`. Workers notice within a second.
    """
    context = context_of(typer_context)
    from docora_ops.actions.pauses import resume

    result = resume(context.docora, reason=reason)
    if as_json:
        context.show_document(result)
    else:
        state = "workers resumed" if result.resumed else "nothing to resume, workers take jobs"
        context.say(f"{context.docora.redis_server}: {state}.")
