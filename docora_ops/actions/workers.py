"""The workers: pausing those of RQ, and what is wrong with those that run."""

from __future__ import annotations

from collections.abc import Iterator

from docora_ops.actions.docora import Docora
from docora_ops.audit import describe_change
from docora_ops.errors import NeedsRqError, WrongBackendError
from docora_ops.jobs import QUEUE_NAME, Backend, OtherQueue, RqWorkers, Suspension
from docora_ops.queue import rq_queue


def rq_workers(docora: Docora) -> RqWorkers:
    """Reads the live RQ workers of this Redis, also those of other queues, and their suspension.

    Raises NeedsRqError, UnclearBackendError, RedisError.
    """
    require_rq(docora, "pause", "to keep Docora's workers from taking jobs, stop them")
    return RqWorkers(rq_queue.read_suspension(docora.redis), rq_queue.live_workers(docora.redis))


def pause(docora: Docora, seconds: int | None = None, *, reason: str | None = None) -> RqWorkers:
    """Suspends all RQ workers of this Redis, and returns them as they were just before.

    Each worker finishes its job. One that already waits for a job may take one more.

    `seconds`: the length of the pause; None: until `resume`. `reason`: for the audit entry.
    Raises NeedsRqError, UnclearBackendError, RedisError.
    """
    workers = rq_workers(docora).workers
    change = describe_change("pause", reason, **{"for": seconds and f"{seconds}s"})
    return RqWorkers(rq_queue.suspend_workers(docora.redis, seconds, change), workers)


def resume(docora: Docora, *, reason: str | None = None) -> Suspension | None:
    """Lets the RQ workers of this Redis take jobs again, after `pause` or `rq suspend`.

    Returns the suspension that has ended, None if there was none. `reason`: for the audit entry.
    Raises NeedsRqError, UnclearBackendError, RedisError.
    """
    require_rq(docora, "resume", docora.advice.to_resume)
    suspension = rq_queue.read_suspension(docora.redis)
    if suspension:
        rq_queue.resume_workers(docora.redis, describe_change("resume", reason))
    return suspension


def require_rq(docora: Docora, what: str, instead: str) -> None:
    """Raises NeedsRqError beside Docora's own workers, UnclearBackendError.

    `what`: the command or option that needs RQ. `instead`: what to do beside Docora's own workers.
    """
    docora.require_clear_backend()
    if docora.backend.backend is not Backend.BULLMQ:
        return
    is_set = docora.settings.backend is not None
    if not docora.queue.count_workers():
        instead += "; no BullMQ worker is seen: RUN_MODE=all or worker brings one"
        if not is_set:
            instead += ", and where RUN_MODE=api is to stay, set DOCORA_OPS_BACKEND=rq"
    backend = "DOCORA_OPS_BACKEND" if is_set else "the backend in use"
    raise NeedsRqError(
        f"{what} needs RQ's queue, and {backend} is bullmq: nothing is written to Docora's own "
        "queue",
        hint=instead,
    )


def require_rq_for_front(docora: Docora) -> None:
    """Raises NeedsRqError beside Docora's own workers, UnclearBackendError."""
    require_rq(docora, "--front", "leave out --front: Docora's scheduler queues the links")


def require_right_workers(docora: Docora, *, alone: bool = False) -> tuple[int, OtherQueue]:
    """Returns the number of live workers, and the state of the other backend's queue.

    Raises WrongBackendError if only workers of the other backend run: their jobs are not known,
    and links that are at work would be taken for stuck ones. `alone`: raises also if they run
    beside ours.
    """
    workers, other = docora.queue.count_workers(), docora.queue.read_other()
    if other.is_the_only_one(workers):
        raise WrongBackendError(
            docora.advice.only_others,
            hint=f"{docora.advice.to_switch}: see docora-ops help workers",
        )
    if alone and other is OtherQueue.WORKED_ON:
        raise WrongBackendError(docora.advice.others_beside, hint=docora.advice.to_stop_others)
    return workers, other


def count_workers(docora: Docora, *, to_change: bool = False, alone: bool = False) -> int:
    """Counts the live workers.

    Notes if there is none, if workers are suspended, or if the other backend is in use.
    `to_change`: raises WrongBackendError as `require_right_workers` does, `alone` too.
    """
    if to_change:
        workers, other = require_right_workers(docora, alone=alone)
    else:
        queue = docora.queue_to_read
        workers, other = queue.count_workers(), queue.read_other()
    if docora.backend.is_clear:
        for found in _found_wrong(docora, workers, other):
            docora.note(f"Warning: {found}", is_warning=True)
    return workers


def _found_wrong(docora: Docora, workers: int, other: OtherQueue) -> Iterator[str]:
    advice, queue = docora.advice, docora.queue
    is_worked_on = other is OtherQueue.WORKED_ON
    if not workers and not is_worked_on and queue.is_docoras:
        yield (
            f"no BullMQ worker is seen: links wait until one is started: {advice.to_start_workers}"
        )
    elif not workers and not is_worked_on:
        name = QUEUE_NAME
        start = advice.to_start_workers
        yield f"no worker listens on the queue {name}: jobs wait until one is started: {start}"
    if suspension := queue.read_suspension():
        yield f"{suspension.sentence}. To go on: {advice.to_resume}"
    if is_worked_on:
        yield _others_run(docora, has_workers=workers > 0)
    if other is OtherQueue.LEFT_JOBS and not queue.is_docoras:
        what_to_do = "docora-ops schedule, run each minute, queues their links"
        if not workers:
            start = f"if Docora has workers of its own, {advice.to_switch} and start it"
            what_to_do = f"{start}; otherwise {what_to_do}"
        yield (
            "Docora's BullMQ queue holds jobs, and no BullMQ worker runs to take them: "
            f"{what_to_do}. docora-ops doctor has the command that removes the jobs."
        )


def note_wrong_backend(docora: Docora) -> None:
    """Notes if only workers of the other backend run, whose jobs are not shown."""
    queue = docora.queue_to_read
    if docora.backend.is_clear and queue.read_other().is_the_only_one(queue.count_workers()):
        note_other_workers(docora, has_workers=False)


def note_other_workers(docora: Docora, *, has_workers: bool) -> None:
    """Notes that workers of the other backend run, beside workers of this one or alone."""
    docora.note(f"Warning: {_others_run(docora, has_workers=has_workers)}", is_warning=True)


def _others_run(docora: Docora, *, has_workers: bool) -> str:
    advice = docora.advice
    if has_workers:
        return f"{advice.others_beside}: {advice.to_stop_others}"
    return f"{advice.only_others}: {advice.to_switch}"
