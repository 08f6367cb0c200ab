"""Arguments and options, each named once. Commands refer to them by these aliases."""

import shlex
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from docora_ops.cli.completion import complete_app, complete_repo
from docora_ops.links import LinkStatus
from docora_ops.text import seconds_of

_app = typer.Argument(
    metavar="APP",
    help="App id or name (case-insensitive), or unique prefix.",
    autocompletion=complete_app,
)
_repo = typer.Argument(
    metavar="REPO", help="Repository id, owner/name, or GitHub URL.", autocompletion=complete_repo
)
App = Annotated[str, _app]
OptionalApp = Annotated[str | None, _app]
Repo = Annotated[str, _repo]
OptionalRepo = Annotated[str | None, _repo]
OperationId = Annotated[
    str | None,
    typer.Argument(metavar="OPERATION_ID", help="The id printed when the operation started."),
]

# Selection of links
Apps = Annotated[
    list[str] | None,
    typer.Option(
        "--app",
        metavar="APP",
        help="Only links of this app (id or name). Repeatable.",
        autocompletion=complete_app,
    ),
]
ExcludeApps = Annotated[
    list[str] | None,
    typer.Option(
        "--exclude-app",
        metavar="APP",
        help="Exclude links of this app. Repeatable.",
        autocompletion=complete_app,
    ),
]
Repositories = Annotated[
    list[str] | None,
    typer.Option(
        "--repo",
        metavar="REPO",
        help="Only links of this repository (id, owner/name or URL; 'octo/*' matches all of octo). "
        "Repeatable.",
        autocompletion=complete_repo,
    ),
]
Errors = Annotated[
    list[str] | None,
    typer.Option(
        "--error",
        metavar="TEXT",
        help="Only links whose last error contains TEXT (case-insensitive). If TEXT has a *, it "
        "must match the whole error. Repeatable.",
    ),
]
ExcludeErrors = Annotated[
    list[str] | None,
    typer.Option(
        "--exclude-error",
        metavar="TEXT",
        help="Exclude links that --error would match. Repeatable.",
    ),
]
Circuit = Annotated[
    Literal["open", "closed"] | None,
    typer.Option(
        "--circuit", metavar="STATE", help="Only links whose circuit is STATE (open or closed)."
    ),
]
Statuses = Annotated[
    list[LinkStatus] | None,
    typer.Option(
        "--status",
        metavar="STATUS",
        help="Only links that are pending_snapshot, scanning, synced or failed. Repeatable.",
    ),
]
Overdue = Annotated[
    bool, typer.Option("--overdue", help="Only links that have not been scanned for too long.")
]

# How links are changed
BulkLimit = Annotated[
    int | None,
    typer.Option("--limit", metavar="N", min=1, help="At most N links, spread evenly across apps."),
]
ResetCircuit = Annotated[
    bool, typer.Option("--reset-circuit", help="Also close the circuit breaker of the repository.")
]
Wait = Annotated[
    bool, typer.Option("--wait", help="Wait for the snapshots (exit code 7 if any failed).")
]
Timeout = Annotated[
    int | None,
    typer.Option(
        "--timeout",
        metavar="TIME",
        parser=seconds_of,
        help="Stop waiting after TIME (30s, 10m, 2h or seconds; exit code 8); the jobs go on.",
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would happen; change nothing.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Skip the confirmation prompt.")]
Reason = Annotated[
    str | None,
    typer.Option("--reason", metavar="TEXT", help="The reason, for the record of operations."),
]

# What is printed, and where the settings come from
Limit = Annotated[
    int, typer.Option("--limit", metavar="N", min=1, max=10_000, help="Rows per page.")
]
PageNumber = Annotated[
    int, typer.Option("--page", metavar="N", min=1, max=10**9, help="Page to show.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
EnvFile = Annotated[
    Path | None,
    typer.Option(
        "--env-file", metavar="PATH", help="Settings file; the environment takes precedence."
    ),
]


# Options that select links, and the arguments of `choose_links` that they become.
SELECTING = {
    "app": "apps",
    "exclude_app": "exclude_apps",
    "repo": "repositories",
    "status": "statuses",
    "error": "errors",
    "exclude_error": "exclude_errors",
    "circuit": "circuit",
    "overdue": "overdue",
}


def selection(typer_context: typer.Context) -> dict[str, Any]:
    """Returns the arguments of `choose_links` as the options of a command give them."""
    chosen = typer_context.params
    return {name: chosen[option] for option, name in SELECTING.items() if chosen.get(option)}


def in_words(typer_context: typer.Context) -> str:
    """Returns the options that select links, for the shell: `--app Acme --error 502`."""
    parts = []
    for option in (*SELECTING, "limit"):
        value = typer_context.params.get(option)
        for item in value if isinstance(value, list | tuple) else [value] if value else []:
            parts += [f"--{option.replace('_', '-')}", *([] if item is True else [str(item)])]
    return shlex.join(parts)
