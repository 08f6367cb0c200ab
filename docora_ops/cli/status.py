"""`status`, `queue` and `metrics`."""

import sys
from io import TextIOWrapper
from typing import Annotated, cast

import typer

from docora_ops.cli import options
from docora_ops.cli.completion import complete_app
from docora_ops.cli.context import context_of
from docora_ops.cli.exit_codes import ExitCode, exit_code_of
from docora_ops.errors import UsageError


def status(
    typer_context: typer.Context,
    as_json: options.Json = False,
    target: options.Target = None,
    env_file: options.EnvFile = None,
) -> int:
    """Show links, queue and workers on one screen.

    Changes nothing. Lost and stuck links are checked twice, some seconds apart, so that normal
    activity does not count. If a server is unreachable, shows what the other one knows and exits
    with code 5.
    """
    context = context_of(typer_context)
    context.docora.settings = context.docora.settings.hurried(8)
    from docora_ops.actions.monitoring import read_status
    from docora_ops.actions.workers import warn_of_other_workers
    from docora_ops.jobs import BackendSource, OtherQueue
    from docora_ops.render.columns import Pairs
    from docora_ops.render.status_view import status_rows

    found, errors = read_status(context.docora)
    if as_json:
        context.show_document(found, next(iter(errors), None))
    else:
        context.show_tables([Pairs(list(status_rows(found, errors)))])
    is_clear = found.queue and found.queue.backend_source is not BackendSource.UNCLEAR
    if is_clear and found.other_queue is OtherQueue.WORKED_ON and not found.has_only_others:
        warn_of_other_workers(context.docora, has_workers=True)
    for error in errors:
        context.report(error)
    return exit_code_of(errors[0]) if errors else ExitCode.OK


def queue(
    typer_context: typer.Context,
    app: Annotated[
        list[str] | None,
        typer.Option(
            "--app",
            metavar="APP",
            help="Show only jobs of this app (id or name). Repeatable.",
            autocompletion=complete_app,
        ),
    ] = None,
    limit: Annotated[
        int, typer.Option(metavar="N", min=1, max=10_000, help="Show at most N jobs.")
    ] = 20,
    as_json: options.Json = False,
    target: options.Target = None,
    env_file: options.EnvFile = None,
) -> None:
    """Show the queue, its workers and the first jobs.

    Needs only Redis, and Postgres with --app. The counts are those of the whole queue. Changes
    nothing.
    """
    context = context_of(typer_context)
    from docora_ops.actions.link_lists import queue
    from docora_ops.render.queue_view import queue_screens

    overview = queue(context.docora, limit, apps=app or ())
    context.show(overview, queue_screens(overview, limit))


def metrics(
    typer_context: typer.Context,
    by_app: Annotated[
        bool, typer.Option("--by-app", help="Include the number of failed links of each app.")
    ] = False,
    by_error: Annotated[
        bool, typer.Option("--by-error", help="Include the number of failed links by error.")
    ] = False,
    openmetrics: Annotated[
        bool, typer.Option("--openmetrics", help="Print OpenMetrics, which ends with # EOF.")
    ] = False,
    as_json: options.Json = False,
    target: options.Target = None,
    env_file: options.EnvFile = None,
) -> int:
    """Print metrics in the Prometheus text format.

    If a server is unreachable, omits its metrics and exits with code 5. Changes nothing.
    """
    if as_json and openmetrics:
        raise UsageError("--json and --openmetrics can't be combined", hint="remove one of them")
    context = context_of(typer_context)
    from docora_ops.actions.monitoring import read_metrics
    from docora_ops.render.status_view import prometheus_text

    found, errors = read_metrics(context.docora, by_app=by_app, by_error=by_error)
    if as_json:
        context.show_document(found, next(iter(errors), None))
    else:
        # Prometheus reads UTF-8, whatever the locale of a cron job.
        cast("TextIOWrapper", sys.stdout).reconfigure(encoding="utf-8", errors="backslashreplace")
        context.tell()
        sys.stdout.write(prometheus_text(found, openmetrics=openmetrics))
        sys.stdout.flush()
    for error in errors:
        context.report(error)
    return ExitCode.SERVER if errors else ExitCode.OK
