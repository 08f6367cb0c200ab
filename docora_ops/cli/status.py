"""`status`."""

from __future__ import annotations

import sys
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated

import typer

from docora_ops.cli import options
from docora_ops.cli.context import Context, context_of
from docora_ops.cli.exit_codes import ExitCode, exit_code_of
from docora_ops.cli.signals import ended_by_ctrl_c
from docora_ops.errors import UsageError

if TYPE_CHECKING:
    from docora_ops.overview import Status

_PATIENCE = 8  # seconds for an answer of a server
_REST = 2  # the pause after a read lasts at least this many times as long as the read


def status(
    typer_context: typer.Context,
    watch: Annotated[
        bool,
        typer.Option("--watch", help="Refresh every SECONDS until Ctrl-C, and show what changed."),
    ] = False,
    seconds: Annotated[
        int | None,
        typer.Argument(
            metavar="SECONDS", min=1, max=86_400, help="Interval for --watch (default: 2)."
        ),
    ] = None,
    as_json: options.Json = False,
    env_file: options.EnvFile = None,
) -> int:
    """Show links, queue and workers on one screen.

    Changes nothing. If a server is unreachable, shows what the other one knows and exits with
    code 5.
    """
    context = context_of(typer_context)
    if watch and as_json:
        raise UsageError("--watch and --json can't be combined", hint="remove one of them")
    if seconds is not None and not watch:
        raise UsageError("SECONDS needs --watch", hint=f"docora-ops status --watch {seconds}")
    context.docora.settings = context.docora.settings.hurried(_PATIENCE)
    if watch:
        try:
            _watch(context, seconds or 2)
        except KeyboardInterrupt:
            if not ended_by_ctrl_c():
                raise
        return ExitCode.OK
    from docora_ops.actions.workers import warn_of_other_workers
    from docora_ops.jobs import BackendSource, OtherQueue
    from docora_ops.render.status_view import status_data, status_screen

    found = _read(context)
    context.tell()
    if not as_json:
        context.show_tables([status_screen(found)])
    else:
        context.show_document(status_data(found), next(iter(found.errors), None))
    is_on_screen = found.has_only_others and not as_json
    is_clear = found.queue and found.queue.backend_source is not BackendSource.UNCLEAR
    if is_clear and found.other_queue is OtherQueue.WORKED_ON and not is_on_screen:
        warn_of_other_workers(context.docora, has_workers=not found.has_only_others)
    for error in found.errors:
        context.report(error)
    return exit_code_of(found.errors[0]) if found.errors else ExitCode.OK


def _read(context: Context) -> Status:
    from docora_ops.actions.monitoring import read_status

    return read_status(context.docora)


def _watch(context: Context, seconds: int) -> None:
    """Shows the state again and again, in place at a terminal, until nobody reads a pipe any more.

    Raises KeyboardInterrupt, and ServerError if a server refuses the login or a privilege.
    """
    from rich.constrain import Constrain
    from rich.live import Live

    from docora_ops.actions.monitoring import trend
    from docora_ops.errors import PostgresDeniedError, RedisDeniedError, RedisError
    from docora_ops.interrupts import Stop
    from docora_ops.render.console import may_animate
    from docora_ops.render.status_view import status_screen

    context.collect_garbage()
    live = Live(console=context.out, auto_refresh=False) if may_animate(sys.stdout) else None
    first_began = began = time.monotonic()
    first = found = _read(context)
    context.tell()  # later, it would break up the screen
    with live or nullcontext():
        while not getattr(sys.stdout, "has_lost_its_reader", False):
            shown = status_screen(found, trend(first, found, began - first_began))
            if live:
                # The terminal writes ^C behind the last line, which must not begin another.
                live.update(Constrain(shown, context.out.width - 2), refresh=True)
            else:
                context.show_tables([shown, ""], is_last=False)
            for error in found.errors:
                if isinstance(error, PostgresDeniedError | RedisDeniedError):
                    raise error
            if any(not isinstance(error, RedisError) for error in found.errors):
                context.docora.reconnect()
            taken = time.monotonic() - began
            # In slices: a signal that comes just before a sleep is only seen after it.
            Stop().sleep(max(seconds - taken, taken * _REST))
            began = time.monotonic()
            found = _read(context)
