"""Writes the progress and the audit entries of a bulk operation."""

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import astuple

from docora_ops.actions.audit_entries import AuditEntries
from docora_ops.actions.change import Changed
from docora_ops.actions.docora import Docora
from docora_ops.actions.snapshot_results import Following
from docora_ops.actions.tally import Tally
from docora_ops.errors import RedisError
from docora_ops.links import LinkRef
from docora_ops.operations import StoppedBy
from docora_ops.queue import Command
from docora_ops.queue.audit_stream import AuditEvent
from docora_ops.queue.bulk_progress import HEARTBEAT, write_progress
from docora_ops.queue.operation_links import (
    add_links,
    commands_to_add_links,
    end_work,
    keep_at_work,
)

_KEEP = 5  # seconds between two calls of `keep_at_work`


class OperationLog:
    """Writes the progress and the audit entries; without an operation id, only audit entries."""

    def __init__(self, docora: Docora, tally: Tally, following: Following) -> None:
        plan = tally.plan
        self._docora, self._tally, self._following = docora, tally, following
        self._audit = AuditEntries(plan.change, plan.selection.total)
        self._written_at = self._kept_at = 0.0
        self._failures = self._failed_links = 0  # how many have been written

    def commands(self, refs: Sequence[LinkRef]) -> list[Command]:
        """Returns the Redis commands to run atomically with the push of these links' jobs."""
        commands: list[Command] = [*self._audit.start()]
        # Links that are only reset have no job. Before the commit, `wait` would take their old
        # status for the result, so they are added later.
        if self._tally.operation_id and self._docora.queue.can_push:
            ids = [ref.id for ref in refs]
            commands += commands_to_add_links(self._tally.operation_id, ids)
        return commands

    def add(self, changed: Changed, late_ids: Sequence[str]) -> None:
        """Records a batch. `late_ids`: row ids of links to follow that `commands` did not add."""
        self._audit.has_begun |= changed.has_written
        if late_ids and self._tally.operation_id:
            add_links(self._docora.redis, self._tally.operation_id, late_ids)

    def write(self, *, is_last: bool = False) -> None:
        """Writes the progress and, at the start and the end, the audit entries.

        If the operation was cancelled, records that in the tally. Raises RedisError.
        """
        tally, audit = self._tally, self._audit
        self._written_at = time.monotonic()
        audit.deliveries = tally.deliveries
        result, wait = tally.result(), self._following.result()
        if tally.operation_id is None:
            if is_last:
                audit.write_end(self._docora.redis, tally.counts, result.stopped_by)
            return
        if is_last and audit.has_ended:
            return
        audit.operation_id = tally.operation_id
        is_first, entries = not audit.has_begun, audit.start()
        is_end = not (is_first or audit.has_ended) and (is_last or not tally.left)
        if is_end:
            stop = result.stopped_by, result.cancelled_by
            entries = [audit.entry(AuditEvent.ENDED, tally.counts, *stop)]
        has_new_failures = len(tally.failures) > self._failures
        has_new_failed_links = len(wait.failed_links) > self._failed_links
        was_cancelled, who = write_progress(
            self._docora.redis,
            result,
            change=tally.plan.change if is_first else None,
            results=wait.results if any(astuple(wait.results)) else None,
            failures=tally.failures if has_new_failures else (),
            failed_links=wait.failed_links if has_new_failed_links else (),
            audit=next(iter(entries), None),
        )
        audit.has_begun = True
        audit.has_ended |= is_end
        self._failures, self._failed_links = len(tally.failures), len(wait.failed_links)
        if was_cancelled and not tally.stopped_by:
            tally.stopped_by, tally.cancelled_by = StoppedBy.CANCELLED, who
        if not (tally.stopped_by or is_last) and time.monotonic() - self._kept_at > _KEEP:
            self._kept_at = time.monotonic()
            ids = (ref.id for ref in tally.plan.selection.refs)
            keep_at_work(self._docora.redis, tally.operation_id, ids)

    def is_older_than(self, seconds: float) -> bool:
        """Tells whether the progress was last written more than `seconds` ago."""
        return time.monotonic() - self._written_at > seconds

    def stay_known(self) -> None:
        """Keeps the operation from expiring while its links are awaited.

        Ignores errors of Redis, because the results are in Postgres.
        """
        if self.is_older_than(HEARTBEAT):
            with suppress(RedisError):
                self.write()

    def end_work(self) -> None:
        """Records that the operation is no longer at work."""
        if self._tally.operation_id:
            with suppress(RedisError):  # the record of its work expires anyway
                end_work(self._docora.redis, self._tally.operation_id)
