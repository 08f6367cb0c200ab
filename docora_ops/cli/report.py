"""`report`."""

from dataclasses import replace
from typing import Annotated

import typer

from docora_ops.cli import options
from docora_ops.cli.context import context_of
from docora_ops.cli.exit_codes import ExitCode, exit_code_of
from docora_ops.cli.status import status_rows
from docora_ops.cli.verify import compare
from docora_ops.errors import PostgresError, UsageError


def report(
    typer_context: typer.Context,
    since: options.Since = None,
    operation: options.OfOperation = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Also compare what was delivered, as verify does.")
    ] = False,
    as_json: options.Json = False,
    target: options.Target = None,
    env_file: options.EnvFile = None,
) -> int:
    """Print a report of an incident in Markdown.

    Shows who did what, when and why, which links failed again, and the current state. Can be pasted
    into an issue. Covers the last 24 hours by default. With --verify, exits with code 6 if links
    differ. Changes nothing.
    """
    context = context_of(typer_context)
    if since is not None and operation is not None:
        raise UsageError("--since and --operation can't be combined", hint="remove one of them")
    from docora_ops.actions.report import read_report
    from docora_ops.render.report_view import report_markdown

    found, errors = read_report(context.docora, since=since, operation_id=operation)
    if verify and not any(isinstance(each, PostgresError) for each in errors):
        try:
            found = replace(found, verification=compare(context))
        except PostgresError as lost:
            errors = [*errors, lost]
    if as_json:
        context.show_document(found, next(iter(errors), None))
    else:
        is_verified = found.verification is not None
        state = status_rows(found.status, errors, is_verified=is_verified)
        markdown = report_markdown(found, state, with_proof=verify)
        context.show_tables([markdown], paged=True)
    for error in errors:
        context.report(error)
    if errors:
        return exit_code_of(errors[0])
    differs = found.verification is not None and found.verification.differing
    return ExitCode.PROBLEMS if differs else ExitCode.OK
