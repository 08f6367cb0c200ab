"""Checks that workers are running, and that they belong to the backend in use."""

from __future__ import annotations

from collections.abc import Sequence

from docora_ops.actions.docora import Docora
from docora_ops.errors import NeedsRqError, WrongBackendError
from docora_ops.jobs import OtherQueue
from docora_ops.text import duration, inert


def require_rq(docora: Docora, what: str, instead: str, *, alone: str = "") -> None:
    """Raises NeedsRqError if the backend is BullMQ, UnclearBackendError if it is unclear.

    With `alone`, raises WrongBackendError if a BullMQ worker runs.

    what: the command or option that needs RQ.
    instead: what to do instead with BullMQ.
    alone: why no BullMQ worker may run; empty if BullMQ workers may run.
    """
    queue, is_set = docora.queue, docora.settings.backend is not None
    if queue.can_push:
        if alone and queue.use.other is OtherQueue.WORKED_ON:
            raise WrongBackendError(f"a BullMQ worker of Docora runs: {alone}", hint=instead)
        return
    if not (is_set or queue.use.workers):
        instead += "; if no BullMQ worker is to run, set DOCORA_OPS_BACKEND=rq"
    backend = "DOCORA_OPS_BACKEND" if is_set else "the backend in use"
    raise NeedsRqError(
        f"{what} needs RQ's queue, and {backend} is {queue.backend}: nothing is written to "
        "Docora's own queue",
        hint=instead,
    )


def require_rq_for_front(docora: Docora) -> None:
    """Raises the errors of `require_rq` if `--front` can't be used."""
    require_rq(docora, "--front", "leave out --front: Docora's scheduler queues the links")


def require_right_workers(docora: Docora, *, alone: bool = False) -> None:
    """Raises WrongBackendError if only workers of the other backend are running.

    Jobs of the other backend are not known, so links that its workers scan would look stuck.

    alone: also raise the error if workers of both backends are running.
    """
    use, advice = docora.queue.use, docora.queue.advice
    if use.other is OtherQueue.WORKED_ON and (alone or not use.workers):
        message, hint = advice.others_beside, advice.to_stop_others
        if not use.workers:
            message, hint = advice.only_others, f"{advice.to_switch}: see docora-ops help workers"
        if seconds := docora.queue.seconds_until_others_forgotten():
            hint += f"; if all of these were killed, try again in {duration(seconds)}"
        raise WrongBackendError(message, hint=hint)


def warn_of_workers(docora: Docora) -> int:
    """Warns of anything that keeps jobs from being taken. Returns the number of live workers.

    Warns if there is no worker, if workers are suspended, if workers of the other backend are
    running, or if jobs are left in the queue of the other backend.
    """
    queue = docora.queue_to_read
    use, advice = queue.use, queue.advice
    if not queue.choice.is_clear:
        return use.workers
    if use.other is OtherQueue.WORKED_ON:
        warn_of_other_workers(docora)
    elif not use.workers:
        start = advice.to_start_workers
        docora.warn(f"{advice.no_worker}: jobs wait until one is started: {start}")
    if use.suspension:
        docora.warn(f"{use.suspension.sentence}. To go on: {advice.to_resume}")
    if use.other is OtherQueue.LEFT_JOBS and advice.others_left_jobs:
        docora.warn(advice.others_left_jobs)
    return use.workers


def warn_of_mute_workers(docora: Docora, names: Sequence[str]) -> None:
    """Warns of live workers that record no outcomes, if there are any."""
    if names:
        names = ", ".join(map(inert, names))
        docora.warn(f"snapshots of these workers are not counted: {names}; see docora-ops doctor")


def warn_of_other_workers(docora: Docora) -> None:
    """Warns if workers of the other backend are running: their jobs are not shown."""
    queue, advice = docora.queue_to_read, docora.queue_to_read.advice
    if queue.choice.is_clear and queue.use.other is OtherQueue.WORKED_ON:
        if queue.use.workers:
            docora.warn(f"{advice.others_beside}: {advice.to_stop_others}")
        else:
            docora.warn(f"{advice.only_others}: {advice.to_switch}")
