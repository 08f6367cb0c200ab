"""`doctor`."""

import re
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from docora_ops.cli import options
from docora_ops.cli.context import context_of
from docora_ops.cli.output import Column, Part, Table, style_of
from docora_ops.errors import ExitCode
from docora_ops.text import amount

_COLUMNS: Sequence[Column[Any]] = (
    Column("Check", lambda check: check.name),
    Column("Status", lambda check: check.status, lambda check: style_of(check.status)),
    Column("Found", lambda check: check.detail, folds=True, wraps=True),
    Column("What to do", lambda check: check.hint, folds=True, wraps=True),
)


def _number_or_share(value: str) -> str:
    """Reads a number or a percentage. Raises ValueError."""
    if not re.fullmatch(r"[0-9]{1,9}|(100|[0-9]{1,2})%", value):
        raise ValueError(f"{value[:100]!r} is neither a number nor a percentage up to 100")
    return value


def doctor(
    typer_context: typer.Context,
    all_checks: Annotated[
        bool, typer.Option("--all", help="Also list checks that are ok.")
    ] = False,
    max_failed: Annotated[
        str | None,
        typer.Option(
            "--max-failed",
            metavar="N|P%",
            parser=_number_or_share,
            help="More failed links than N, or than P% of all links, are critical.",
        ),
    ] = None,
    as_json: options.Json = False,
    env_file: options.EnvFile = None,
) -> ExitCode:
    """Check servers, queue, workers, links and drift.

    Exits with 6 if a check is critical, with 5 if a server is down. Changes nothing. Takes 5 s
    longer if links seem to have lost their jobs, to look a second time.
    """
    context = context_of(typer_context)
    from docora_ops.actions.doctor import CheckStatus, examine

    checks, error = examine(context.docora, max_failed)
    bad = [check for check in checks if check.status is not CheckStatus.OK]
    listed = checks if all_checks else bad
    ok = len(checks) - len(bad)
    critical = sum(check.status is CheckStatus.CRITICAL for check in checks)
    parts: list[Part] = [Table(_COLUMNS, listed)] if listed else []
    summary = f"{amount(critical, 'critical check')}" if critical else "nothing is critical"
    if not bad:
        summary = "all is well"
    parts.append(f"{context.docora.servers}: {summary}, {amount(ok, 'check')} ok.")
    context.show(checks, parts)
    if error:
        return error.exit_code
    return ExitCode.PROBLEMS if critical else ExitCode.OK
