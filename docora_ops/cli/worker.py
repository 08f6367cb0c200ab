"""`worker`."""

from __future__ import annotations

import logging
import re
from datetime import UTC, datetime
from typing import Annotated

import typer

from docora_ops.cli import options
from docora_ops.cli.context import context_of
from docora_ops.cli.exit_codes import ExitCode
from docora_ops.cli.streams import write_at_once
from docora_ops.errors import (
    ConfigurationError,
    DocoraOpsError,
    UsageError,
    WrongBackendError,
)

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,100}")
_SAID_BY_US = (
    "Work horse killed for job",
    "Worker %s: job %s failed (",
    "Worker %s: job %s stopped by user",
    "Worker %s: cold shut down",
    "%s cleanup: %s %s",
)
"""The beginnings of RQ's warnings about events for which we log a line of our own."""


def worker(
    typer_context: typer.Context,
    burst: Annotated[bool, typer.Option("--burst", help="Quit when the queue is empty.")] = False,
    concurrency: Annotated[
        int | None,
        options.number(
            256, "Run at most N jobs at the same time (default: SCAN_CONCURRENCY, or 5)."
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Name of the worker in RQ (default: host and process)."),
    ] = None,
    grace: Annotated[
        int | None,
        typer.Option(
            metavar="SECONDS",
            min=1,
            max=86_400,
            help="Stop the current job SECONDS after a signal (default: let it finish).",
        ),
    ] = None,
    verbose: Annotated[
        bool,
        typer.Option("--verbose", help="Log everything RQ logs, not just its warnings."),
    ] = False,
    env_file: options.EnvFile = None,
) -> int:
    """Run snapshot jobs with RQ's worker and scheduler.

    SIGTERM, SIGHUP and Ctrl-C let the current job finish. A second SIGTERM or Ctrl-C, or the end of
    --grace, stops the job and queues it again without counting a failure. Logs to stderr, one line
    per event. Needs the extra `worker`, and git.
    """
    context = context_of(typer_context)
    if name is not None and not _NAME.fullmatch(name):
        raise UsageError(
            f"--name {name[:100]!r} is not a name for a worker",
            hint="use up to 100 letters, digits, `_`, `.` and `-`",
        )
    from docora_ops.jobs import OtherQueue

    try:
        from docora_ops.worker import process
    except ImportError as error:
        raise ConfigurationError(
            f"the worker's packages are not installed ({error.name} is missing)",
            hint="in a clone: pipx install --force '.[worker]', or [worker] behind a wheel's name",
        ) from error
    context.require_rq(
        "the worker", "Docora's own workers run the jobs: see docora-ops help workers"
    )
    settings = context.settings
    process.check(settings)
    if context.queue.read_other() is OtherQueue.WORKED_ON:
        raise WrongBackendError(
            "a BullMQ worker of Docora is at work: each link would be worked on twice",
            hint="stop it first, or leave the work to it: see docora-ops help workers",
        )
    context.redis.close()  # each process has a connection of its own
    log = logging.getLogger("rq")
    log.handlers, log.propagate = [_StderrHandler(everything=verbose)], False
    context.collect_garbage()
    name = name or process.default_name()
    count = concurrency or settings.scan_concurrency
    if count == 1 and not process.needs_parent():
        process.serve(settings, name, burst=burst, grace=grace)
        return ExitCode.OK

    def run(number: int) -> int:
        is_only_one = count == number == 1
        try:
            own_name = name if is_only_one else f"{name}-{number}"
            process.serve(settings, own_name, burst=burst, grace=grace)
        except DocoraOpsError as error:
            return context.report(error)
        return ExitCode.OK

    return process.serve_with_children(count, run)


class _StderrHandler(logging.Handler):
    """Writes each event on one line, in one call, and lets exceptions through.

    RQ's signal handlers log while another line is being logged, and raise an exception that ends
    the worker. The handlers of `logging` support neither.
    """

    def __init__(self, *, everything: bool = False) -> None:
        """Writes only warnings and errors of RQ itself, unless `everything` is wanted."""
        super().__init__()
        self._everything = everything

    def emit(self, record: logging.LogRecord) -> None:
        """Writes the line, unless stderr is closed."""
        from docora_ops.text import inert, moment
        from docora_ops.worker.log import NAME

        is_needed = record.name == NAME or (
            record.levelno >= logging.WARNING and not str(record.msg).startswith(_SAID_BY_US)
        )
        if not (self._everything or is_needed):
            return
        when = moment(datetime.fromtimestamp(record.created, UTC))
        write_at_once(f"{when} {record.levelname} {inert(self.format(record))}\n")
