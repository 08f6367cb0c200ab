"""`operations`. Needs only Redis."""

from __future__ import annotations

import typer

from docora_ops.cli import options
from docora_ops.cli.context import context_of


def operations(typer_context: typer.Context, as_json: options.Json = False) -> None:
    """Show the bulk operations that are still known: ours, and those of Docora's dashboard.

    An operation whose runner has been silent for two minutes has lost it.
    """
    context = context_of(typer_context)
    from docora_ops.render import operations as render

    found = context.store.read_all()
    if found or as_json:
        context.show(render.list_document(found), [render.list_table(found, context.out.width)])
    else:
        context.say("No bulk operation is known: one is forgotten an hour after its last step.")
