"""Arguments and options that several commands have."""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from docora_ops.bulk import MaxFailures
from docora_ops.cli.change import check_reason
from docora_ops.cli.completers import complete_app, complete_operation, complete_repo
from docora_ops.errors import UsageError
from docora_ops.links import LinkStatus

if TYPE_CHECKING:
    from docora_ops.actions import LinkChoice


_NUMBER_OR_SHARE = re.compile("([0-9]{1,9})|(100|[0-9]{1,2})%")


def number(most: int, help_text: str) -> Any:
    """Makes an option that takes a number from 1 to `most`."""
    return typer.Option(metavar="N", min=1, max=most, help=help_text)


Limit = Annotated[int, number(10_000, "Rows of a page.")]
PageNumber = Annotated[int, number(10**9, "Which page.")]
_app = typer.Argument(
    metavar="APP",
    help="App id or name, case aside, or how the only one begins.",
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


def _max_failures(text: str) -> MaxFailures:
    """Reads a number or a percentage. Raises UsageError."""
    found = _NUMBER_OR_SHARE.fullmatch(text)
    if not found:
        raise UsageError(
            f"--max-failures {text[:100]!r} is neither a number nor a percentage up to 100",
            hint="use a number of links, or a percentage: --max-failures 10%",
        )
    return MaxFailures(int(found[1] or found[2]), is_percent=bool(found[2]))


class Circuit(StrEnum):
    """The states of a circuit that links can be chosen by."""

    OPEN = "open"


Apps = Annotated[
    list[str] | None,
    typer.Option(
        "--app",
        metavar="APP",
        help="Only links of this app, by id or name. Repeatable.",
        autocompletion=complete_app,
    ),
]
ExcludeApps = Annotated[
    list[str] | None,
    typer.Option(
        "--exclude-app",
        metavar="APP",
        help="Exclude links of this app, by id or name. Repeatable.",
        autocompletion=complete_app,
    ),
]
Repositories = Annotated[
    list[str] | None,
    typer.Option(
        "--repo",
        metavar="REPO",
        help="Only links of this repository, by id, owner/name or URL; 'octo/*' stands for all "
        "repositories of octo. Repeatable.",
        autocompletion=complete_repo,
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
Errors = Annotated[
    list[str] | None,
    typer.Option(
        "--error",
        metavar="TEXT",
        help="Only links whose last error contains this text, case aside. With * for anything, "
        "the text must be the whole error. Repeatable.",
    ),
]
ExcludeErrors = Annotated[
    list[str] | None,
    typer.Option(
        "--exclude-error", metavar="TEXT", help="No links that --error TEXT chooses. Repeatable."
    ),
]
NoError = Annotated[
    bool,
    typer.Option("--no-error", help="Only links without an error, or that --error TEXT chooses."),
]
CircuitFilter = Annotated[
    Circuit | None,
    typer.Option(
        "--circuit",
        metavar="open",
        help="Only links of repositories whose circuit breaker is open.",
    ),
]
Front = Annotated[
    bool,
    typer.Option(
        "--front", help="Queue ahead of all waiting jobs. A job that waits already keeps its place."
    ),
]
ResetCircuit = Annotated[
    bool,
    typer.Option(
        "--reset-circuit",
        help="Close the repository's circuit too: the scheduler queues its links again.",
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would happen; change nothing.")]
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
InFlight = Annotated[
    int | None,
    typer.Option(
        "--in-flight",
        metavar="N",
        min=1,
        max=10**6,
        help="Queue a link only when another one has its result, so that at most N have none; "
        "apps share them. Waits like --wait.",
    ),
]
FailureLimit = Annotated[
    MaxFailures | None,
    typer.Option(
        "--max-failures",
        metavar="N|P%",
        parser=_max_failures,
        help="With --in-flight: queue no more once more than N links, or P% of at least 20, have "
        "failed again: exit code 7.",
    ),
]


def link_choice(typer_context: typer.Context, statuses: Sequence[LinkStatus] = ()) -> LinkChoice:
    """Returns the links that the options of the command choose."""
    from docora_ops.actions import LinkChoice

    given = typer_context.params
    return LinkChoice(
        apps=given["app"] or (),
        exclude_apps=given["exclude_app"] or (),
        repositories=given["repo"] or (),
        statuses=statuses,
        errors=given["error"] or (),
        exclude_errors=given["exclude_error"] or (),
        no_error=given["no_error"],
        open_circuit=given["circuit"] is Circuit.OPEN,
    )
