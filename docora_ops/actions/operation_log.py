"""The plan of a bulk operation, and the log of its links: counts, progress, audit entries."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from os import urandom

from docora_ops.actions.change import Changed
from docora_ops.actions.docora import Docora
from docora_ops.actions.link_jobs import named_failures
from docora_ops.actions.snapshot_results import Following
from docora_ops.database import Selection
from docora_ops.errors import PostgresError
from docora_ops.links import (
    Action,
    LinkFailure,
    LinkRef,
    Outcome,
    PlannedLink,
    count_put_to_work,
)
from docora_ops.operations import (
    BulkResult,
    Change,
    ChangeOptions,
    RunningOperation,
    StoppedBy,
)
from docora_ops.queue import Command
from docora_ops.queue.audit_stream import AuditEntries, AuditEvent
from docora_ops.queue.operation_links import add_links, commands_to_add_links, keep_at_work
from docora_ops.queue.operation_records import FAILURES_OF_RECORD, write_progress
from docora_ops.queue.rq_queue import keep_pass

_KEEP = 5  # seconds between two calls of `keep_at_work` that leave no further link alone
_BY_OTHERS = (Outcome.ALREADY_QUEUED, Outcome.ALREADY_RUNNING, Outcome.SKIPPED)
"""Outcomes of links that another producer queued first, or that no longer qualified."""


@dataclass(frozen=True)
class Plan:
    """The plan of a bulk operation.

    running: other operations at work on the same links.
    deliveries: for a resync, the number of delivery records of the links.
    """

    action: Action
    selection: Selection
    change: Change
    options: ChangeOptions
    running: Sequence[RunningOperation]
    deliveries: int = 0


class OperationLog:
    """Counts the outcomes of a bulk operation, and writes its progress and audit entries.

    planned_links: the links of a dry run.
    stopped_by: why no further link is changed; None while the operation continues.
    """

    def __init__(self, docora: Docora, plan: Plan, following: Following | None) -> None:
        """Counts nothing yet. `following`: follows the links; None if no snapshot is awaited."""
        self._docora, self._plan, self._following = docora, plan, following
        self._audit = AuditEntries(plan.change, plan.selection.total)
        self._written_at = self._kept_at = 0.0
        self._failures_written = self._failed_links_written = 0
        self._counts: Counter[Outcome] = Counter()
        self._failures: list[LinkFailure] = []
        self._unrecorded: list[str] = []
        """Row ids of links that `wait` has to follow, and that no push has recorded."""
        self._left_alone: list[str] = []  # row ids of links that the operation will not queue
        self._left_alone_kept = 0
        self._cancelled_by: str | None = None
        self.by_app = {app: Counter[Outcome]() for app in plan.selection.by_app}
        self._counts_of = {app.app_id: counts for app, counts in self.by_app.items()}
        self.operation_id: str | None = None
        self.planned_links: list[PlannedLink] = []
        self.circuits_reset: set[str] = set()
        self.circuits_locked: set[str] = set()
        self.stopped_by: StoppedBy | None = None

    def add(self, changed: Changed) -> None:
        """Counts the outcomes of a batch."""
        for item in changed.outcomes:
            self._counts[item.outcome] += 1
            self._counts_of[item.ref.app_id][item.outcome] += 1
            is_reset = item.outcome.is_put_to_work and not self._docora.queue.can_push
            if is_reset or item.outcome is Outcome.ALREADY_RUNNING:
                self._unrecorded.append(item.ref.id)
            if item.outcome in {Outcome.SKIPPED, Outcome.NOT_QUEUED}:
                self._left_alone.append(item.ref.id)
        self.circuits_reset |= changed.circuits_reset
        self.circuits_locked |= changed.circuits_locked
        self._audit.deliveries += changed.deliveries
        self._audit.has_begun |= changed.has_written
        errors = [(item.ref, item.error_message) for item in changed.outcomes if item.error_message]
        try:
            self._failures += named_failures(self._docora.database, errors)
        except PostgresError:
            self._failures += [
                LinkFailure(ref.job_id, ref.app_id, ref.repository_id, error)
                for ref, error in errors
            ]

    def result(self) -> BulkResult:
        """Returns the result so far."""
        plan, counts, options = self._plan, self._counts, self._plan.options
        is_schedule = plan.action is Action.SCHEDULE
        is_paced_retry = options.is_paced and plan.action is Action.RETRY
        left = plan.selection.total - counts.total()
        is_cut_short = self.stopped_by is not None and left > 0
        return BulkResult(
            action=plan.action,
            dry_run=options.dry_run,
            operation_id=self.operation_id,
            total=plan.selection.total,
            completed=counts.total(),
            left=left,
            put_to_work=count_put_to_work(counts),
            cancelled=is_cut_short,
            stopped_by=self.stopped_by if is_cut_short else None,
            cancelled_by=self._cancelled_by if is_cut_short else None,
            **{outcome.value: counts[outcome] for outcome in Outcome},
            deliveries_cleared=self._audit.deliveries if plan.action is Action.RESYNC else None,
            open_circuits_left_out=plan.selection.open_circuits_left_out,
            held_left_out=plan.selection.held_left_out,
            circuits_reset=len(self.circuits_reset) if options.reset_circuit else None,
            circuits_locked=len(self.circuits_locked) if options.reset_circuit else None,
            in_flight=options.in_flight if options.is_paced else None,
            taken_over=sum(counts[outcome] for outcome in _BY_OTHERS) if is_paced_retry else None,
            left_to_operations=plan.selection.left_to_operations if is_schedule else None,
            running_operations=plan.running,
            failures=self._failures,
            planned_links=self.planned_links if options.dry_run else None,
        )

    def commands(self, refs: Sequence[LinkRef]) -> list[Command]:
        """Returns the Redis commands to run atomically with the push of these links' jobs."""
        commands: list[Command] = [*self._audit.start()]
        # Links that are only reset have no job. Before the commit, `wait` would take their old
        # status for the result, so they are added later.
        if self.operation_id and self._docora.queue.can_push:
            commands += commands_to_add_links(self.operation_id, [ref.id for ref in refs])
        return commands

    def begin(self) -> None:
        """Gives the operation its id, and records its start. Raises RedisError."""
        self._audit.operation_id = self.operation_id = f"bulk_{urandom(8).hex()}"
        self._write(AuditEvent.STARTED)

    def progress(self, *, every: float = 0) -> None:
        """Writes the progress. If the operation was cancelled, sets `stopped_by`.

        Raises RedisError.

        every: write nothing if the progress was last written less than this many seconds ago.
        """
        if time.monotonic() - self._written_at >= every:
            self._write()

    def end(self, stopped_by: StoppedBy | None = None) -> None:
        """Records the end, once. Raises RedisError.

        stopped_by: why links are left; ignored if the attribute `stopped_by` says so already.
        """
        self.stopped_by = self.stopped_by or stopped_by
        if not self._audit.has_ended:
            self._write(AuditEvent.ENDED)

    def _write(self, event: AuditEvent | None = None) -> None:
        """Writes the progress and, with `event`, an audit entry. See `progress`."""
        audit, redis, operation_id = self._audit, self._docora.redis, self.operation_id or ""
        self._written_at = time.monotonic()
        if self._unrecorded:
            add_links(redis, operation_id, self._unrecorded)
            self._unrecorded = []
        result, wait = self.result(), self._following.result() if self._following else None
        failed_links = wait.failed_links if wait else ()
        stop = result.stopped_by, result.cancelled_by
        new_failures = self._failures[self._failures_written : FAILURES_OF_RECORD]
        new_failed_links = failed_links[self._failed_links_written : FAILURES_OF_RECORD]
        cancelled_by = write_progress(
            redis,
            result,
            change=self._plan.change,
            is_first=event is AuditEvent.STARTED,
            results=wait.results if wait and wait.total else None,
            failures=self._failures if new_failures else (),
            failed_links=failed_links if new_failed_links else (),
            audit=audit.entry(event, self._counts, *stop) if event else None,
        )
        audit.has_begun, audit.has_ended = True, audit.has_ended or event is AuditEvent.ENDED
        self._failures_written = len(self._failures)
        self._failed_links_written = len(failed_links)
        if cancelled_by is not None and not self.stopped_by:
            self.stopped_by, self._cancelled_by = StoppedBy.CANCELLED, cancelled_by or None
        is_at_work = not (self.stopped_by or event is AuditEvent.ENDED)
        is_changed = len(self._left_alone) > self._left_alone_kept
        is_due = is_changed or time.monotonic() - self._kept_at > _KEEP
        if is_at_work and is_due:
            self._kept_at = time.monotonic()
            selected = (ref.id for ref in self._plan.selection.refs)
            keep_at_work(redis, operation_id, selected, self._left_alone, self._left_alone_kept)
            self._left_alone_kept = len(self._left_alone)


class PassLog(OperationLog):
    """The log of a pass of `schedule`. Has no progress: a pass per minute would fill the list."""

    def begin(self) -> None:
        """Does nothing: the first push writes the audit entry of the start."""

    def progress(self, *, every: float = 0) -> None:  # noqa: ARG002 - a batch is long
        """Records that the pass is at work, as it may take longer than the time between passes."""
        keep_pass(self._docora.redis)

    def end(self, stopped_by: StoppedBy | None = None) -> None:
        """Writes the audit entry of the end, once, if anything was changed. Raises RedisError."""
        self.stopped_by = self.stopped_by or stopped_by
        self._audit.write_end(self._docora.redis, self._counts, self.result().stopped_by)
