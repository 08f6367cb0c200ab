"""`repair`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Annotated

import typer

from docora_ops.cli.audit_note import change_note, link_note, require_reason
from docora_ops.cli.context import Context, context_of, require_text
from docora_ops.cli.exit_codes import ExitCode, exit_code_of
from docora_ops.cli.options import (
    DryRunOption,
    JsonOption,
    OptionalRepoArgument,
    ReasonOption,
    YesOption,
)
from docora_ops.cli.signals import interrupted_code, stopping_on_signals
from docora_ops.cli.terminal import Terminal, terminal_to_ask
from docora_ops.errors import RedisError, ServerError

if TYPE_CHECKING:
    from docora_ops.actions.repair.fix import Repair
    from docora_ops.drift import RepairResult

_WHAT_NEXT = "the same command finishes the rest"


def repair(
    typer_context: typer.Context,
    app: Annotated[
        str | None,
        typer.Argument(
            metavar="APP", show_default=False, help="App id, or the app's exact name (case aside)."
        ),
    ] = None,
    repo: OptionalRepoArgument = None,
    reason: ReasonOption = None,
    remove_unknown_jobs: Annotated[
        bool,
        typer.Option(
            "--remove-unknown-jobs",
            help="Repair even if most jobs in the queue have no link in the database.",
        ),
    ] = False,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> int:
    """Mend what doctor calls drift: everywhere, of one app, or of one link.

    Queues lost and stuck links again, which keep their retries and their error; removes orphaned
    and duplicate jobs and stale entries. Never touches a job that is running. Changes nothing if
    database and queue do not seem to belong together. Killed at any point, the same command
    finishes the rest.
    """
    context = context_of(typer_context)
    require_text("APP", app)
    require_text("REPO", repo)
    require_reason(reason)
    terminal = terminal_to_ask(skip=yes or dry_run)
    found = _new_repair(context, app, repo, reason, remove_unknown_jobs=remove_unknown_jobs)
    context.collect_garbage()
    result = found.find()
    if dry_run:
        return _finish(context, found.plan(), as_json=as_json)
    if not result.total:
        return _finish(context, result, as_json=as_json)
    if terminal is not None:
        _confirm(context, terminal, result)
    return _run(context, found, as_json=as_json)


def _new_repair(
    context: Context,
    app: str | None,
    repo: str | None,
    reason: str | None,
    *,
    remove_unknown_jobs: bool,
) -> Repair:
    from docora_ops.actions.lookup import resolve_app, resolve_link
    from docora_ops.actions.repair.fix import Repair
    from docora_ops.actions.surroundings import look_around

    repair = Repair(context.database, context.queue, context.store, context.settings.drift_grace)
    repair.remove_unknown_jobs = remove_unknown_jobs
    options = {"remove_unknown_jobs": remove_unknown_jobs}
    repair.note = change_note("repair", reason, **options)
    if app is not None and repo is not None:
        link = resolve_link(context.database, app, repo)
        repair.ref, repair.app_id = link.ref, link.ref.app_id
        repair.note = link_note("repair", reason, link, **options)
    elif app is not None:
        found = resolve_app(context.database, app)
        repair.app_id = found.app_id
        repair.note = change_note(
            "repair", reason, app_id=found.app_id, app_name=found.app_name, **options
        )
    context.say("{}: looking for drift.", context.servers)
    context.warn(look_around(context.queue))
    repair.before_second_look = lambda suspects: context.say(
        "{} out of step at first sight: looking again.", suspects
    )
    return repair


def _confirm(context: Context, terminal: Terminal, result: RepairResult) -> None:
    from docora_ops.drift import DriftKind
    from docora_ops.render import repair as render
    from docora_ops.render import tables

    links = result.found[DriftKind.LOST] + result.found[DriftKind.STUCK]
    removals = result.total - links
    question = " and ".join(
        [
            *(["queue {links} again"] if links else []),
            *(["remove {removals}"] if removals else []),
        ]
    )
    terminal.ask(
        f"{{servers}}: {question}?",
        render.found(result),
        links=tables.amount(links, "link"),
        removals=tables.amount(removals, "job or entry", "jobs or entries"),
        servers=context.servers,
    )


def _run(context: Context, repair: Repair, *, as_json: bool) -> int:
    try:
        with stopping_on_signals(repair.stop, _stop_at_once):
            with _bar(context, repair):
                result = repair.run()
            # In here still: a signal must not cut the document in two.
            code = _finish(context, result, as_json=as_json)
    except ServerError as error:
        with suppress(RedisError):
            repair.end_trail()
        context.database.close()
        result = repair.result()
        _show(context, result, error, as_json=as_json)
        context.say("Error: {}", error.message, style="bold red")
        context.say("Stopped after {} of {}.", len(result.mended), result.total)
        context.say("Hint: {}; {}", _WHAT_NEXT, error.hint or "")
        return exit_code_of(error)
    return interrupted_code() if repair.stop.requested and not result.complete else code


def _finish(context: Context, result: RepairResult, *, as_json: bool) -> int:
    from docora_ops.drift import Mending

    _show(context, result, None, as_json=as_json)
    if result.dry_run:
        context.say("Dry run: nothing was changed.")
    elif not result.complete:
        context.say(
            "Stopped after {} of {}; {}.",
            len(result.mended),
            result.total,
            _WHAT_NEXT,
            style="yellow",
        )
    return ExitCode.PROBLEMS if result.counts.get(Mending.FAILED) else ExitCode.OK


def _show(
    context: Context, result: RepairResult, error: ServerError | None, *, as_json: bool
) -> None:
    from docora_ops.render import repair as render

    if as_json:
        context.show_text(render.encoded(result, error))
        return
    if not result.total:
        context.show(render.message(result))
        return
    for part in render.mended(result, context.out.width):
        context.show(part)
    context.show("", render.summary(result))


@contextmanager
def _bar(context: Context, repair: Repair) -> Iterator[None]:
    """A bar, where there is a terminal."""
    from docora_ops.render.console import may_animate

    if not may_animate(sys.stderr):
        yield
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=context.err) as progress:
        task = progress.add_task("repair", total=repair.result().total)
        repair.on_progress = lambda done: progress.update(task, completed=done)
        yield


def _stop_at_once() -> None:
    with suppress(OSError):
        os.write(sys.stderr.fileno(), f"Stopped: {_WHAT_NEXT}.\n".encode())
    os._exit(interrupted_code())
