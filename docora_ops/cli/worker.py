"""`worker`."""

from __future__ import annotations

import logging
import os
import re
import sys
from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated

import typer

from docora_ops.cli.context import context_of
from docora_ops.cli.exit_codes import ExitCode, exit_code_of
from docora_ops.errors import ConfigurationError, DocoraOpsError, UsageError

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,100}")


def worker(
    typer_context: typer.Context,
    burst: Annotated[bool, typer.Option("--burst", help="End when the queue is empty.")] = False,
    concurrency: Annotated[
        int,
        typer.Option(
            "--concurrency", metavar="N", min=1, max=256, help="Jobs that run at the same time."
        ),
    ] = 1,
    name: Annotated[
        str | None,
        typer.Option(
            "--name",
            metavar="NAME",
            show_default=False,
            help="Name on RQ's screens; made of host and process by default.",
        ),
    ] = None,
) -> int:
    """Run the snapshot jobs that wait in the queue, with RQ's own worker and scheduler.

    SIGTERM, SIGHUP or Ctrl-C: the job at work is finished first; a second SIGTERM or Ctrl-C kills
    it, and it is tried again. Needs the extra `worker` and git; the log goes to stderr.
    """
    context = context_of(typer_context)
    if name is not None and not _NAME.fullmatch(name):
        raise UsageError(
            f"--name {name[:100]!r} is not a name for a worker",
            hint="use up to 100 letters, digits, `_`, `.` and `-`",
        )
    try:
        from docora_ops.worker import process
    except ImportError as error:
        raise ConfigurationError(
            f"the worker's packages are not installed ({error.name} is missing)",
            hint="in a clone: pipx install --force '.[worker]', or [worker] behind a wheel's name",
        ) from error
    settings = context.settings
    process.check(settings)
    context.say_if_redis_is_implied()
    _log_to_stderr()
    context.collect_garbage()
    name = name or process.default_name()
    if concurrency == 1 and not process.needs_parent():
        process.serve(settings, name, burst=burst)
        return ExitCode.OK

    def run(number: int) -> int:
        is_only_one = concurrency == number == 1
        try:
            process.serve(settings, name if is_only_one else f"{name}-{number}", burst=burst)
        except DocoraOpsError as error:
            context.say("Error: {}", error.message, style="bold red")
            return exit_code_of(error)
        return ExitCode.OK

    return process.serve_with_children(concurrency, run)


class _OneLine(logging.Formatter):
    """Time, level and message of an event, whatever is in it, on one line."""

    def format(self, record: logging.LogRecord) -> str:
        from docora_ops.text import inert, moment

        when = moment(datetime.fromtimestamp(record.created, UTC))
        return f"{when} {record.levelname} {inert(super().format(record))}"


class _Stderr(logging.Handler):
    """Writes each event at once, and lets through what is raised meanwhile.

    RQ's signal handlers log something, perhaps in the middle of another line, and raise an
    exception that ends the worker: logging's own handlers can stand neither.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line, unless nobody reads it any more."""
        line = f"{self.format(record)}\n".encode(errors="backslashreplace")
        with suppress(OSError):
            os.write(sys.stderr.fileno(), line)


def _log_to_stderr() -> None:
    handler = _Stderr()
    handler.setFormatter(_OneLine())
    rq = logging.getLogger("rq")
    rq.handlers = [handler]
    rq.propagate = False
