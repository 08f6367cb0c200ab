"""`operations` and `cancel`. Need only Redis."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated

import typer

from docora_ops.cli import options
from docora_ops.cli.bulk_view import command_line, counted_results, links_done, state_of
from docora_ops.cli.context import Context, context_of
from docora_ops.cli.exit_codes import ExitCode
from docora_ops.cli.terminal import terminal_to_ask
from docora_ops.errors import UsageError
from docora_ops.operations import BulkWait, KnownOperation, OperationRecord, OperationState
from docora_ops.render.columns import Column, Pairs, cell, style_of
from docora_ops.render.link_tables import failures
from docora_ops.text import ago, amount

RUNNER_IS_SILENT = (
    "The command that runs the operation has been silent for two minutes: it was killed, or hangs. "
    "It can be run again."
)


def operations(
    typer_context: typer.Context,
    operation_id: options.OptionalOperationId = None,
    follow: Annotated[
        bool,
        typer.Option("--follow", "-f", help="With an id: show a bar until the operation ends."),
    ] = False,
    limit: options.Limit = 50,
    page: options.PageNumber = 1,
    as_json: options.Json = False,
    env_file: options.EnvFile = None,
) -> int:
    """List the bulk operations of the last hour, or show one.

    Includes those of Docora's dashboard. In the state `owner_gone`, links are left, but the command
    that runs the operation has been silent for two minutes. For the last week, see report.
    """
    context = context_of(typer_context)
    if operation_id is not None:
        if (limit, page) != (50, 1):
            raise UsageError("--limit and --page are for the list", hint="remove OPERATION_ID")
        return _show_operation(context, operation_id, follow=follow)
    if follow:
        raise UsageError("--follow needs OPERATION_ID", hint="docora-ops operations lists the ids")
    from docora_ops.actions.bulk_operations import operations

    known = operations(context.docora, page=page, limit=limit)
    where = f"{context.docora.redis_server}, within the last hour"
    context.show_page(known, _COLUMNS, where, "operation")
    return ExitCode.OK


def _show_operation(context: Context, operation_id: str, *, follow: bool) -> int:
    from docora_ops.actions import bulk_operations
    from docora_ops.render.console import progress_bar

    if follow:
        _ = context.docora.redis  # reports unusable settings before the bar appears
        with progress_bar() as move:
            for operation in bulk_operations.follow(context.docora, operation_id):
                move(operation.completed, None, operation.total)
        if operation.state is OperationState.OWNER_GONE:
            context.warn(RUNNER_IS_SILENT)
    operation = bulk_operations.operation(context.docora, operation_id)
    context.show(operation_data(operation), operation_screens(operation))
    if follow and (operation.cancelled or operation.not_queued or not operation.finished):
        return ExitCode.PROBLEMS
    return ExitCode.OK


def cancel(
    typer_context: typer.Context,
    operation_id: options.OptionalOperationId = None,
    reason: options.Reason = None,
    as_json: options.Json = False,
    env_file: options.EnvFile = None,
) -> None:
    """Stop a bulk operation after its current batches.

    Without an id, asks whether to stop the one that is running. Also works for operations of
    Docora's dashboard. What has been queued stays queued. To finish a bulk retry, run it again.
    """
    context = context_of(typer_context)
    from docora_ops.actions.bulk_operations import cancel, operation

    operation_id = operation_id or _ask_for_running(context)
    is_first = cancel(context.docora, operation_id, reason=reason)
    done = "Cancellation requested"
    if not is_first:
        done = f"Already stopped ({state_of(operation(context.docora, operation_id))})"
    data = CancelData("Cancellation requested", operation_id, already_cancelled=not is_first)
    context.show(data, [cell(f"{done}: {operation_id}")])


def _ask_for_running(context: Context) -> str:
    from docora_ops.actions.bulk_operations import running_operation

    terminal = terminal_to_ask()
    if terminal is None:
        raise UsageError(
            "cancel needs OPERATION_ID where no terminal can answer",
            hint="docora-ops operations lists the ids",
        )
    operation = running_operation(context.docora)
    owner = operation.who or "Docora's dashboard"
    command = command_line(operation.command, operation.selection)
    details = ", ".join(filter(None, (owner, command, links_done(operation))))
    terminal.ask(
        f"{context.docora.servers}: cancel operation {operation.operation_id} ({details})?"
    )
    return operation.operation_id


_COLUMNS: Sequence[Column[KnownOperation]] = (
    Column("Operation", lambda operation: operation.operation_id),
    Column("Completed", links_done, is_number=True, narrowest=9),
    Column("Put to work", lambda operation: operation.put_to_work, is_number=True, left_out=1),
    Column(
        "Not queued",
        lambda operation: operation.not_queued,
        lambda operation: "bold red" * bool(operation.not_queued),
        is_number=True,
        left_out=2,
    ),
    Column("State", state_of, lambda operation: style_of(operation.state), narrowest=11),
    Column(
        "Results",
        lambda operation: ", ".join(counted_results(operation.results)),
        narrowest=15,
    ),
    Column("Last step", lambda operation: ago(operation.last_step_seconds), left_out=3),
    Column("Who", lambda operation: operation.who, left_out=4, narrowest=10),
    Column(
        "What",
        lambda operation: command_line(operation.command, operation.selection),
        folds=True,
        left_out=5,
        narrowest=16,
    ),
)


@dataclass(frozen=True)
class OperationData(OperationRecord):
    """One operation, as shown by `operations ID` and `wait`. `waited`: null except for `wait`."""

    waited: BulkWait | None


def operation_data(operation: OperationRecord, wait: BulkWait | None = None) -> OperationData:
    """Returns the JSON data of one operation, with the result of the wait for it, if any."""
    return OperationData(**vars(operation), waited=wait and wait.grouped())


def operation_screens(operation: OperationRecord) -> Iterator[object]:
    """Shows the progress of one operation and the links that it could not queue."""
    rows = ((column.name, column.cell(operation)) for column in _COLUMNS)
    yield Pairs([row for row in rows if row[1] and row[0] != "Last step"])
    results = asdict(operation.results) if operation.results else {}
    already = sum(results.values()) - operation.put_to_work
    if already > 0 and operation.finished:  # before, some links may not be counted yet
        yield f"The results include {amount(already, 'snapshot')} that had already been running."
    if operation.messages:
        yield from ("", *map(cell, operation.messages))
    if operation.failures:
        yield from ("", failures(operation.failures))
    if (more := operation.not_queued - len(operation.failures)) > 0:
        yield f"and {more:,} more, which are not kept"


@dataclass(frozen=True)
class CancelData:
    """The result of `cancel`. `already_cancelled`: the operation had been cancelled before."""

    message: str
    operation_id: str
    already_cancelled: bool
