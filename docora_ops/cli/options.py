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
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Show what would happen, link by link; change nothing.")
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print exactly one JSON document on stdout.")
]
