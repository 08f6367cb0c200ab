"""What the contract has docora-ops do, made in a situation instead of in the stores."""

from collections import Counter
from collections.abc import Sequence

from docora_ops.errors import DocoraOpsError, NotFailedError, NotFoundError, SnapshotRunningError
from docora_ops.jobs import JobState
from docora_ops.links import Action, Outcome
from tests.jobs.machine.situation import FoundJob, Situation

REFUSALS = (NotFailedError, NotFoundError, SnapshotRunningError)
LOOKED_AT_TWICE = frozenset({JobState.RUNNING, JobState.DOUBTFUL})


def qualifies(operation: Action, situation: Situation, job_id: str) -> bool:
    """Whether the link is one that the operation is about."""
    row = situation.rows.get(job_id)
    match operation:
        case Action.RETRY:
            return row is not None and row.status == "failed"
        case Action.SCHEDULE:
            return row is not None and row.is_due
    return row is not None


def one_is_looked_at_twice(operation: Action, before: Situation, job_id: str) -> bool:
    """Whether a retry or resync of the link waits before it says or does anything."""
    return qualifies(operation, before, job_id) and before.jobs[job_id].state in LOOKED_AT_TWICE


def predict_one(
    operation: Action, job_id: str, before: Situation, now: Situation, *, front: bool = False
) -> Outcome | DocoraOpsError:
    """A retry or resync that began in `before` and goes on in `now`, which is changed.

    Returns the outcome, or the error that is to be raised.
    """
    if job_id not in before.rows or job_id not in now.rows:
        return NotFoundError("")
    row, job = now.rows[job_id], now.jobs[job_id]
    if not qualifies(operation, before, job_id):
        return NotFailedError("", details={"status": row.status, "job": job.state})
    if not qualifies(operation, now, job_id):
        return Outcome.ALREADY_RUNNING
    if job.state is JobState.RUNNING or _is_queued_anew(before.jobs[job_id], job):
        if operation is Action.RETRY:
            return Outcome.ALREADY_RUNNING
        return SnapshotRunningError("", details={"status": row.status, "job": job.state})
    return _queue(operation, job_id, now, front=front)


def predict_first_round(
    operation: Action,
    job_ids: Sequence[str],
    now: Situation,
    locked: str | None,
    *,
    front: bool = False,
) -> tuple[Counter[Outcome], list[str]]:
    """What many links come to at first, and which are postponed."""
    outcomes: Counter[Outcome] = Counter()
    postponed = []
    for job_id in reversed(job_ids) if front else job_ids:
        if now.jobs[job_id].state in LOOKED_AT_TWICE or job_id == locked:
            postponed.append(job_id)
        elif not qualifies(operation, now, job_id):
            outcomes[Outcome.SKIPPED] += 1
        else:
            outcomes[_queue(operation, job_id, now, front=front)] += 1
    return outcomes, postponed


def predict_last_round(
    operation: Action,
    postponed: Sequence[str],
    before: Situation,
    now: Situation,
    locked: str | None,
    *,
    front: bool = False,
) -> Counter[Outcome]:
    """What they come to in the end. `before`: how their jobs stood in the first round."""
    return Counter(
        _predict_last(operation, job_id, before, now, is_locked=job_id == locked, front=front)
        for job_id in postponed
    )


def _predict_last(
    operation: Action,
    job_id: str,
    before: Situation,
    now: Situation,
    *,
    is_locked: bool,
    front: bool,
) -> Outcome:
    job = now.jobs[job_id]
    if job.beats:
        return Outcome.ALREADY_RUNNING
    if is_locked:
        return Outcome.NOT_QUEUED
    if not qualifies(operation, now, job_id):
        return Outcome.SKIPPED
    only_now = job.state is JobState.DOUBTFUL and before.jobs[job_id].beats
    if job.locked or only_now or _is_queued_anew(before.jobs[job_id], job):
        return Outcome.ALREADY_RUNNING
    return _queue(operation, job_id, now, front=front)


def _is_queued_anew(before: FoundJob, now: FoundJob) -> bool:
    """Whether a worker may have taken the job, though it may have had the one before."""
    return before.state is now.state is JobState.DOUBTFUL and before.fields.get(
        "enqueued_at"
    ) != now.fields.get("enqueued_at")


def _queue(operation: Action, job_id: str, now: Situation, *, front: bool = False) -> Outcome:
    return now.queue(
        job_id,
        rescan=operation.is_rescan(now.rows[job_id].status),
        reset=operation is not Action.SCHEDULE,
        forget=operation is Action.RESYNC,
        front=front,
    )
