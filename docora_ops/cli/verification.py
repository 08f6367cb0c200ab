"""`verify`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from docora_ops.cli import options
from docora_ops.cli.context import Context, context_of
from docora_ops.cli.exit_codes import ExitCode
from docora_ops.links import only_app
from docora_ops.render.columns import ROWS_SHOWN, Column, Listing, cell, link_name, words
from docora_ops.text import amount, counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from docora_ops.actions.drift import Suspects
    from docora_ops.actions.verification import Compared, DifferingLink, Verification

T = TypeVar("T")

LIMITS = "This compares Docora's records, not newer commits or what is on the app's disk."


def verify(
    typer_context: typer.Context,
    app: options.OptionalApp = None,
    repo: options.OptionalRepo = None,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="Exit with code 6 also if a link is uncertain or skipped, or without links.",
        ),
    ] = False,
    as_json: options.Json = False,
    env_file: options.EnvFile = None,
) -> int:
    """Compare what was delivered with the stored commits.

    Compares delivery records with the stored commit of the repository, by path and SHA-256, for all
    links, one app or one link. Lists links with missing, outdated or extra files (exit code 6, as
    for failed links), and links that are uncertain because the commit may be newer than their last
    scan. Compares twice, some seconds apart, so that normal activity does not count. Needs only
    Postgres, except to name the held apps. Changes nothing.
    """
    context = context_of(typer_context)
    from docora_ops.actions.verification import verify

    result = progress_of(context, verify(context.docora, app, repo))
    if context.as_json:
        context.show_document(result)
        context.say(summary(result))
    else:
        context.show_tables(_screen(result))
    context.say(LIMITS)
    is_unproven = not result.links or result.proven + result.not_comparable < result.links
    is_problem = result.has_problems or (strict and is_unproven)
    return ExitCode.PROBLEMS if is_problem else ExitCode.OK


def progress_of(context: Context, events: Iterator[Compared | Suspects | T]) -> T:
    """Shows the progress of a comparison. Returns its result, which is the last event."""
    from docora_ops.actions.drift import Suspects
    from docora_ops.actions.verification import Compared
    from docora_ops.render.console import progress_bar

    _ = context.docora.database  # reports unusable settings before the progress bar appears
    with progress_bar(None, "comparing") as move:
        for event in context.telling_of_second_look(events, "link differs", "links differ"):
            if isinstance(event, Compared):
                move(event.links, None, event.total)
            elif not isinstance(event, Suspects):
                result = event
    return result


_COLUMNS: Sequence[Column[DifferingLink]] = (
    Column("Link", link_name, narrowest=16),
    Column(
        "Result",
        lambda link: f"uncertain: {words(link.doubt)}" if link.doubt else "differs",
        lambda link: "yellow" if link.doubt else "bold red",
        narrowest=16,  # the longest doubt, below `uncertain:`
    ),
    Column("Missing", lambda link: link.missing, is_number=True, left_out=2),
    Column("Outdated", lambda link: link.outdated, is_number=True, left_out=2),
    Column("Extra", lambda link: link.extra, is_number=True, left_out=2),
    Column("Files", lambda link: "; ".join(_files(link)), folds=True),
    Column("Job id", lambda link: link.job_id, left_out=1),
)


def _files(link: DifferingLink) -> Iterator[str]:
    counts = {"missing": link.missing, "outdated": link.outdated, "extra": link.extra}
    for difference, count in counts.items():
        paths = [file.path for file in link.examples if file.difference == difference]
        if count:
            shown = [*paths, *(["…"] if count > len(paths) else [])]
            yield f"{count:,} {difference}: {', '.join(shown)}"


def _screen(result: Verification) -> Iterator[object]:
    if links := [*result.differing_links, *result.uncertain_links]:
        yield from (Listing(_COLUMNS, links, ROWS_SHOWN), "")
        if result.uncertain:
            uncertain = "Uncertain: the next good scan sends what is missing. Then:"
            yield cell(f"{uncertain} docora-ops verify {_which(result.uncertain_links)}".rstrip())
        yield cell(_how_to_resync(result.differing_links or links))
    if result.failed:
        yield cell("The failed links and their errors: docora-ops failed")
    yield from held_line(result)
    yield cell(summary(result), style_of_proof(result))


def style_of_proof(result: Verification) -> str:
    """Returns red if a link differs or is failed, green if all are proven, otherwise yellow."""
    if result.has_problems:
        return "bold red"
    return "green" if result.is_complete else "yellow"


def held_line(result: Verification) -> Iterator[object]:
    """Names the held apps, whose files may be missing because of the hold."""
    from docora_ops.actions.holds import held_in_words

    if result.held:
        app = only_app([app.app_id for app in result.held]) or "APP"
        held = f"{held_in_words(result.held)}, nothing is sent"
        yield cell(f"{held}: docora-ops release {app}", "yellow")


def _how_to_resync(links: Sequence[DifferingLink]) -> str:
    whose, which = link_name(links[0]), _which(links)
    if not which:
        whose, which = "a link", "APP REPO"
    elif len(links) > 1:
        whose, which = links[0].app_name or links[0].app_id, f"{which} --all"
    update = " --update" if any(link.extra for link in links) else ""
    return f"To send all files of {whose} again: docora-ops resync {which}{update}"


def _which(links: Sequence[DifferingLink]) -> str:
    """Returns the only link or the only app as arguments; empty if there are several apps."""
    return links[0].words if len(links) == 1 else only_app({link.app_id for link in links})


def summary(result: Verification) -> str:
    """Counts the links by result, in a sentence."""
    if not result.links:
        return "No links."
    skipped = {
        "pending": result.pending,
        "being scanned": result.scanning,
        "changing": result.changing,
    }
    total = sum(skipped.values())
    reasons = ", ".join(counted(skipped))
    parts = {
        amount(result.differing, "link differs", "links differ"): result.differing,
        f"{amount(result.failed, 'link is', 'links are')} failed": result.failed,
        f"{amount(result.proven, 'link')} proven": True,
        f"{result.uncertain} uncertain": result.uncertain,
        f"{result.not_comparable} without a stored commit": result.not_comparable,
        f"{total} skipped ({reasons})": total,
    }
    return ", ".join(part for part, is_said in parts.items() if is_said) + "."
