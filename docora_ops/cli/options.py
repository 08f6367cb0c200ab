"""Arguments and options that several commands have."""

import re
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import Annotated, Literal

import typer

from docora_ops.cli.completion import (
    complete_app,
    complete_repo,
)
from docora_ops.links import LinkStatus
from docora_ops.operations import MaxFailures
from docora_ops.text import Day, TimeOfDay, When, seconds_of

_TIME_OF_DAY = re.compile("[0-9]{1,2}:[0-9]{2}(:[0-9]{2})?Z?")
_NAMED_DAYS = {"today": Day(0), "yesterday": Day(1)}
_LONGEST_AGE = 36_500 * 86_400  # seconds
_NUMBER_OR_SHARE = re.compile("([0-9]{1,9})|(100|[0-9]{1,2})%")


def _max_failures(value: str) -> MaxFailures:
    """Reads a number or a percentage. Raises ValueError."""
    match = _NUMBER_OR_SHARE.fullmatch(value)
    if not match:
        raise ValueError(f"{value[:100]!r} is neither a number nor a percentage up to 100")
    return MaxFailures(int(match[1] or match[2]), is_percent=bool(match[2]))


def _status(value: str) -> LinkStatus:
    """Reads a status, or the beginning of one. Raises ValueError."""
    matches = [status for status in LinkStatus if status.startswith(value.lower())]
    if len(matches) != 1:
        raise ValueError(f"{value[:100]!r} is not pending_snapshot, scanning, synced or failed")
    return matches[0]


def _moment_or_age(value: str) -> When:
    """Reads a moment (UTC by default), a time of day in UTC, or an age. Raises ValueError."""
    if value in _NAMED_DAYS:
        return _NAMED_DAYS[value]
    try:
        if _TIME_OF_DAY.fullmatch(value):
            text = value.removesuffix("Z")
            return TimeOfDay(time.fromisoformat(f"0{text}" if text[1] == ":" else text))
        if value[-1:] in {*"smhd"}:  # a number alone may be a date
            return timedelta(seconds=seconds_of(value, shortest=0, longest=_LONGEST_AGE))
        moment = datetime.fromisoformat(value)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError(
            f"{value[:100]!r} is neither a moment, such as 2026-11-28T08:00, 12:00, today or "
            "yesterday (UTC), nor an age, such as 90s, 30m, 2h or 3d"
        ) from None


_app = typer.Argument(
    metavar="APP",
    help="App id or name (case-insensitive), or unique prefix.",
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
OptionalOperationId = Annotated[
    str | None,
    typer.Argument(
        metavar="OPERATION_ID",
        help="The id printed when the operation started.",
    ),
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
Statuses = Annotated[
    list[LinkStatus] | None,
    typer.Option(
        "--status",
        metavar="STATUS",
        parser=_status,
        help="Only links that are pending_snapshot, scanning, synced or failed. Repeatable.",
        autocompletion=lambda: list(LinkStatus),
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
    typer.Option(metavar="TEXT", help="Exclude links that --error would match. Repeatable."),
]
NoError = Annotated[
    bool,
    typer.Option(
        "--no-error", help="Only links without an error; with --error, also links that match it."
    ),
]
CircuitFilter = Annotated[
    Literal["open", "closed"] | None,
    typer.Option(
        "--circuit", metavar="STATE", help="Only links whose circuit is STATE (open or closed)."
    ),
]
LastScanBefore = Annotated[
    datetime | None,  # or an age: Typer knows no unions
    typer.Option(
        metavar="WHEN",
        parser=_moment_or_age,
        help="Only links with no good scan since WHEN: a moment (ISO 8601 or 12:00, UTC) or an "
        "age (2h, 3d).",
    ),
]
LastScanAfter = Annotated[
    datetime | None,
    typer.Option(
        metavar="WHEN",
        parser=_moment_or_age,
        help="Only links with a good scan since WHEN.",
    ),
]

# How links are changed
Front = Annotated[
    bool,
    typer.Option(
        "--front", help="Queue ahead of all waiting jobs. A job already waiting keeps its place."
    ),
]
Now = Annotated[
    bool, typer.Option("--now", help="Exempt this one job if its app is held (see hold).")
]
ResetCircuit = Annotated[
    bool, typer.Option("--reset-circuit", help="Also close the circuit breaker of the repository.")
]
InFlight = Annotated[
    int | None,
    typer.Option(
        "--in-flight",
        metavar="N",
        min=1,
        help="At most N snapshots in flight, shared fairly among apps. Implies --wait. Starts "
        "with 2; doubles after as many clean results; halves if one fails.",
    ),
]
Detach = Annotated[
    bool, typer.Option("--detach", help="With --in-flight: go on without this terminal.")
]
FailureLimit = Annotated[
    MaxFailures | None,
    typer.Option(
        "--max-failures",
        metavar="N|P%",
        parser=_max_failures,
        help="With --in-flight: stop queueing once more than N links, or P% of at least 20 "
        "results, have failed again (exit code 7).",
    ),
]
Wait = Annotated[
    bool, typer.Option("--wait", help="Wait for the snapshots (exit code 7 if any failed).")
]
Timeout = Annotated[
    int | None,
    typer.Option(
        metavar="TIME",
        parser=seconds_of,
        help="Stop waiting after TIME (30s, 10m, 2h or seconds; exit code 8); the jobs go on.",
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would happen; change nothing.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Skip the confirmation prompt.")]
NeedlessYes = Annotated[bool, typer.Option("--yes", "-y", help="No effect: nothing is asked.")]
"""For commands that ask nothing, so that a script may pass `--yes` to `release` as to `hold`."""
Reason = Annotated[
    str | None,
    typer.Option(metavar="TEXT", help="The reason, for the audit entry."),
]

# Selection of changes
Since = Annotated[
    datetime | None,  # or an age: Typer knows no unions
    typer.Option(
        "--since",
        metavar="WHEN",
        parser=_moment_or_age,
        help="Only what happened since WHEN: a moment (ISO 8601, 12:00, today or yesterday; UTC) "
        "or an age (90s, 30m, 2h, 3d).",
    ),
]
Until = Annotated[
    datetime | None,
    typer.Option(
        "--until", metavar="WHEN", parser=_moment_or_age, help="Only what happened before WHEN."
    ),
]
OfOperation = Annotated[
    str | None,
    typer.Option(
        "--operation",
        metavar="ID",
        help="Only this bulk operation.",
    ),
]

# What is printed, and where the settings come from
Limit = Annotated[int, typer.Option(metavar="N", min=1, max=10_000, help="Rows per page.")]
PageNumber = Annotated[int, typer.Option(metavar="N", min=1, max=10**9, help="Page to show.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
EnvFile = Annotated[
    Path | None,
    typer.Option(
        "--env-file", metavar="PATH", help="Settings file; the environment takes precedence."
    ),
]
