"""One bulk operation: `retry-all-failed`, `resync --all` or `schedule`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType

from docora_ops import pages
from docora_ops.actions.belonging import require_servers_to_match
from docora_ops.actions.bulk.audit_entries import AuditEntries, interruption
from docora_ops.actions.bulk.execute import LinkOutcome
from docora_ops.actions.bulk.paced_run import PacedRun
from docora_ops.actions.bulk.run import BulkRun
from docora_ops.actions.following import Following
from docora_ops.actions.workers import count_workers, require_right_workers
from docora_ops.audit import Change
from docora_ops.bulk import BulkResult, MaxFailures, StoppedBy
from docora_ops.cli.change import in_words
from docora_ops.cli.context import Context
from docora_ops.cli.exit_codes import ExitCode, gravest
from docora_ops.cli.long_run import LongRun
from docora_ops.cli.signals import interrupted_code, until_stopped
from docora_ops.cli.terminal import Terminal
from docora_ops.cli.wait import end_wait, showing_wait
from docora_ops.database import Selection
from docora_ops.database.link_reports import count_links
from docora_ops.errors import RedisError, ServerError
from docora_ops.interrupts import Stop
from docora_ops.links import Action, Outcome
from docora_ops.queue import PacedRuns, ProgressStore, connect
from docora_ops.render import bulk_view as render
from docora_ops.render.link_view import app_counts, failures, forgotten, records_in_words
from docora_ops.text import amount


@dataclass(frozen=True)
class BulkOptions:
    """The options that `retry-all-failed` and `resync --all` have in common."""

    front: bool = False
    reset_circuit: bool = False
    in_flight: int | None = None
    max_failures: MaxFailures | None = None
    update: bool = False  # of a resync

    def must_skip_open_circuits(self, context: Context) -> bool:
        """Tells whether links with an open circuit are left alone: Docora would not queue them."""
        return context.docora.queue.is_docoras and not self.reset_circuit

    @property
    def recorded(self) -> dict[str, object]:
        """The options for an audit entry."""
        most = self.max_failures
        limit = most and (str(most) if most.is_percent else most.number)
        return {**vars(self), "max_failures": limit}

    @property
    def words(self) -> str:
        """The end of a question about jobs: where they go, which circuits close, at which pace."""
        return in_words(front=self.front, reset_circuit=self.reset_circuit) + self.pace

    @property
    def pace(self) -> str:
        """Says how many links may be in flight and fail again, if there are limits."""
        limits = "" if self.in_flight is None else f", {self.in_flight} in flight at most"
        if self.max_failures is not None:
            limits += f", until more than {self.max_failures} have failed again"
        return limits


_NONE = BulkOptions()
_AFTER_LOST_REDIS = (
    "; if Redis has lost writes, as it may in a failover, docora-ops repair queues the links whose "
    "jobs are gone"
)


class BulkCommand(LongRun):
    """One bulk operation, from the question to the exit code."""

    unit = " links"

    def __init__(
        self,
        context: Context,
        action: Action,
        selection: Selection,
        change: Change,
        batch_size: int | None = None,
        options: BulkOptions = _NONE,
        disproved: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Prepares the command. `disproved`: as for BulkRun."""
        stop = Stop()
        self._following = Following(context.docora)
        audit = AuditEntries(change, selection.total)
        self._options = options
        self._is_paced = options.in_flight is not None and not context.dry_run
        common = (
            *(action, context.docora.database, context.docora.queue, context.docora.store),
            *(selection, batch_size or pages.BATCH_SIZE, audit),
            *(options.front, options.reset_circuit, options.update, stop),
        )
        if options.in_flight is not None and self._is_paced:
            self._run: BulkRun = PacedRun(
                *common,
                following=self._following,
                in_flight=options.in_flight,
                max_failures=options.max_failures,
                timeout=context.timeout,
                runs=None if context.docora.queue.is_docoras else PacedRuns(context.docora.redis),
                on_stop=self._tell_stop,
            )
        else:
            self._run = BulkRun(*common, disproved=disproved)
        super().__init__(context, self._run)
        self._action = action
        if context.wait:
            self._run.following = self._following
            self._run.on_recorded = self._follow
        self._links = links_of(selection)
        if action is Action.RESYNC:
            self.next_step = "the same command begins again, with all of them"
        if action is Action.RETRY:
            self.after_lost_redis = _AFTER_LOST_REDIS

    def run(self, question: str = "", terminal: Terminal | None = None) -> int:
        """Asks, changes the links and shows the result. Returns the exit code."""
        context, selection = self.context, self._run.selection
        if context.dry_run or not selection.total:
            require_right_workers(context.docora)
        else:
            workers = count_workers(context.docora, to_change=True)
            self._following.watch.had_workers = workers > 0
        if selection.total:
            require_servers_to_match(context.docora.database, context.docora.queue)
        if context.dry_run:
            context.say(
                f"{context.docora.servers}: dry run over {self._links}, nothing will be changed."
            )
            self._run.plan()
            return self.finish()
        if not selection.total:
            self._tell_nothing_fits()
            return self.finish()
        if self._is_paced and context.docora.queue.is_docoras:
            context.warn(
                "Warning: --in-flight holds back docora-ops only: Docora's scheduler queues all "
                "failed links in each pass, except those with an open circuit."
            )
        if terminal is not None:
            by_app = selection.by_app
            above: list[object] = [app_counts(by_app)] if len(by_app) > 1 else []
            if self._action is Action.RESYNC and not self._options.update:
                above.append(forgotten(is_planned=True))
            context.tell()
            terminal.ask(f"{context.docora.servers}: {question}?", *above)
        return self.carry_out(self._start, self._cancel_at_once)

    def _tell_nothing_fits(self) -> None:
        """Says how many links are failed all the same: "nothing to do" sounds like an all-clear."""
        if self._action is not Action.RETRY or self._run.selection.open_circuits_left_out:
            return
        if failed := count_links(self.context.docora.database).failed:
            links = "link is" if failed == 1 else "links are"
            none = f"no link fits the options, yet {failed} {links} failed"
            self.context.warn(f"{self.context.docora.servers}: {none}.")

    def _start(self) -> None:
        if self._action is Action.SCHEDULE:
            begun = f"{self._links} due"
        else:
            begun = f"operation {self._run.start()}, {self._links}"
        self.context.say(f"{self.context.docora.servers}: {begun}.")

    @contextmanager
    def progress(self, total: int) -> Iterator[None]:
        """Shows how far the work is; with `--in-flight`, the wait for the snapshots, too."""
        if not self._is_paced:
            with super().progress(total):
                yield
            return
        what = f"{amount(total, 'snapshot')}{self._options.pace}"
        with showing_wait(self.context, what) as show:
            if isinstance(self._run, PacedRun):
                self._run.on_step = lambda wait: show(wait, self._left(), self._taken_over())
            yield

    def _left(self) -> int:
        """Counts the links that are still to be queued."""
        return 0 if self._run.cancelled else self._run.left

    def _taken_over(self) -> int:
        """Counts the links that others have queued first. To a resync they make no difference."""
        return self._run.result().taken_over if self._action is Action.RETRY else 0

    def finish(self) -> int:
        """Shows the result, with `--wait` that of the snapshots too. Returns the exit code."""
        if not (self.context.wait and self.context.as_json):
            self.show()
        if self.context.wait:
            return self._finish_after_wait()
        result = self._run.result()
        if result.operation_id and result.succeeded and sys.stderr.isatty():
            self.context.say(f"To wait for the results: docora-ops wait {result.operation_id}")
        return gravest(self._codes())

    def show(self, error: ServerError | None = None) -> None:
        """Shows what was done until now, and in JSON the error that has ended it."""
        result = self._run.result()
        waited = self._following.result() if error and self._is_paced else None
        if not self.context.as_json:
            self._show_summary(error)
            if waited:
                tables = render.wait_screens(waited)
                self.context.show_tables(tables, is_last=False)
        else:
            self.context.show_document(render.bulk_data(result, waited), error)

    def _cancel_at_once(self) -> None:
        if self._run.operation_id is None:
            return
        # A connection of its own: the signal may have come while the run locks the other's pool.
        settings = self.context.docora.settings.model_copy(
            update={"connect_timeout": 1, "statement_timeout": 1}
        )
        store, reason = ProgressStore(connect(settings)), interruption(self._run.stop)
        store.cancel(self._run.operation_id, stopped_by=reason)

    def _follow(self, recorded: Sequence[LinkOutcome]) -> None:
        for item in recorded:
            # A resync does not wait for a snapshot that was running before: it counts as missed.
            if item.outcome.succeeded or self._action is not Action.RESYNC:
                self._following.add(item.ref, item.outcome)

    def _finish_after_wait(self) -> int:
        following, stop = self._following, self._run.stop
        lost: ServerError | None = None
        try:
            snapshots = following.result().total
            if snapshots and not (self._is_paced or stop.requested):
                self.context.collect_garbage()
                what = amount(snapshots, "snapshot")
                with showing_wait(self.context, what, following.result()) as show:
                    for step in until_stopped(following.follow(self.context.timeout), stop):
                        self._run.stay_known()
                        show(step)
        except ServerError as error:
            lost = error
            self.context.docora.database.close()
        try:
            self._run.record_results()
        except RedisError as error:
            if not isinstance(lost, RedisError):
                kept = "the results are not kept with the operation"
                self.context.warn(f"Warning: {kept}: {error.message}")
        waited = following.result()
        if self.context.as_json:
            self.context.show_document(render.bulk_data(self._run.result(), waited), lost)
        elif waited.total:
            parts = render.wait_screens(waited)
            self.context.show_tables(parts, is_last=not (lost or stop.requested))
        if lost:
            return self.context.report(lost, next_step="the jobs go on")
        result, interrupted = self._run.result(), stop.requested
        codes = end_wait(
            self.context, waited, operation_id=result.operation_id, interrupted=interrupted
        )
        if self._is_paced and result.stopped_by:
            self._tell_stopped(result)
        if self._is_paced and self._taken_over():
            self.context.warn(f"{render.taken_over(result)}.")
        return gravest(self._codes() | codes)

    def _tell_stopped(self, result: BulkResult) -> None:
        why = render.stopped(result, self._options.max_failures)
        left = render.left_as_they_were(result)
        next_step = self.next_step
        if result.stopped_by is StoppedBy.MAX_FAILURES and self._action is Action.RETRY:
            next_step = "the same command begins again, first with those that failed"
        self.context.warn(f"Stopped: {why}. {left}. Later, {next_step}.")

    def _tell_stop(self) -> None:
        """Says while links are in flight that no further link is queued."""
        why = render.stopped(self._run.result(), self._options.max_failures)
        self.context.warn(f"No further link is queued: {why}.")

    def _codes(self) -> set[ExitCode]:
        """Returns every exit code that fits the operation."""
        result = self._run.result()
        is_done = not (result.failures or result.circuits_held)
        codes = {ExitCode.OK if is_done else ExitCode.PROBLEMS}
        if result.cancelled and self._run.stop.requested:
            codes.add(interrupted_code())
        elif result.cancelled:
            codes.add(_STOPPED.get(result.stopped_by, ExitCode.PROBLEMS))
        return codes

    def _show_summary(self, error: ServerError | None) -> None:
        context, result = self.context, self._run.result()
        # With --wait the result of the snapshots follows, which must not wait for a key.
        is_last = not (context.wait or error or self._run.stop.requested)
        context.show_tables(self._summary(result), is_last=is_last)
        if self._action is Action.RESYNC and result.deliveries_cleared and not result.update:
            context.say(forgotten(is_planned=context.dry_run))
        if context.dry_run:
            context.say("Dry run: nothing was changed.")
        elif result.cancelled and not self._is_paced:
            by = f" by {result.cancelled_by}" if result.cancelled_by else ""
            done = f"Cancelled{by} after {result.completed} of {result.total} links"
            context.warn(f"{done}; {self.next_step}.")

    def _summary(self, result: BulkResult) -> Iterator[object]:
        """Yields the counts, then the links that could not be queued, then those of a dry run."""
        yield render.summary(result) if result.total else render.message(result)
        if notes := list(self._notes(result)):
            yield from ("", *notes)
        if result.failures:
            yield from ("", failures(result.failures))
        if result.links:
            yield from ("", render.planned_list(result.links))

    def _notes(self, result: BulkResult) -> Iterator[str]:
        """Yields what the table does not tell."""
        if self._action is Action.RESYNC and result.total:
            count, is_planned = result.deliveries_cleared, self.context.dry_run
            yield f"{records_in_words(count, update=result.update, is_planned=is_planned)}."
        if self._options.front and (waited := result.counts.get(Outcome.ALREADY_QUEUED, 0)):
            yield f"{amount(waited, 'job')} waited already: --front moves none of these."
        if result.circuits_reset:
            verb = "would be reset" if self.context.dry_run else "reset"
            yield f"{amount(result.circuits_reset, 'circuit')} {verb}."
        if result.circuits_held:
            held = amount(result.circuits_held, "circuit")
            yield f"{held} not reset: another session holds the row of the repository."
        if result.open_circuits_left_out:
            why = "the circuit of the repository is open."
            left_out = amount(result.open_circuits_left_out, "link")
            # Without a link to change, the message has counted them.
            yield f"{left_out} left out: {why}" if result.total else why.capitalize()
            if self.context.docora.queue.is_docoras:
                yield "To close the circuits, and reset these links, too: add --reset-circuit."


_STOPPED: dict[StoppedBy | None, ExitCode] = {
    StoppedBy.MAX_FAILURES: ExitCode.SNAPSHOT_FAILED,
    StoppedBy.TIMEOUT: ExitCode.TIMED_OUT,
}


def links_of(selection: Selection) -> str:
    """Counts the links; names the app if all are of one."""
    links = amount(selection.total, "link")
    return f"{links} of {selection.by_app[0].app_name}" if len(selection.by_app) == 1 else links
