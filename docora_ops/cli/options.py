"""Arguments and options that several commands have."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from docora_ops.cli.change import check_reason
from docora_ops.cli.completers import complete_app, complete_operation, complete_repo


def number(most: int, help_text: str) -> Any:
    """Makes an option that takes a number from 1 to `most`."""
    return typer.Option(metavar="N", min=1, max=most, help=help_text)


_app = typer.Argument(
    metavar="APP",
    help="App id, or the app's exact name (case aside).",
    autocompletion=complete_app,
)
_repo = typer.Argument(
    metavar="REPO",
    help="Repository id, owner/name, or GitHub URL.",
    autocompletion=complete_repo,
)
App = Annotated[str, _app]
OptionalApp = Annotated[str | None, _app]
Repo = Annotated[str, _repo]
OptionalRepo = Annotated[str | None, _repo]
OperationId = Annotated[
    str,
    typer.Argument(
        metavar="OPERATION_ID",
        help="As printed when the operation began.",
        autocompletion=complete_operation,
    ),
]
AppFilter = Annotated[
    str | None,
    typer.Option(metavar="APP", help="Only links of this app.", autocompletion=complete_app),
]
ErrorFilter = Annotated[
    str | None,
    typer.Option(
        metavar="TEXT", help="Only links whose last error contains this text, case aside."
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Show what would happen, link by link; change nothing.")
]
Reason = Annotated[
    str | None,
    typer.Option(metavar="TEXT", callback=check_reason, help="Why, for the audit entry."),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Json = Annotated[bool, typer.Option("--json", help="Print exactly one JSON document on stdout.")]
Wait = Annotated[
    bool,
    typer.Option(
        "--wait",
        help="Wait until every snapshot has succeeded or failed: exit code 7 if one failed again.",
    ),
]
Timeout = Annotated[
    int | None,
    typer.Option(
        metavar="SECONDS",
        min=1,
        max=10**9,
        help="Wait no longer than this: exit code 8, and the jobs go on.",
    ),
]
