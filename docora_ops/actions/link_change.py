"""Retry and resync of one link."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

from docora_ops.actions.job_ids import require_job_id_not_held, require_valid_job_id
from docora_ops.audit import ChangeNote
from docora_ops.database import Database, Rollback
from docora_ops.database.link_rows import (
    close_circuit,
    count_deliveries,
    delete_deliveries,
    held_job_ids,
    lock_link,
    read_link,
    reset_link,
    shared_job_ids,
)
from docora_ops.errors import (
    JobUnreadableError,
    NotFailedError,
    NotFoundError,
    RedisError,
    SnapshotRunningError,
)
from docora_ops.jobs import PLANNED_OUTCOMES, JobState
from docora_ops.links import Action, Link, LinkRef, LinkResult, LinkStatus, Outcome
from docora_ops.queue import Answer, LinkQueue, PushRequest
from docora_ops.queue.audit_stream import link_end_entry, link_entries
from docora_ops.queue.progress import new_operation_id
from docora_ops.queue.waiting_list import ExpiredExecutions

SECOND_LOOK_DELAY = 1.5
"""Seconds after which a running or doubtful job is looked at again."""


def retry(
    database: Database,
    queue: LinkQueue,
    ref: LinkRef,
    *,
    front: bool = False,
    reset_circuit: bool = False,
    dry_run: bool = False,
    note: ChangeNote | None = None,
) -> LinkResult:
    """Put one failed link back to work, and leave `note` in the audit trail.

    A link whose job is running is left as it is. Raises NotFailedError in any other status,
    NotFoundError if the link has gone, UnqueueableError, PostgresError, RedisError; nothing has
    changed then.
    """
    return _Change(Action.RETRY, database, queue, ref, dry_run, note, front, reset_circuit).make()


def resync(
    database: Database,
    queue: LinkQueue,
    ref: LinkRef,
    *,
    dry_run: bool = False,
    note: ChangeNote | None = None,
) -> LinkResult:
    """Forget the link's deliveries and queue it, whatever its status, so that all is sent again.

    Raises SnapshotRunningError while its job is running, and otherwise what `retry` raises.
    """
    return _Change(Action.RESYNC, database, queue, ref, dry_run, note).make()


@dataclass(frozen=True, slots=True)
class _Live:
    """A link whose job is running, or is doubtful since the moment that it gives."""

    link: Link
    doubtful_since: str = ""


@dataclass(frozen=True, slots=True)
class _Change:
    operation: Action
    database: Database
    queue: LinkQueue
    ref: LinkRef
    dry_run: bool
    note: ChangeNote | None = None
    front: bool = False
    reset_circuit: bool = False
    run: str = field(default_factory=new_operation_id)
    """Joins the two entries of one change in the audit trail."""

    def make(self) -> LinkResult:
        """Make the change, and tell the audit trail what is certain only after the commit."""
        result = self._make()
        if self.note and not self.dry_run and result.outcome is Outcome.ALREADY_QUEUED:
            try:
                self.queue.record(link_end_entry(self.note, self.run))
            except RedisError as error:
                return replace(result, audit_error=error.message)  # it is made all the same
        return result

    def _make(self) -> LinkResult:
        """Try, and once more a moment later if the job is running or may be."""
        require_valid_job_id(self.ref)
        self._require_own_job()
        expired = self.queue.read_expired()  # before a row is locked
        attempt = self._plan if self.dry_run else self._attempt
        first = attempt(None, expired)
        if isinstance(first, LinkResult):
            return first
        time.sleep(SECOND_LOOK_DELAY)  # holding no lock
        second = attempt(first, expired)
        if isinstance(second, _Live) and second.doubtful_since and not first.doubtful_since:
            # It was running, and is doubtful only now.
            time.sleep(SECOND_LOOK_DELAY)
            second = attempt(second, expired)
        if isinstance(second, LinkResult):
            return second
        if self.operation is Action.RESYNC:
            raise SnapshotRunningError(
                f"the snapshot of {_name(second.link)} is running; a resync now would be lost",
                hint="run the same command again when it has ended",
                details={"status": second.link.status, "job": JobState.RUNNING},
            )
        return self._result(first.link, Outcome.ALREADY_RUNNING)

    def _attempt(self, before: _Live | None, expired: ExpiredExecutions) -> LinkResult | _Live:
        """One transaction, without a change if the job is running or doubtful."""
        with self.database.transaction():
            link = self._existing(lock_link(self.database, self.ref.app_id, self.ref.repository_id))
            if before is not None and self._has_moved_on(link):
                return self._result(link, Outcome.ALREADY_RUNNING)
            self._require_status(link, expired)
            if held_job_ids(self.database, [self.ref.job_id]):
                return _Live(link)
            reset_link(self.database, self.ref)
            if self.reset_circuit:
                close_circuit(self.database, self.ref.repository_id)
            cleared = 0
            if self.operation is Action.RESYNC:
                cleared = delete_deliveries(self.database, [self.ref])
            [answer] = self.queue.push(
                [
                    PushRequest(
                        self.ref.job_id,
                        link.payload,
                        is_rescan=self.operation.is_rescan(link.status),
                        seen=before.doubtful_since if before else "",
                    )
                ],
                expired=expired,
                front=self.front,
                audit=link_entries(self.note, self.run) if self.note else None,
            )
            _require_readable(answer)
            if answer.outcome is None:
                raise Rollback
            if answer.outcome is Outcome.ALREADY_QUEUED:
                self._require_own_job()
            return self._result(link, answer.outcome, cleared)
        return _Live(link, answer.detail)

    def _plan(self, before: _Live | None, expired: ExpiredExecutions) -> LinkResult | _Live:
        """The same without a change."""
        link = self._existing(read_link(self.database, self.ref.app_id, self.ref.repository_id))
        if before is not None and self._has_moved_on(link):
            return self._result(link, Outcome.ALREADY_RUNNING)
        self._require_status(link, expired)
        [answer] = self.queue.look([self.ref.job_id], expired=expired, detailed=True)
        _require_readable(answer)
        if held_job_ids(self.database, [self.ref.job_id]):
            return _Live(link)
        outcome = PLANNED_OUTCOMES.get(answer.state)
        if before is not None and before.doubtful_since and answer.detail == before.doubtful_since:
            outcome = Outcome.REPLACED_STALE
        if outcome is None:
            return _Live(link, answer.detail)
        cleared = 0
        if self.operation is Action.RESYNC:
            cleared = count_deliveries(self.database, [self.ref])
        return self._result(link, outcome, cleared)

    def _require_own_job(self) -> None:
        if shared_job_ids(self.database, [self.ref]):
            require_job_id_not_held(self.queue, self.ref)

    def _existing(self, link: Link | None) -> Link:
        if link is None:
            raise NotFoundError(
                f"App-repository link not found: {self.ref.app_id!r} and "
                f"{self.ref.repository_id!r}",
                hint="it was removed a moment ago",
            )
        return link

    def _has_moved_on(self, link: Link) -> bool:
        """Whether the job that was running gave the link another status meanwhile."""
        return self.operation is Action.RETRY and link.status != LinkStatus.FAILED

    def _require_status(self, link: Link, expired: ExpiredExecutions) -> None:
        if self.operation is Action.RESYNC or link.status == LinkStatus.FAILED:
            return
        [answer] = self.queue.look(
            [self.ref.job_id], expired=expired, detailed=True, rows_locked=True
        )
        is_held = bool(held_job_ids(self.database, [self.ref.job_id]))
        job = JobState.RUNNING if is_held else answer.state
        raise NotFailedError(
            f"Only failed entries can be retried: {_name(link)} is {link.status!r}",
            hint=self._what_helps(link.status, job),
            details={"status": link.status, "job": job},
        )

    def _what_helps(self, status: str, job: JobState) -> str:
        link = self.ref.words
        if job is JobState.WAITING:
            return "its job is waiting in the queue: nothing needs to be done"
        if job is JobState.RUNNING:
            return "its snapshot is running: wait for it to end"
        if job is JobState.DOUBTFUL:
            return "its job may be in a worker's hand just now: look again in a moment"
        if job is JobState.UNREADABLE:
            return f"its Redis key does not hold a job: docora-ops show {link} has its id"
        if status == LinkStatus.SYNCED:
            return f"it is in sync; to send every file again: docora-ops resync {link}"
        if status in {LinkStatus.PENDING_SNAPSHOT, LinkStatus.SCANNING}:
            return (
                "it has no live job, so nobody works on it; to queue it again: "
                f"docora-ops repair {link}"
            )
        return (
            "it has no live job, so nobody works on it; to queue it again, with every file: "
            f"docora-ops resync {link}"
        )

    def _result(self, link: Link, outcome: Outcome, cleared: int = 0) -> LinkResult:
        changed = self.reset_circuit and outcome.succeeded
        return LinkResult(
            operation=self.operation,
            link=link,
            outcome=outcome,
            circuit_open_until=None if changed else link.circuit_open_until,
            circuit_reset=changed,
            deliveries_cleared=cleared,
        )


def _require_readable(answer: Answer) -> None:
    if answer.state is JobState.UNREADABLE:
        raise JobUnreadableError(
            f"the Redis key of job {answer.job_id!r} does not hold a job: {answer.detail}",
            hint="look at that key, and remove it if nothing needs it",
        )


def _name(link: Link) -> str:
    return f"{link.payload.app_name} ← {link.payload.repository}"
