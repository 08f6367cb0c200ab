"""Retry and resync of one link."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

from docora_ops.actions.decision import decide, invalid_job_id
from docora_ops.actions.look import job_state
from docora_ops.audit import Change
from docora_ops.database import Database, Rollback
from docora_ops.database.circuits import circuits_to_reset, reset_circuits
from docora_ops.database.link_rows import (
    clear_deliveries,
    count_deliveries,
    held_job_ids,
    lock_link,
    read_link,
    read_payload,
    reset_link,
)
from docora_ops.errors import (
    CircuitOpenError,
    JobUnreadableError,
    NotFailedError,
    NotFoundError,
    RedisError,
    SnapshotRunningError,
)
from docora_ops.jobs import JobState, when_docora_queues
from docora_ops.links import Action, Link, LinkRef, LinkResult, LinkStatus, Outcome
from docora_ops.queue import Answer, ExpiredExecutions, LinkQueue, PushRequest
from docora_ops.queue.audit_stream import WITHOUT_PUSH, link_end_entry, link_entries
from docora_ops.queue.progress import new_operation_id
from docora_ops.settings import SECOND_LOOK_DELAY
from docora_ops.text import moment


def _require_closed_circuit(link: Link) -> None:
    """Raises CircuitOpenError if Docora's scheduler would not queue the link."""
    if link.circuit_is_open:
        raise CircuitOpenError(
            link.held_back,
            hint="add --reset-circuit to close the circuit, too",
            details={"status": link.status, "circuit_open_until": link.circuit_open_until},
        )


@dataclass(frozen=True, slots=True)
class _Live:
    """A link whose job is running or doubtful; with RQ a doubtful one has evidence."""

    link: Link
    job: JobState = JobState.RUNNING
    evidence: str = ""


