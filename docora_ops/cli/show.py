"""`show`."""

from __future__ import annotations

import typer

from docora_ops.cli.context import context_of, require_text
from docora_ops.cli.exit_codes import ExitCode
from docora_ops.cli.options import AppArgument, JsonOption, RepoArgument


def show(
    typer_context: typer.Context,
    app: AppArgument,
    repo: RepoArgument,
    as_json: JsonOption = False,
) -> int:
    """Show everything about one link: status, error, circuit, what was delivered, its job.

    The job in every place where it stands in RQ, with its last failure. Changes nothing.
    """
    context = context_of(typer_context)
    require_text("APP", app)
    require_text("REPO", repo)
    from docora_ops.actions.show import link_details
    from docora_ops.render import show as link_tables
    from docora_ops.render import view_documents

    details = link_details(context.database, context.queue, context.queue_reader, app, repo)
    if as_json:
        context.show_document(view_documents.link(details))
    else:
        context.show(link_tables.link(details))
    return ExitCode.OK
