"""Arguments and options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

AppArgument = Annotated[
    str,
    typer.Argument(
        metavar="APP", show_default=False, help="App id, or the app's exact name (case aside)."
    ),
]
RepoArgument = Annotated[
    str,
    typer.Argument(
        metavar="REPO", show_default=False, help="Repository id, owner/name, or GitHub URL."
    ),
]
OptionalRepoArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="REPO", show_default=False, help="Repository id, owner/name, or GitHub URL."
    ),
]
OperationArgument = Annotated[
    str,
    typer.Argument(
        metavar="OPERATION_ID", show_default=False, help="As printed when the operation began."
    ),
]
AppOption = Annotated[
    str | None,
    typer.Option("--app", metavar="APP", show_default=False, help="Only links of this app."),
]
ErrorOption = Annotated[
    str | None,
    typer.Option(
        "--error",
        metavar="TEXT",
        show_default=False,
        help="Only links whose last error contains this text, case aside.",
    ),
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Show what would happen, link by link; change nothing.")
]
ReasonOption = Annotated[
    str | None,
    typer.Option("--reason", metavar="TEXT", show_default=False, help="Why, for the audit trail."),
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print exactly one JSON document on stdout.")
]
WaitOption = Annotated[
    bool,
    typer.Option(
        "--wait", help="Wait for what the snapshots come to: exit code 7 if one failed again."
    ),
]
TimeoutOption = Annotated[
    int | None,
    typer.Option(
        "--timeout",
        metavar="SECONDS",
        min=1,
        max=10**9,
        show_default=False,
        help="Wait no longer than this: exit code 8, and the jobs go on.",
    ),
]
