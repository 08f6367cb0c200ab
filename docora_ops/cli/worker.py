"""`worker`."""

from typing import Annotated

import typer

from docora_ops.cli import options
from docora_ops.cli.context import context_of
from docora_ops.errors import ConfigurationError, ExitCode


def worker(
    typer_context: typer.Context,
    concurrency: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            max=256,
            help="Run at most N jobs at the same time (default: SCAN_CONCURRENCY, or 5).",
        ),
    ] = None,
    burst: Annotated[bool, typer.Option("--burst", help="Quit when the queue is empty.")] = False,
    env_file: options.EnvFile = None,
) -> ExitCode:
    """Run snapshot jobs with RQ.

    SIGTERM, SIGHUP and Ctrl-C let the running jobs finish; a second signal stops them, and queues
    them again without counting a failure. Logs to stderr, one line per event. Needs the extra
    `worker`, and git.
    """
    docora = context_of(typer_context).docora
    try:
        from docora_ops.worker.start import run_workers
    except ImportError as error:
        raise ConfigurationError(
            f"the worker's packages are not installed ({error.name} is missing)",
            hint="in a clone: pipx install --force '.[worker]', or [worker] behind a wheel's name",
        ) from error
    return run_workers(docora, concurrency, burst=burst)
