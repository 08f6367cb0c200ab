"""What the contract has docora-ops do, made in a situation instead of in the stores."""

from collections import Counter
from collections.abc import Sequence

from docora_ops.errors import (
    DocoraOpsError,
    JobMisplacedError,
    LinkLockedError,
    NotFailedError,
    NotFoundError,
    SnapshotRunningError,
)
from docora_ops.jobs import JobState
from docora_ops.links import Action, Outcome
from tests.jobs.machine.situation import Situation

REFUSALS = (JobMisplacedError, NotFailedError, NotFoundError, SnapshotRunningError)


def qualifies(operation: Action, situation: Situation, job_id: str) -> bool:
    """Whether the link is one that the operation is about."""
    row = situation.rows.get(job_id)
    match operation:
        case Action.RETRY:
            return row is not None and row.status == "failed"
        case Action.SCHEDULE:
            return row is not None and row.is_due
    return row is not None


def predict_one(
    operation: Action,
    job_id: str,
    now: Situation,
    *,
    is_locked: bool = False,
    front: bool = False,
) -> Outcome | DocoraOpsError:
    """A retry or resync, which changes `now`. Returns its outcome, or the error that it raises."""
    if job_id not in now.rows:
        return NotFoundError("")
    row, job = now.rows[job_id], now.jobs[job_id]
    details: dict[str, object] = {"status": row.status, "job": job.state}
    if not qualifies(operation, now, job_id):
        return NotFailedError("", details=details)
    if job.is_misplaced:
        return JobMisplacedError("", details=details)
    if is_locked and not job.beats:
        return LinkLockedError("")
    if job.state is JobState.RUNNING:
        if operation is Action.RETRY:
            return Outcome.ALREADY_RUNNING
        return SnapshotRunningError("", details=details)
    return _queue(operation, job_id, now, front=front)


def predict_many(
    operation: Action,
    job_ids: Sequence[str],
    now: Situation,
    locked: str | None,
    *,
    front: bool = False,
) -> Counter[Outcome]:
    """What many links come to. `locked`: the link whose row another session holds."""
    outcomes: Counter[Outcome] = Counter()
    for job_id in reversed(job_ids) if front else job_ids:
        job = now.jobs[job_id]
        if job.beats:
            outcomes[Outcome.ALREADY_RUNNING] += 1
        elif job_id == locked:
            outcomes[Outcome.NOT_QUEUED] += 1
        elif not qualifies(operation, now, job_id):
            outcomes[Outcome.SKIPPED] += 1
        elif job.locked:
            outcomes[Outcome.ALREADY_RUNNING] += 1
        else:
            outcomes[_queue(operation, job_id, now, front=front)] += 1
    return outcomes


def _queue(operation: Action, job_id: str, now: Situation, *, front: bool = False) -> Outcome:
    return now.queue(
        job_id,
        rescan=operation.is_rescan(now.rows[job_id].status),
        reset=operation is not Action.SCHEDULE,
        forget=operation is Action.RESYNC,
        front=front,
    )