@dataclass(frozen=True, slots=True)
class LinkChange:
    """Retry or resync of one link: resets it and queues its job, both or neither.

    A retry takes failed links only, and leaves a link alone whose job is running. A resync takes
    any link, and deletes its delivery records or, with `update`, marks them as outdated.
    """

    action: Action
    database: Database
    queue: LinkQueue
    ref: LinkRef
    front: bool = False
    reset_circuit: bool = False
    dry_run: bool = False
    change: Change | None = None  # for the audit entries; None: the change is not recorded
    update: bool = False
    _run: str = field(default_factory=new_operation_id)  # joins the two audit entries of one change

    def make(self) -> LinkResult:
        """Makes the change, and after the commit writes the audit entry that it was made.

        Raises NotFailedError, CircuitOpenError, SnapshotRunningError, NotFoundError if the link has
        gone, UnqueueableError, PostgresError, RedisError; nothing has changed then.
        """
        result = self._make()
        if self.change and not self.dry_run and result.outcome in WITHOUT_PUSH:
            try:
                self.queue.record(link_end_entry(self.change, self._run, result.outcome))
            except RedisError as error:
                return replace(result, audit_error=error.message)
        return result

    def _make(self) -> LinkResult:
        """Attempts the change, and again a moment later while the job is running or doubtful."""
        if not self.ref.has_valid_job_id:
            raise invalid_job_id(self.ref)
        expired = self.queue.read_expired()  # before the row is locked
        if not self.dry_run:
            self.queue.prepare()
        before: _Live | None = None
        while True:
            found = self._attempt(before, expired)
            if isinstance(found, LinkResult):
                return found
            if before and (before.evidence or not found.evidence):
                break
            # The first look, or the job was running and is doubtful only now.
            before = found
            time.sleep(SECOND_LOOK_DELAY)  # holding no lock
        if self.action is Action.RESYNC:
            raise self._running(found)
        return self._result(found.link, Outcome.ALREADY_RUNNING)

    def _attempt(self, before: _Live | None, expired: ExpiredExecutions) -> LinkResult | _Live:
        """Makes the change in one transaction, or none if the job is running or doubtful."""
        earlier = before.evidence if before else ""
        with self.database.transaction():
            link = self._read()
            is_refused = self.action is Action.RETRY and not self._may_be_retried(link)
            if is_refused and before:  # the job that was running gave it another status meanwhile
                return self._result(link, Outcome.ALREADY_RUNNING)
            if is_refused:
                raise Rollback
            if self.queue.is_docoras and not self.reset_circuit:
                _require_closed_circuit(link)
            if held_job_ids(self.database, [self.ref.job_id]):
                return _Live(link)
            cleared = self._clear_deliveries() if self.action is Action.RESYNC else 0
            is_reset = self.reset_circuit and self._reset_circuit()
            answer = self._look_or_push(link, earlier, expired)
            outcome = decide(answer, earlier)
            if outcome is Outcome.NOT_QUEUED:
                raise JobUnreadableError(
                    f"the Redis key of job {answer.job_id!r} does not hold a job: {answer.reason}",
                    hint="look at that key, and remove it if nothing needs it",
                )
            if outcome is None:
                raise Rollback
            return self._result(link, outcome, cleared, is_reset=is_reset)
        if is_refused:
            raise self._not_failed(link)
        return _Live(link, answer.state, answer.evidence)

    def _may_be_retried(self, link: Link) -> bool:
        """Tells whether the link is failed, or pending and held back by an open circuit."""
        is_held_back = (
            self.queue.is_docoras
            and link.status == LinkStatus.PENDING_SNAPSHOT
            and link.circuit_is_open
        )
        return link.status == LinkStatus.FAILED or (is_held_back and self.reset_circuit)

    def _read(self) -> Link:
        """Locks the link, except in a dry run."""
        read = read_link if self.dry_run else lock_link
        link = read(self.database, self.ref.app_id, self.ref.repository_id)
        if link is None:
            raise NotFoundError(
                f"App-repository link not found: {self.ref.app_id!r} and "
                f"{self.ref.repository_id!r}",
                hint="it was removed a moment ago",
            )
        return link

    def _look_or_push(self, link: Link, evidence: str, expired: ExpiredExecutions) -> Answer:
        """Resets the link and pushes its job; in a dry run, only looks at the job."""
        if self.dry_run:
            [answer] = self.queue.look(
                [self.ref.job_id], expired=expired, detailed=True, rows_locked=True
            )
            return answer
        reset_link(self.database, self.ref)
        payload = read_payload(self.database, self.ref)
        is_rescan = self.action.is_rescan(link.status)
        [answer] = self.queue.push(
            [PushRequest(self.ref.job_id, payload, is_rescan=is_rescan, seen=evidence)],
            expired=expired,
            front=self.front,
            audit=link_entries(self.change, self._run) if self.change else {},
        )
        return answer

    def _clear_deliveries(self) -> int:
        if self.dry_run:
            return count_deliveries(self.database, [self.ref])
        return clear_deliveries(self.database, [self.ref], update=self.update)

    def _reset_circuit(self) -> bool:
        """Resets the circuit unless this is a dry run. Returns whether there was a failure."""
        reset = circuits_to_reset if self.dry_run else reset_circuits
        return bool(reset(self.database, [self.ref.repository_id]))

    def _running(self, found: _Live) -> SnapshotRunningError:
        name = found.link.payload.link_name
        why = f"the snapshot of {name} is running; a resync now would be lost"
        hint = "when it has ended, run it again"
        if after := self._after_cut(found.job):
            why = f"the snapshot of {name} was cut off or hangs: BullMQ still has its job at work"
            hint = f"{after}; {hint}"
        return SnapshotRunningError(
            why,
            hint=hint,
            details={"status": found.link.status, "job": found.job},
        )

    def _not_failed(self, link: Link) -> NotFailedError:
        job = job_state(self.database, self.queue, self.ref)
        return NotFailedError(
            f"Only failed entries can be retried: {link.payload.link_name} is {link.status!r}",
            hint=self._what_helps(link, job),
            details={"status": link.status, "job": job},
        )

    def _what_helps(self, found: Link, job: JobState) -> str:
        status, link = found.status, self.ref.words
        if after := self._after_cut(job):
            return f"its worker was killed or hangs: {after}"
        match job:
            case JobState.WAITING:
                return "its job is waiting in the queue: nothing needs to be done"
            case JobState.RUNNING:
                return "its snapshot is running: wait for it to end"
            case JobState.DOUBTFUL:
                return "a worker may be taking its job just now: look again in a moment"
            case JobState.UNREADABLE:
                return f"its Redis key does not hold a job: docora-ops show {link} has its id"
        if self.queue.docora_picks_up(status, Answer(self.ref.job_id, job)):
            if not found.circuit_is_open:
                workers = self.queue.count_workers()
                when = when_docora_queues(workers, self.queue.scan_interval)
                return f"Docora's scheduler queues it {when}"
            until = moment(found.circuit_open_until)
            return (
                f"its circuit is open until {until}: Docora's scheduler queues it then; to have it "
                f"queued at once: docora-ops retry {link} --reset-circuit"
            )
        if status in {LinkStatus.PENDING_SNAPSHOT, LinkStatus.SCANNING}:
            return (
                "it has no live job, so nobody works on it; to queue it again: "
                f"docora-ops repair {link}"
            )
        if status == LinkStatus.SYNCED:
            needed = "it is in sync, so nothing needs to be done; only if the app has lost files"
        else:
            needed = "to send every file again"
        return f"{needed}: docora-ops resync {link}"

    def _after_cut(self, job: JobState) -> str:
        """Says what becomes of a job of BullMQ whose worker was killed. Empty for any other job.

        The lock of a killed worker lives on for 30 s.
        """
        is_doubtful = job is JobState.DOUBTFUL or (
            job is JobState.RUNNING and not self.queue.count_workers()
        )
        if not (self.queue.is_docoras and is_doubtful):
            return ""
        return (
            "once a worker of Docora runs, it runs the job again, or gives it up if it was cut off "
            "twice; docora-ops repair resets a link that then stays scanning"
        )

    def _result(
        self, link: Link, outcome: Outcome, cleared: int = 0, *, is_reset: bool = False
    ) -> LinkResult:
        changed = self.reset_circuit and outcome.succeeded
        return LinkResult(
            action=self.action,
            link=link,
            outcome=outcome,
            circuit_open_until=None if changed else link.circuit_open_until,
            circuit_reset=changed and is_reset if self.reset_circuit else None,
            deliveries_cleared=cleared,
            update=self.update,
            dry_run=self.dry_run,
            scan_interval=self.queue.scan_interval,
        )
