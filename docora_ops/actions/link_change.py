"""Retry and resync of one link."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

from docora_ops.actions.bulk.batch import require_valid_job_id
from docora_ops.actions.decision import decide
from docora_ops.audit import Change
from docora_ops.database import Database, Rollback
from docora_ops.database.link_rows import (
    close_circuit,
    count_deliveries,
    delete_deliveries,
    held_job_ids,
    lock_link,
    read_link,
    reset_link,
)
from docora_ops.errors import (
    JobUnreadableError,
    NotFailedError,
    NotFoundError,
    RedisError,
    SnapshotRunningError,
)
from docora_ops.jobs import JobState
from docora_ops.links import Action, Link, LinkRef, LinkResult, LinkStatus, Outcome
from docora_ops.queue import Answer, LinkQueue, PushRequest
from docora_ops.queue.audit_stream import link_end_entry, link_entries
from docora_ops.queue.progress import new_operation_id
from docora_ops.settings import SECOND_LOOK_DELAY


def retry(
    database: Database,
    queue: LinkQueue,
    ref: LinkRef,
    *,
    front: bool = False,
    reset_circuit: bool = False,
    dry_run: bool = False,
    change: Change | None = None,
) -> LinkResult:
    """Resets one failed link and queues its job, both or neither.

    A link whose job is running is left as it is. Raises NotFailedError in any other status,
    NotFoundError if the link has gone, UnqueueableError, PostgresError, RedisError; nothing has
    changed then.
    """
    return _LinkChange(
        Action.RETRY, database, queue, ref, dry_run, change, front, reset_circuit
    ).make()


def resync(
    database: Database,
    queue: LinkQueue,
    ref: LinkRef,
    *,
    dry_run: bool = False,
    change: Change | None = None,
) -> LinkResult:
    """Deletes the link's delivery records, resets it and queues its job, whatever its status.

    Raises SnapshotRunningError while its job is running, and otherwise what `retry` raises.
    """
    return _LinkChange(Action.RESYNC, database, queue, ref, dry_run, change).make()


@dataclass(frozen=True, slots=True)
class _Live:
    """A link whose job is running, or doubtful with this evidence."""

    link: Link
    evidence: str = ""


@dataclass(frozen=True, slots=True)
class _LinkChange:
    action: Action
    database: Database
    queue: LinkQueue
    ref: LinkRef
    dry_run: bool
    change: Change | None = None
    front: bool = False
    reset_circuit: bool = False
    run: str = field(default_factory=new_operation_id)
    """Joins the two audit entries of one change."""

    def make(self) -> LinkResult:
        """Makes the change, and after the commit writes the audit entry that it was made."""
        result = self._make()
        if self.change and not self.dry_run and result.outcome is Outcome.ALREADY_QUEUED:
            try:
                self.queue.record(link_end_entry(self.change, self.run))
            except RedisError as error:
                return replace(result, audit_error=error.message)
        return result

    def _make(self) -> LinkResult:
        """Attempts the change, and again a moment later while the job is running or doubtful."""
        require_valid_job_id(self.ref)
        before: _Live | None = None
        while True:
            found = self._attempt(before)
            if isinstance(found, LinkResult):
                return found
            if before and (before.evidence or not found.evidence):
                break
            # The first look, or the job was running and is doubtful only now.
            before = found
            time.sleep(SECOND_LOOK_DELAY)  # holding no lock
        if self.action is Action.RESYNC:
            raise SnapshotRunningError(
                f"the snapshot of {_name(found.link)} is running; a resync now would be lost",
                hint="run the same command again when it has ended",
                details={"status": found.link.status, "job": JobState.RUNNING},
            )
        return self._result(found.link, Outcome.ALREADY_RUNNING)

    def _attempt(self, before: _Live | None) -> LinkResult | _Live:
        """Makes the change in one transaction, or none if the job is running or doubtful."""
        earlier = before.evidence if before else ""
        with self.database.transaction():
            read = read_link if self.dry_run else lock_link
            link = self._existing(read(self.database, self.ref.app_id, self.ref.repository_id))
            if before is not None and self._has_moved_on(link):
                return self._result(link, Outcome.ALREADY_RUNNING)
            self._require_status(link)
            if held_job_ids(self.database, [self.ref.job_id]):
                return _Live(link)
            cleared = self._clear_deliveries()
            if self.dry_run:
                [answer] = self.queue.look([self.ref.job_id], detailed=True, rows_locked=True)
            else:
                answer = self._reset_and_push(link, earlier)
            outcome = decide(answer, earlier=earlier)
            if outcome is Outcome.FAILED:
                raise JobUnreadableError(
                    f"the Redis key of job {answer.job_id!r} does not hold a job: {answer.reason}",
                    hint="look at that key, and remove it if nothing needs it",
                )
            if outcome is None:
                raise Rollback
            return self._result(link, outcome, cleared)
        return _Live(link, answer.evidence)

    def _clear_deliveries(self) -> int:
        """Deletes the delivery records before a resync. Returns their number."""
        if self.action is not Action.RESYNC:
            return 0
        act = count_deliveries if self.dry_run else delete_deliveries
        return act(self.database, [self.ref])

    def _reset_and_push(self, link: Link, evidence: str) -> Answer:
        reset_link(self.database, self.ref)
        if self.reset_circuit:
            close_circuit(self.database, self.ref.repository_id)
        is_rescan = self.action.is_rescan(link.status)
        [answer] = self.queue.push(
            [PushRequest(self.ref.job_id, link.payload, is_rescan=is_rescan, seen=evidence)],
            front=self.front,
            audit=link_entries(self.change, self.run) if self.change else {},
        )
        return answer

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
        return self.action is Action.RETRY and link.status != LinkStatus.FAILED

    def _require_status(self, link: Link) -> None:
        if self.action is Action.RESYNC or link.status == LinkStatus.FAILED:
            return
        [answer] = self.queue.look([self.ref.job_id], detailed=True, rows_locked=True)
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
            action=self.action,
            link=link,
            outcome=outcome,
            circuit_open_until=None if changed else link.circuit_open_until,
            circuit_reset=changed,
            deliveries_cleared=cleared,
        )


def _name(link: Link) -> str:
    return f"{link.payload.app_name} ← {link.payload.repository_name}"
