"""`deliveries`."""

from __future__ import annotations

import sys
from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from docora_ops.cli import options
from docora_ops.cli.context import Context, context_of
from docora_ops.cli.exit_codes import ExitCode
from docora_ops.cli.verification import LIMITS, held_line, progress_of, style_of_proof, summary
from docora_ops.errors import UsageError
from docora_ops.render.columns import Column, Listing, cell
from docora_ops.text import amount, counted, mask, moment

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from docora_ops.actions.deliveries import Deliveries, DeliveryChoice, RepositoryDeliveries
    from docora_ops.database.deliveries import DeliveredFile

_LAST_ONLY = "Docora records only the last delivery of each file, and no deletions."


def deliveries(
    typer_context: typer.Context,
    app: options.App,
    repo: options.OptionalRepo = None,
    since: options.Since = None,
    until: options.Until = None,
    path: Annotated[
        str | None,
        typer.Option(
            metavar="GLOB", help="Only files whose path matches GLOB (* matches any text)."
        ),
    ] = None,
    files: Annotated[
        bool,
        typer.Option(
            "--files", help="List the files instead: path, SHA-256 and when. A pipe gets all."
        ),
    ] = False,
    limit: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, max=10_000, help="Files per page, 50 by default."),
    ] = None,
    page: Annotated[
        int | None, typer.Option(metavar="N", min=1, max=10**9, help="Page of files to show.")
    ] = None,
    as_json: options.Json = False,
    env_file: options.EnvFile = None,
) -> int:
    """Show what an app was delivered, with proof.

    Counts files by repository, with the first and last delivery. Docora records no deletions, and
    only the last delivery of each file: a file counts if its last delivery is in the period. Ends
    with the result of verify for the same links, regardless of the period. Exits with code 6 if
    files differ or a link is failed. Needs only Postgres, except to say that the app is held.
    Changes nothing.
    """
    context = context_of(typer_context)
    if not files and (limit or page):
        raise UsageError("--limit and --page need --files", hint="add --files")
    from docora_ops.actions.deliveries import DeliveryChoice, read_deliveries

    choice = DeliveryChoice(app, repo, since, until, path)
    if files:
        _list_files(context, choice, page, limit)
        return ExitCode.OK
    result = progress_of(context, read_deliveries(context.docora, choice))
    if context.as_json:
        context.show_document(result)
        context.say(_proof(result))
    else:
        context.show_tables(_screen(result))
    context.say(_LAST_ONLY)
    context.say(LIMITS)
    return ExitCode.PROBLEMS if result.proof.has_problems else ExitCode.OK


def _list_files(
    context: Context, choice: DeliveryChoice, page: int | None, limit: int | None
) -> None:
    from docora_ops.actions.deliveries import delivered_files
    from docora_ops.actions.pages import Page

    which, total, rows = delivered_files(context.docora, choice)
    where, noun = context.docora.postgres_server, "delivered file"
    if period := _period(which.since, which.until):
        where += f",{period}"
    if context.as_json or sys.stdout.isatty() or page or limit:
        number, most = page or 1, limit or 50
        shown = list(islice(rows, (number - 1) * most, number * most))
        context.show_page(Page(shown, number, most, total), _FILES, where, noun)
    else:
        context.show_tables([Listing(_FILES, rows)], f"{where}: {amount(total, noun)}.")


_FILES: Sequence[Column[DeliveredFile]] = (
    Column("Repository", lambda file: file.repository_name, narrowest=14),
    Column("Path", lambda file: file.path, folds=True),
    Column("SHA-256", lambda file: file.sha, left_out=1),
    Column("Delivered", lambda file: file.delivered_at),
)


def _at(at: datetime | None) -> str | datetime | None:
    """Returns a moment. On a terminal, omits seconds, so that two fit a row of 80 characters."""
    return f"{at:%Y-%m-%d %H:%M}" if at and sys.stdout.isatty() else at


def _result(repository: RepositoryDeliveries) -> str:
    """Says whether all files of the stored commit were delivered, in the words of `verify`."""
    said = {
        None: "no longer linked",
        "differing": "",
        "not_comparable": "no stored commit",
        "scanning": "being scanned",
    }
    kinds = ("missing", "outdated", "extra")
    counts = counted({kind: getattr(repository, kind) for kind in kinds})
    result = said.get(repository.result, repository.result)
    return ": ".join(filter(None, (result, ", ".join(counts))))


_STYLES = {"proven": "green", "differing": "bold red", "failed": "bold red"}
_REPOSITORIES: Sequence[Column[RepositoryDeliveries]] = (
    Column("Repository", lambda repo: repo.repository_name or repo.repository_id, narrowest=14),
    Column("Files", lambda repository: repository.files, is_number=True),
    Column("First (UTC)", lambda repository: _at(repository.first_at), left_out=1, narrowest=16),
    Column("Last (UTC)", lambda repository: _at(repository.last_at)),
    Column(
        "Proof",
        _result,
        lambda repository: _STYLES.get(repository.result or "", "yellow"),
        narrowest=20,
        folds=True,
    ),
)


def _period(since: datetime | None, until: datetime | None) -> str:
    begin = f" since {moment(since)}" if since else ""
    return begin + (f" before {moment(until)}" if until else "")


def _screen(result: Deliveries) -> Iterator[object]:
    if result.repositories:
        yield from (Listing(_REPOSITORIES, result.repositories, is_compact=True), "")
    # Repositories with deliveries or, if there are none, all that were compared.
    received = sum(1 for repository in result.repositories if repository.files)
    repositories = amount(received or len(result.repositories), "repository", "repositories")
    counted = f"{mask(result.app_name)}: {amount(result.files, 'file')} of {repositories}"
    yield cell(f"{counted} last delivered{_period(result.since_at, result.until_at)}.")
    yield from held_line(result.proof)
    yield cell(_proof(result), style_of_proof(result.proof))


def _proof(result: Deliveries) -> str:
    matching = f" that match {mask(result.path)!r}" if result.path else ""
    if not result.proof.links:
        return "No links."
    if not result.proof.is_complete:
        said = "delivered" if result.proof.differing else "proven"
        return f"Not all files{matching} are {said}: {summary(result.proof)}"
    stored = sum(repository.stored_files or 0 for repository in result.repositories)
    links = amount(result.proof.links, "repository", "repositories")
    if not stored:
        return f"The stored commits of {links} have no files{matching}."
    return f"All {amount(stored, 'file')}{matching} of {links} were delivered."
