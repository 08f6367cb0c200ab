"""`worker`."""

import gc
import logging
import os
import socket
from typing import Annotated, Literal

import typer

from docora_ops.cli import options
from docora_ops.cli.context import Context, context_of
from docora_ops.cli.exit_codes import ExitCode, exit_code_of
from docora_ops.errors import ConfigurationError, DocoraOpsError, UsageError
from docora_ops.text import ago, duration, inert, seconds_of


def worker(
    typer_context: typer.Context,
    burst: Annotated[bool, typer.Option("--burst", help="Quit when the queue is empty.")] = False,
    concurrency: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            max=256,
            help="Run at most N jobs at the same time (default: SCAN_CONCURRENCY, or 5).",
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Name of the worker in RQ (default: host and process)."),
    ] = None,
    grace: Annotated[
        int | None,
        typer.Option(
            metavar="TIME",
            parser=seconds_of,
            help="Stop the current job TIME (30s, 10m or seconds) after a signal (default: let it "
            "finish).",
        ),
    ] = None,
    log_format: Annotated[
        Literal["text", "json"],
        typer.Option(help="Log lines of text, or JSON objects."),
    ] = "text",
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Start nothing: exit with 0 if the worker of this machine is alive, else with 6.",
        ),
    ] = False,
    env_file: options.EnvFile = None,
) -> int:
    """Run snapshot jobs with RQ.

    SIGTERM, SIGHUP and Ctrl-C let the current job finish. A second signal, or the end of --grace,
    stops the job and queues it again without counting a failure. Logs to stderr, one line per
    event. Needs the extra `worker`, and git.
    """
    context = context_of(typer_context)
    if check:
        return _check(context)
    if name and not (name.isascii() and name.isprintable() and " " not in name):
        raise UsageError(
            f"--name {name[:100]!r}: not a valid name for a Redis client",
            hint="use ASCII letters, digits and punctuation, without spaces",
        )
    try:
        from docora_ops.actions.docora import require_rq
        from docora_ops.worker import process
        from docora_ops.worker.log import OneLineHandler, log
        from docora_ops.worker.watchdog import Watchdog

        handler = OneLineHandler(as_json=log_format == "json")
    except ImportError as error:
        raise extra_is_missing(error) from error
    logger = logging.getLogger("rq")  # the parent of `log`
    logger.handlers, logger.propagate = [handler], False

    def report(error: DocoraOpsError) -> ExitCode:
        if log_format == "text":
            return context.report(error)
        line = f"{error.message} ({error.hint})" if error.hint else error.message
        log.error("%s", inert(line))
        return exit_code_of(error)

    try:
        require_rq(
            context.docora,
            "the worker",
            "leave the work to Docora's own workers, or stop these: see docora-ops help workers",
            alone="each link would be worked on twice",
        )
        settings = context.docora.settings
        process.prepare(settings)
    except DocoraOpsError as error:
        return report(error)
    if log_format == "json":
        for notice in context.docora.notices:
            log.warning("%s", inert(notice))
        context.docora.notices.clear()
    context.tell()
    context.docora.redis.close()  # each process has a connection of its own
    gc.freeze()
    gc.set_threshold(700)  # unlike other commands, a worker lives long
    prefix = name or f"{socket.gethostname()}.{os.getpid()}.{os.urandom(2).hex()}"
    count = concurrency or settings.scan_concurrency
    watchdog = Watchdog(prefix, count, settings)
    parent = os.getpid()

    def run(number: int, parent: int | None = parent) -> int:
        own_name = prefix if count == number == 1 else f"{prefix}-{number}"
        try:
            process.serve(settings, own_name, watchdog, burst=burst, grace=grace, parent=parent)
        except DocoraOpsError as error:
            return report(error)
        return ExitCode.OK

    try:
        # PID 1, as in a container without an init, becomes the parent of orphaned processes, such
        # as the git of a killed job. RQ's worker reaps only its own children, so orphans would
        # remain as zombies.
        if count == 1 and parent != 1:
            return run(1, None)
        return process.serve_with_children(count, run, watchdog)
    finally:
        watchdog.close()


def extra_is_missing(error: ImportError) -> ConfigurationError:
    """Returns the error for a command that needs the extra `worker`."""
    return ConfigurationError(
        f"the worker's packages are not installed ({error.name} is missing)",
        hint="in a clone: pipx install --force '.[worker]', or [worker] behind a wheel's name",
    )


def _check(context: Context) -> ExitCode:
    """Says whether the worker of this machine is alive, without connecting to a server."""
    from docora_ops.worker.heartbeat import heartbeat_path, read_heartbeat

    path = heartbeat_path(context.docora.settings)
    heartbeat = read_heartbeat(path)
    if heartbeat is None:
        context.say(f"Error: no worker is running: there is no heartbeat file {path}")
        context.say("Hint: start one, or run the check with the user and settings of the worker")
        return ExitCode.PROBLEMS
    about = f"worker {heartbeat.worker} (process {heartbeat.pid})"
    limit = f"limit {duration(heartbeat.limit_seconds)}"
    if heartbeat.is_recent:
        context.show_tables(
            [f"{inert(about)} is alive: last heartbeat {ago(heartbeat.age)} ({limit})"]
        )
        return ExitCode.OK
    since = "before the last restart of this machine"
    if heartbeat.age >= 0:
        since = ago(heartbeat.age)
    context.say(f"Error: {about} hangs or was killed: last heartbeat {since} ({limit})")
    return ExitCode.PROBLEMS
