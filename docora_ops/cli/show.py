"""`show`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from docora_ops.cli import options
from docora_ops.cli.context import context_of
from docora_ops.cli.output import Column, Pairs, Part, Table, style_of
from docora_ops.links import JobState
from docora_ops.text import mask

if TYPE_CHECKING:
    from docora_ops.actions.show import LinkDetails

_LONGEST_ERROR = 400  # characters: the rest must stay on the screen

_FILES: Sequence[Column[Any]] = (
    Column("Delivered at", lambda file: file.delivered_at),
    Column("File", lambda file: file.path, folds=True),
    Column("SHA-256", lambda file: file.sha[:12], drop=1),
)


def show(
    typer_context: typer.Context,
    app: options.App,
    repo: options.Repo,
    all_files: Annotated[
        bool, typer.Option("--all", help="Also list the files that were delivered.")
    ] = False,
    as_json: options.Json = False,
    env_file: options.EnvFile = None,
) -> None:
    """Show one link: its error, its job, the next step."""
    context = context_of(typer_context)
    from docora_ops.actions.lookup import resolve_link
    from docora_ops.actions.show import read_details

    link = resolve_link(context.docora.database, app, repo)
    details = read_details(context.docora, link, all_files=all_files)
    parts: list[Part] = [_screen(details)]
    if details.files:
        parts += ["", Table(_FILES, details.files)]
    context.show(details, parts)


def _screen(details: LinkDetails) -> Pairs:
    link, job, commit = details.link, details.job, details.commit
    circuit = None
    if link.circuit_open_until:
        circuit = f"{'open until' if link.circuit_is_open else 'was open until'} "
        circuit += f"{link.circuit_open_until:%Y-%m-%dT%H:%MZ}"
    stored = None
    if commit:
        stored = f"{commit.commit_sha[:12]} on {commit.branch}, {commit.files:,} files, "
        stored += f"scanned {commit.scanned_at:%Y-%m-%dT%H:%MZ}"
    error = mask(link.error_message or "")
    if sys.stdout.isatty() and len(error) > _LONGEST_ERROR:
        error = f"{error[:_LONGEST_ERROR]}… (in full: --json)"
    waits = None
    if job.due_at:
        waits = f"{job.due_at:%Y-%m-%dT%H:%M:%SZ}"
    rows: list[tuple[str, object] | tuple[str, object, str | None]] = [
        ("App", f"{link.app_name} ({link.app_id})"),
        ("Repository", f"{link.repository_name} ({link.repository_id})"),
        ("GitHub URL", link.github_url),
        ("App's URL", link.base_url),
        ("Status", link.status, style_of(link.status)),
        ("Failed tries", link.retry_count or None),
        ("Error", error),
        ("Circuit", circuit, "yellow"),
        ("Last good scan", link.last_scanned_at),
        ("Stored commit", stored),
        ("Delivered", f"{details.delivered:,} files"),
        ("Job", job.state, style_of(job.state)),
        ("Job id", job.job_id),
        ("Job queued at", job.created_at),
        ("Job started at", job.started_at if job.state is JobState.RUNNING else None),
        ("Job due at", waits),
        ("Worker", job.worker),
        ("Next step", details.next_step, "bold"),
    ]
    return Pairs([row for row in rows if row[1] not in {None, ""}])
