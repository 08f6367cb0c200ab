"""`targets`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from docora_ops.cli import options
from docora_ops.cli.context import context_of
from docora_ops.cli.exit_codes import ExitCode
from docora_ops.render.columns import Column, Listing

if TYPE_CHECKING:
    from docora_ops.actions.targets import TargetState


def targets(
    typer_context: typer.Context,
    check: Annotated[
        bool, typer.Option("--check", help="Ask the servers of all targets for their state.")
    ] = False,
    as_json: options.Json = False,
) -> int:
    """List the targets, their servers and their files.

    With --check, also shows failed links, overdue links and workers of each target. Exits with code
    6 if a target has a problem: its file can't be used, or doctor --read-only finds something
    critical. Changes nothing.
    """
    context = context_of(typer_context)
    from docora_ops.actions.targets import read_targets
    from docora_ops.settings import own_folder

    states = read_targets(check=check)
    if as_json:
        context.show_document(states)
    elif states:
        context.show_tables([Listing(_columns(check=check), states)], paged=True)
    else:
        context.say(f"No targets: put NAME.env into {own_folder()}. See docora-ops help targets")
    return ExitCode.PROBLEMS if any(state.problem for state in states) else ExitCode.OK


def _columns(*, check: bool) -> Sequence[Column[TargetState]]:
    def red(count: int | None) -> str:
        return "bold red" if count else ""

    state: tuple[Column[TargetState], ...] = (
        Column(
            "Failed", lambda state: state.failed_links, lambda state: red(state.failed_links), True
        ),
        Column(
            "Overdue",
            lambda state: state.overdue_links,
            lambda state: red(state.overdue_links),
            True,
        ),
        Column("Workers", lambda state: state.worker_count, is_number=True),
    )
    columns: tuple[Column[TargetState], ...] = (
        Column("Target", lambda state: state.target),
        *(state if check else ()),
        Column("Problem", lambda state: state.problem, lambda _: "bold red", folds=True),
        Column("Postgres", lambda state: state.postgres, left_out=3 * check),
        Column("Redis", lambda state: state.redis, left_out=3 * check),
        Column("Protected", lambda state: "yes" if state.protected else "", left_out=2 * check),
        Column("File", lambda state: state.file, left_out=1 * check),
    )
    return columns
