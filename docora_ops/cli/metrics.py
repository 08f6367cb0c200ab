"""`metrics`."""

import sys
from io import TextIOWrapper
from typing import Annotated, cast

import typer

from docora_ops.cli import options
from docora_ops.cli.context import context_of
from docora_ops.cli.exit_codes import ExitCode


def metrics(
    typer_context: typer.Context,
    by_app: Annotated[
        bool, typer.Option("--by-app", help="Include the number of failed links of each app.")
    ] = False,
    as_json: options.Json = False,
    env_file: options.EnvFile = None,
) -> int:
    """Print metrics in the Prometheus text format.

    If a server is unreachable, omits its metrics and exits with code 5. Changes nothing.
    """
    context = context_of(typer_context)
    from docora_ops.actions.monitoring import read_metrics
    from docora_ops.actions.workers import warn_of_other_workers
    from docora_ops.render.metrics_view import metrics_data, prometheus_text

    found = read_metrics(context.docora, by_app=by_app)
    if as_json:
        context.show_document(metrics_data(found), next(iter(found.errors.values()), None))
    else:
        # Prometheus reads UTF-8, whatever the locale of a cron job.
        cast("TextIOWrapper", sys.stdout).reconfigure(encoding="utf-8", errors="backslashreplace")
        context.show_text([prometheus_text(found).removesuffix("\n")])
    if found.backend_ok is False and context.docora.backend.is_clear:
        has_workers = bool(found.queue and found.queue.workers)
        warn_of_other_workers(context.docora, has_workers=has_workers)
    for error in found.errors.values():
        context.report(error)
    return ExitCode.SERVER if found.errors else ExitCode.OK
