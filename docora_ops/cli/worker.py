"""`worker`."""

import gc
import logging
import os
import socket
from typing import Annotated

import typer

from docora_ops.cli import options
from docora_ops.cli.context import context_of
from docora_ops.cli.exit_codes import ExitCode
from docora_ops.errors import ConfigurationError, DocoraOpsError, WrongBackendError


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
            metavar="SECONDS",
            min=1,
            max=86_400,
            help="Stop the current job SECONDS after a signal (default: let it finish).",
        ),
    ] = None,
    env_file: options.EnvFile = None,
) -> int:
    """Run snapshot jobs with RQ.

    SIGTERM, SIGHUP and Ctrl-C let the current job finish. A second signal, or the end of --grace,
    stops the job and queues it again without counting a failure. Logs to stderr, one line per
    event. Needs the extra `worker`, and git.
    """
    context = context_of(typer_context)
    from docora_ops.actions.workers import require_rq
    from docora_ops.jobs import OtherQueue

    try:
        from docora_ops.worker import process
        from docora_ops.worker.log import OneLineHandler
    except ImportError as error:
        raise ConfigurationError(
            f"the worker's packages are not installed ({error.name} is missing)",
            hint="in a clone: pipx install --force '.[worker]', or [worker] behind a wheel's name",
        ) from error
    require_rq(
        context.docora,
        "the worker",
        "Docora's own workers run the jobs: see docora-ops help workers",
    )
    settings = context.docora.settings
    process.check(settings)
    if context.docora.queue.read_other() is OtherQueue.WORKED_ON:
        raise WrongBackendError(
            "a BullMQ worker of Docora is at work: each link would be worked on twice",
            hint="stop it first, or leave the work to it: see docora-ops help workers",
        )
    context.tell()
    context.docora.redis.close()  # each process has a connection of its own
    log = logging.getLogger("rq")
    log.handlers, log.propagate = [OneLineHandler()], False
    gc.freeze()
    gc.set_threshold(700)  # it lives long
    prefix = name or f"{socket.gethostname()}.{os.getpid()}.{os.urandom(2).hex()}"
    count = concurrency or settings.scan_concurrency
    # PID 1, as in a container without an init, becomes the parent of orphans, such as the git of a
    # killed job. RQ's worker waits for its own child processes only: others would stay as zombies.
    if count == 1 and os.getpid() != 1:
        process.serve(settings, prefix, burst=burst, grace=grace)
        return ExitCode.OK
    parent = os.getpid()

    def run(number: int) -> int:
        own_name = prefix if count == number == 1 else f"{prefix}-{number}"
        try:
            process.serve(settings, own_name, burst=burst, grace=grace, parent=parent)
        except DocoraOpsError as error:
            return context.report(error)
        return ExitCode.OK

    return process.serve_with_children(count, run)
