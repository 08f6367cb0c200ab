"""`pair`."""

from typing import Annotated

import typer

from docora_ops.cli import options
from docora_ops.cli.context import confirmation, context_of
from docora_ops.errors import UsageError


def pair(
    typer_context: typer.Context,
    accept: Annotated[
        bool,
        typer.Option("--accept", help="Mark this Redis as belonging to this database."),
    ] = False,
    reason: options.Reason = None,
    yes: options.Yes = False,
    as_json: options.Json = False,
    env_file: options.EnvFile = None,
) -> None:
    """Show or accept the database of this Redis.

    The first change leaves a mark in Redis: the name of the database, its system identifier, and
    some apps. With a database that has none of these apps, commands change no links and workers
    take no jobs. After an upgrade, a restore or a move, the next change renews the mark.
    """
    context = context_of(typer_context)
    from docora_ops.actions.pair import accept_pair, read_pair
    from docora_ops.render.columns import Pairs, cell
    from docora_ops.text import moment

    docora = context.docora
    if not accept:
        now = read_pair(docora)
        mark = now.mark
        rows = {
            "State": now.state,
            "Database": now.identity.database,
            "System": now.identity.system_identifier,
            "Marked": mark and mark.identity.database,
            "Marked system": mark and mark.identity.system_identifier,
            "Marked by": mark and mark.who,
            "Marked at": mark and moment(mark.left_at),
        }
        screen = Pairs([(name, cell(value)) for name, value in rows.items() if value])
        context.show(now, [screen], footer=docora.servers)
        return
    terminal = confirmation(typer_context)
    if not (yes or terminal):
        raise UsageError(
            "pair --accept lets commands change this database with this Redis, and there is no "
            "terminal to confirm that",
            hint="add --yes to skip the confirmation",
        )
    if terminal is not None:
        finding = read_pair(docora).finding
        terminal.ask(f"{docora.servers}: mark them as belonging together ({finding})?")
    accepted = accept_pair(docora, reason=reason)
    if as_json:
        context.show_document(accepted)
    context.say(f"{docora.servers}: marked as belonging together.")
