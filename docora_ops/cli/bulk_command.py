"""What `retry-all-failed`, `resync --all` and `schedule` have in common.

Asking, the bar, the summary.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from docora_ops.actions.bulk.batch import Settled
from docora_ops.actions.bulk.run import BulkRun
from docora_ops.actions.surroundings import look_around
from docora_ops.actions.waiting.follow import Following
from docora_ops.audit import ChangeNote
from docora_ops.bulk import BulkResult
from docora_ops.cli.context import Context
from docora_ops.cli.exit_codes import ExitCode, exit_code_of, gravest
from docora_ops.cli.signals import interrupted_code, stopping_on_signals
from docora_ops.cli.terminal import Terminal
from docora_ops.cli.waiting import Wait, codes_of, wait_for_links
from docora_ops.database import Selection
from docora_ops.errors import RedisError, ServerError
from docora_ops.links import Action, Outcome
from docora_ops.render import documents, tables
from docora_ops.render.console import may_animate


class BulkCommand:
    """One bulk operation, from the question to the exit code."""

    def __init__(
        self,
        context: Context,
        operation: Action,
        selection: Selection,
        batch_size: int,
        note: ChangeNote,
        *,
        dry_run: bool,
        as_json: bool,
        wait: Wait | None = None,
    ) -> None:
        self._context = context
        self._dry_run = dry_run
        self._as_json = as_json
        self._operation = operation
        self._run = BulkRun(
            operation,
            context.database,
            context.queue,
            context.store,
            selection,
            batch_size,
            note,
        )
        self._wait = wait
        self._following = Following(
            context.database, context.queue, self._run.stop, context.settings.drift_grace
        )
        if wait is not None:
            self._run.on_settled = self._follow
        self._workers = 0
        context.collect_garbage()

    def run(self, question: str = "", terminal: Terminal | None = None, **values: object) -> int:
        """Ask, do it and show the result. Returns the exit code.

        `question` has braces for `servers`, `links` and the names of `values`.
        """
        context = self._context
        selection = self._run.selection
        servers = context.servers
        links = tables.amount(selection.total, "link")
        if self._dry_run:
            context.say("{}: dry run over {}, nothing will be changed.", servers, links)
            return self._finish(self._run.plan())
        surroundings = look_around(context.queue)
        if selection.total == 0:
            return self._finish(self._run.result())
        self._workers = surroundings.workers
        context.warn(surroundings)
        if terminal is not None:
            by_app = selection.by_app
            above = [tables.app_counts(by_app)] if len(by_app) > 1 else []
            terminal.ask(question, *above, servers=servers, links=links, **values)
        try:
            with stopping_on_signals(self._run.stop, self._stop_at_once):
                if self._operation is Action.SCHEDULE:
                    context.say("{}: {} due.", servers, links)
                else:
                    context.say("{}: operation {}, {}.", servers, self._run.start(), links)
                with self._bar():
                    result = self._run.run()
                # In here still: a signal is for the wait, and must not cut the document in two.
                if self._wait is not None:
                    return self._finish_after_wait(result, self._wait)
                return self._finish(result)
        except ServerError as error:
            return self._break_off(error)

    def _break_off(self, error: ServerError) -> int:
        """A server was lost: say what had been done."""
        with suppress(RedisError):
            self._run.break_off()
        result = self._run.result()
        if self._as_json:
            self._context.show_document(documents.error(error, documents.bulk_result(result)))
        else:
            self._show_summary(result)
        self._context.say("Error: {}", error.message, style="bold red")
        self._context.say("Stopped after {} of {} links.", result.completed, result.total)
        self._context.say("Hint: {}; {}", self._what_next, error.hint or "")
        return exit_code_of(error)

    def _finish(self, result: BulkResult) -> int:
        if self._as_json:
            if result.links is None:
                waited = self._following.result() if self._wait else None
                self._context.show_document(documents.bulk_result(result, waited))
            else:
                self._context.show_text(documents.encode_dry_run(result, result.links))
        else:
            self._show_summary(result)
        return self._code_of(result)

    def _follow(self, settled: Sequence[Settled]) -> None:
        for item in settled:
            # Not the snapshot that a resync was to queue: it is a failure already.
            if item.outcome.succeeded or self._operation is not Action.RESYNC:
                self._following.add(item.ref, item.outcome)

    def _finish_after_wait(self, result: BulkResult, wait: Wait) -> int:
        context = self._context
        if not self._as_json:
            self._show_summary(result)
        lost: ServerError | None = None
        try:
            waited = wait_for_links(context, wait, self._following, self._workers)
        except ServerError as error:
            lost = error
            context.database.close()
            waited = self._following.result()
        if self._as_json:
            document = documents.bulk_result(result, waited)
            context.show_document(documents.error(lost, document) if lost else document)
        elif waited.total:
            context.show("", tables.bulk_wait(waited))
            if waited.failures:
                context.show("", tables.failures(waited.failures, heading="Failed again"))
        interrupted = self._run.stop.requested
        if lost:
            context.say("Error: {}", lost.message, style="bold red")
            context.say("Hint: the jobs go on; {}", lost.hint or "")
            return exit_code_of(lost)
        if waited.only_lost_left and not interrupted:
            context.say(
                "No live job for the {} left. To queue them again: docora-ops repair",
                tables.amount(waited.running, "link"),
                style="yellow",
            )
        elif waited.running:
            context.say(
                "{}; {} still to come. The jobs go on; to look at them: docora-ops queue",
                "No longer waiting" if interrupted else "Time ran out",
                tables.amount(waited.running, "result"),
                style="yellow",
            )
        return gravest({self._code_of(result), *codes_of(waited, interrupted=interrupted)})

    def _code_of(self, result: BulkResult) -> ExitCode:
        if self._run.stop.requested and result.cancelled:
            return interrupted_code()
        running = result.counts.get(Outcome.ALREADY_RUNNING, 0)
        missed = running if self._operation is Action.RESYNC else 0
        return ExitCode.PROBLEMS if result.cancelled or result.failed or missed else ExitCode.OK

    def _show_summary(self, result: BulkResult) -> None:
        context = self._context
        if result.links:
            for part in tables.plan(result.links, context.out.width):
                context.show(part)
            context.show("")
        if result.total:
            context.show(tables.bulk_result(result, context.out.width))
        else:
            context.show(documents.bulk_message(result))
        if result.failures:
            context.show("", tables.failures(result.failures))
        if self._operation is Action.RESYNC and result.total:
            verb = "would be sent" if self._dry_run else "will be sent"
            context.show(f"{tables.amount(result.deliveries_cleared, 'file')} {verb} again.")
        if result.open_circuits_left_out is not None:
            left_out = tables.amount(result.open_circuits_left_out, "link")
            context.show(f"{left_out} left out: the circuit of the repository is open.")
        if self._dry_run:
            context.say("Dry run: nothing was changed.")
        elif result.cancelled:
            context.say(
                "Cancelled after {} of {} links; {}.",
                result.completed,
                result.total,
                self._what_next,
                style="yellow",
            )

    @property
    def _what_next(self) -> str:
        if self._operation is Action.RESYNC:
            return "the same command begins again, with all of them"
        return "the same command finishes the rest"

    @contextmanager
    def _bar(self) -> Iterator[None]:
        """A live bar with rate and time left, where there is a terminal."""
        if not may_animate(sys.stderr):
            yield
            return
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            Task,
            TextColumn,
            TimeRemainingColumn,
        )
        from rich.text import Text

        class Rate(TextColumn):
            def render(self, task: Task) -> Text:
                return Text(f"{task.finished_speed or task.speed or 0:,.0f}/s")

        with Progress(
            BarColumn(),
            MofNCompleteColumn(),
            Rate(""),
            TimeRemainingColumn(),
            console=self._context.err,
        ) as progress:
            task = progress.add_task("links", total=self._run.selection.total)
            self._run.on_progress = lambda done: progress.update(task, completed=done)
            yield

    def _stop_at_once(self) -> None:
        """Try once to mark the operation cancelled, and leave: what is not committed is undone."""
        try:
            with suppress(OSError):
                os.write(sys.stderr.fileno(), f"Stopped: {self._what_next}.\n".encode())
            if self._run.operation_id is None:
                return
            # A connection of its own, since the run may hold the lock of the other's pool.
            hurried = self._context.settings.model_copy(
                update={"connect_timeout": 1, "statement_timeout": 1}
            )
            self._context.new_store(hurried).cancel(self._run.operation_id)
        finally:
            os._exit(interrupted_code())
