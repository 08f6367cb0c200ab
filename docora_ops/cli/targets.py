"""`targets`."""

from typing import Annotated

import typer

from docora_ops.cli import options
from docora_ops.cli.context import Context
from docora_ops.cli.exit_codes import ExitCode


def targets(
    check: Annotated[
        bool, typer.Option("--check", help="Ask the servers of all targets for their state.")
    ] = False,
    as_json: options.Json = False,
) -> int:
    """List the targets, their servers and their files.

    With --check, shows failed and overdue links and the workers of each target, side by side. Exits
    with code 6 if a target has a problem: its file can't be used, a server does not answer, links
    are overdue, nothing moves, or no worker takes jobs. Failed links alone do not count.
    Changes nothing.
    """
    context = Context(as_json=as_json)
    from docora_ops.actions.targets import read_targets
    from docora_ops.render.columns import Listing
    from docora_ops.render.status_view import target_columns
    from docora_ops.settings import own_folder

    found = read_targets(check=check)
    if as_json:
        context.show_document(found)
    elif found:
        context.show_tables([Listing(target_columns(check=check), found)], paged=True)
    else:
        context.say(f"No targets: put NAME.env into {own_folder()}. See docora-ops help targets")
    return ExitCode.PROBLEMS if any(each.problem for each in found) else ExitCode.OK
