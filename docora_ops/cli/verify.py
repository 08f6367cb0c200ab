"""`verify`."""

from collections.abc import Sequence
from typing import Any

import typer

from docora_ops.cli import options
from docora_ops.cli.context import context_of
from docora_ops.cli.output import Column, Part, Table, style_of
from docora_ops.cli.progress import progress_bar
from docora_ops.errors import ExitCode
from docora_ops.links import arguments
from docora_ops.text import amount

_COLUMNS: Sequence[Column[Any]] = (
    Column("App", lambda link: link.app_name),
    Column("Repository", lambda link: link.repository_name),
    Column(
        "Result",
        lambda link: "differs" if link.is_own else "uncertain",
        lambda link: style_of("failed" if link.is_own else "warning"),
    ),
    Column("Missing", lambda link: link.missing, is_number=True),
    Column("Outdated", lambda link: link.outdated, is_number=True),
    Column("Extra", lambda link: link.extra, is_number=True),
    Column("Files", lambda link: ", ".join(link.examples), folds=True),
    Column("Scanned at", lambda link: link.last_scanned_at, drop=1),
)


def verify(
    typer_context: typer.Context,
    app: options.OptionalApp = None,
    repo: options.OptionalRepo = None,
    as_json: options.Json = False,
    env_file: options.EnvFile = None,
) -> ExitCode:
    """Compare what was delivered with the stored commits.

    Compares all links, those of one app, or one link. Exits with 6 if a link differs or is failed.
    Proven: exactly the files of the commit were delivered. Uncertain: the repository was scanned
    later for another app; run verify again after the link's next scan. No commit: nothing is stored
    to compare with. At work: pending, or being scanned. Knows Docora's records, not newer commits
    or what is on the app's disk.
    """
    context = context_of(typer_context)
    from docora_ops.actions.changes import select_links
    from docora_ops.actions.lookup import resolve_app, resolve_link
    from docora_ops.actions.verify import Verdict, verify
    from docora_ops.links import LinkFilter

    database = context.docora.database
    if app is not None and repo is not None:
        ids = [resolve_link(database, app, repo).id]
    else:
        app_ids = [resolve_app(database, app).app_id] if app is not None else []
        ids = select_links(context.docora, LinkFilter(app_ids=app_ids))
    with progress_bar(len(ids), "comparing") as move:
        for result in verify(context.docora, ids):
            move(result.compared, None)
    parts: list[Part] = [Table(_COLUMNS, result.differing)] if result.differing else []
    counts = [f"{count:,} {name.replace('_', ' ')}" for name, count in result.verdicts.items()]
    parts.append(f"{amount(result.total, 'link')}: {', '.join(counts) or 'nothing to compare'}.")
    context.show(result, parts)
    certain = [link for link in result.differing if link.is_own]
    if certain:
        words = arguments(certain[0].app_id, certain[0].repository_id)
        context.say(f"To send all files again: docora-ops resync {words}")
    if result.verdicts.get(Verdict.FAILED):
        context.say("To list the failed links: docora-ops failed")
    return ExitCode.PROBLEMS if result.has_problems else ExitCode.OK
