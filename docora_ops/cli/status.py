"""`status`."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from docora_ops.cli import options
from docora_ops.cli.context import context_of
from docora_ops.cli.operations import done
from docora_ops.cli.output import Pairs, Part, piped, render, shown, style_of
from docora_ops.cli.terminal import interruption
from docora_ops.error_groups import with_reason_first
from docora_ops.errors import ExitCode, UsageError
from docora_ops.links import Backend
from docora_ops.text import ago, amount, duration

if TYPE_CHECKING:
    from docora_ops.actions.status import Status

_PERIOD = 2  # seconds
_SHOWN = 3  # apps and errors


def status(
    typer_context: typer.Context,
    watch: Annotated[
        bool, typer.Option("--watch", help="Redraw the screen every 2 s, until Ctrl-C.")
    ] = False,
    as_json: options.Json = False,
    env_file: options.EnvFile = None,
) -> ExitCode:
    """Show links, queue and workers, the verdict first.

    If one server is down, shows what the other one knows (exit code 5).
    """
    context = context_of(typer_context)
    if watch and as_json:
        raise UsageError("--watch and --json can't be combined", hint="leave out one of them")
    from docora_ops.actions.status import read_status

    if not watch:
        state, error = read_status(context.docora)
        context.show(state, _screen(state))
        return context.report(error) if error else ExitCode.OK
    with suppress(KeyboardInterrupt):
        while True:
            state, _ = read_status(context.docora)
            if sys.stdout.isatty():
                # Erases line by line: a cleared screen would fill the scrollback of a terminal.
                screen = render(_screen(state)).replace("\n", "\x1b[K\n")
                sys.stdout.write(f"\x1b[H{screen}\x1b[J")
            else:
                sys.stdout.write("\n".join([*piped(_screen(state)), "", ""]))
            sys.stdout.flush()
            time.sleep(_PERIOD)
    sys.stdout.write("\n")
    return ExitCode(interruption().exit_code)


Rows = list[tuple[str, object] | tuple[str, object, str | None]]


def _screen(state: Status) -> list[Part]:
    next_command = f" → {state.next_command}" if state.next_command else ""
    rows: Rows = [("Postgres", state.postgres), ("Redis", state.redis)]
    if links := state.links:
        counts = ", ".join(
            f"{count:,} {name.replace('_', ' ')}" for name, count in links.by_status.items()
        )
        rows.append(("Links", counts or "none", style_of("failed") if links.of("failed") else None))
        if state.failed_apps:
            rows += [("Failed in", line) for line in _apps(state)]
            rows += [("Errors", line) for line in _errors(state)]
        if links.open_circuits:
            behind = f", with {amount(links.behind_circuit, 'failed link')}"
            text = f"{amount(links.open_circuits, 'repository', 'repositories')} open{behind}"
            rows.append(("Circuits", text, "yellow"))
        if links.newest_scan_at:
            newest = ago((links.read_at - links.newest_scan_at).total_seconds())
            text = f"last good scan {newest}"
            if links.oldest_scan_at:
                oldest = ago((links.read_at - links.oldest_scan_at).total_seconds())
                text += f", oldest of a link in sync {oldest}"
            rows.append(("Scans", text))
        if links.overdue:
            rows.append(("Overdue", amount(links.overdue, "link"), "yellow"))
    if queue := state.queue:
        text = f"{queue.waiting:,} waiting, {queue.active:,} running, {queue.delayed:,} delayed"
        if state.oldest_waiting_seconds:
            text += f"; the oldest waits {duration(state.oldest_waiting_seconds)}"
        text += f"; {queue.failed:,} failed" if queue.failed else ""
        rows.append(("Queue", f"{state.backend}: {text}"))
    if state.workers is not None:
        busy = sum(worker.job_id is not None for worker in state.workers)
        text = f"{len(state.workers)}" if state.workers else "none"
        if state.workers and state.backend is Backend.RQ:  # BullMQ does not tell
            text += f", {busy} busy"
        if state.queue and state.queue.is_suspended:
            text += ", suspended"
        rows.append(("Workers", text, None if state.workers else "red"))
        for worker in [worker for worker in state.workers if worker.job_id][:_SHOWN]:
            rows.append(("Workers", f"  {worker.host or worker.name}: {worker.job_id}"))
    if state.last_pass_at and state.links:
        seconds = (state.links.read_at - state.last_pass_at).total_seconds()
        rows.append(("Schedule", f"last pass {ago(seconds)}"))
    for operation in state.operations:
        text = f"{operation.action}, {operation.state}, {done(operation)}: {operation.target}"
        rows.append(("Operations", f"{operation.operation_id}: {text}"))
    return [f"{shown(state.verdict)}{next_command}", Pairs(_fitted(rows))]


def _apps(state: Status) -> list[str]:
    return [f"{failed.links:,}  {failed.app.app_name}" for failed in state.failed_apps[:_SHOWN]]


def _errors(state: Status) -> list[str]:
    lines = [
        f"{links:,}  {with_reason_first(error)}"
        for error, links in list(state.failed_errors.items())[:_SHOWN]
    ]
    if more := len(state.failed_errors) - _SHOWN:
        lines += [f"and {amount(more, 'other error')}"] if more > 0 else []
    return lines


def _fitted(rows: Rows) -> Rows:
    """On a terminal, truncates each value to one line, and leaves out repeated names."""
    if not sys.stdout.isatty():
        return rows
    from rich.text import Text

    names = ["", *(name for name, *_ in rows)]
    return [
        (
            "" if name == before else name,
            Text(shown(value), (*style, None)[0] or "", no_wrap=True, overflow="ellipsis"),
        )
        for (name, value, *style), before in zip(rows, names, strict=False)
    ]
