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
    from rich.live import Live

    from docora_ops.status import Status

_REST = 2  # the pause after a read lasts at least this many times as long as the read


def status(
    typer_context: typer.Context,
    watch: Annotated[
        bool,
        typer.Option("--watch", help="Show it again each SECONDS, with the changes, until Ctrl-C."),
    ] = False,
    seconds: Annotated[
        int | None,
        typer.Argument(
            metavar="SECONDS", min=1, max=86_400, help="With --watch: 2 if it is not given."
        ),
    ] = None,
    as_json: options.Json = False,
) -> int:
    """Show the state of links, queue and workers on one screen.

    Changes nothing. If a server is lost, shows what the other one tells, and exits with 5.
    """
    context = context_of(typer_context)
    if watch and as_json:
        raise UsageError("--watch and --json exclude each other", hint="leave out one of them")
    if seconds is not None and not watch:
        raise UsageError("SECONDS needs --watch", hint=f"docora-ops status --watch {seconds}")
    if watch:
        try:
            _watch(context, seconds or 2)
        except KeyboardInterrupt:
            if not ended_by_ctrl_c():
                raise
        return ExitCode.OK
    from rich.live import Live

    from docora_ops.jobs import BackendSource, OtherQueue
    from docora_ops.render.console import may_animate
    from docora_ops.render.status_view import status_data, status_screen

    may_show = may_animate(sys.stdout) and not as_json
    live = Live(console=context.out, transient=True) if may_show else None
    try:
        found = _read(context, live)
    finally:
        if live:
            live.stop()
    context.tell_backend()
    if not as_json:
        context.show_tables([status_screen(found)])
    else:
        context.show_document(status_data(found), next(iter(found.errors), None))
    is_on_screen = found.has_only_others and not as_json
    is_clear = found.queue and found.queue.backend_source is not BackendSource.UNCLEAR
    if is_clear and found.other_queue is OtherQueue.WORKED_ON and not is_on_screen:
        context.warn_of_others(has_workers=not found.has_only_others)
    for error in found.errors:
        context.report(error)
    return exit_code_of(found.errors[0]) if found.errors else ExitCode.OK


def _read(context: Context, live: Live | None) -> Status:
    """Reads the state. Meanwhile shows at a terminal what is known, and says what it waits for."""
    from rich.console import Group
    from rich.spinner import Spinner

    from docora_ops.actions.status import read_status
    from docora_ops.render.columns import cell
    from docora_ops.render.status_view import status_screen

    is_silent = context.as_json
    for found in read_status(
        context.database, context.redis, context.open_queue_to_read, context.store
    ):
        if not found.waiting_for:
            continue
        words = f"Waiting for {' and '.join(found.waiting_for)}."
        if live:
            live.start()
            spinner = Spinner("line", cell(words))
            live.update(Group(status_screen(found), spinner), refresh=True)
        elif not is_silent:
            context.say(words)
            is_silent = True
    return found


def _watch(context: Context, seconds: int) -> None:
    """Shows the state again and again, in place at a terminal, until nobody reads a pipe any more.

    Raises KeyboardInterrupt, and ServerError if a server refuses the login or a privilege.
    """
    from rich.constrain import Constrain
    from rich.live import Live

    from docora_ops.actions.status import Watch
    from docora_ops.errors import PostgresDeniedError, RedisDeniedError, RedisError
    from docora_ops.interrupts import Stop
    from docora_ops.render.console import may_animate
    from docora_ops.render.status_view import status_screen

    context.collect_garbage()
    compare = Watch().compare
    live = Live(console=context.out, auto_refresh=False) if may_animate(sys.stdout) else None
    began = time.monotonic()
    found = _read(context, None)
    context.tell_backend()  # later, it would break up the screen
    with live or nullcontext():
        while not getattr(sys.stdout, "has_lost_its_reader", False):
            shown = status_screen(found, compare(found, began))
            if live:
                # The terminal writes ^C behind the last line, which must not begin another.
                live.update(Constrain(shown, context.out.width - 2), refresh=True)
            else:
                context.show_tables([shown, ""], is_last=False)
            for error in found.errors:
                if isinstance(error, PostgresDeniedError | RedisDeniedError):
                    raise error
            if any(not isinstance(error, RedisError) for error in found.errors):
                context.reconnect()
            taken = time.monotonic() - began
            # In slices: a signal that comes just before a sleep is only seen after it.
            Stop().sleep(max(seconds - taken, taken * _REST))
            began = time.monotonic()
            found = _read(context, live)
