"""What is wrong with the workers that run, and whether they are those of the backend."""

from __future__ import annotations

from docora_ops.actions.docora import Docora
from docora_ops.errors import NeedsRqError, WrongBackendError
from docora_ops.jobs import QUEUE_NAME, Backend, OtherQueue
from docora_ops.queue.backend import read_suspension, seconds_until_forgotten
from docora_ops.text import duration


def require_rq(docora: Docora, what: str, instead: str) -> None:
    """Raises NeedsRqError if the backend is BullMQ, UnclearBackendError if it is unclear.

    what: the command or option that needs RQ.
    instead: what to do with BullMQ.
    """
    if docora.backend.is_clear and docora.backend.backend is Backend.RQ:
        return
    queue, is_set = docora.queue, docora.settings.backend is not None
    if not (is_set or queue.count_workers()):
        instead += "; if no BullMQ worker is to run, set DOCORA_OPS_BACKEND=rq"
    backend = "DOCORA_OPS_BACKEND" if is_set else "the backend in use"
    raise NeedsRqError(
        f"{what} needs RQ's queue, and {backend} is {Backend.BULLMQ}: nothing is written to "
        "Docora's own queue",
        hint=instead,
    )


def require_rq_for_front(docora: Docora) -> None:
    """Raises NeedsRqError if the backend is BullMQ, UnclearBackendError if it is unclear."""
    require_rq(docora, "--front", "leave out --front: Docora's scheduler queues the links")


def require_right_workers(docora: Docora, *, alone: bool = False) -> tuple[int, OtherQueue]:
    """Returns the number of live workers, and the state of the other backend's queue.

    Raises WrongBackendError if only workers of the other backend are running: their jobs are not
    known, so running links would look stuck. `alone`: also if workers of both backends are running.
    """
    workers, other = docora.queue.count_workers(), docora.queue.read_other()
    advice = docora.advice
    if other is OtherQueue.WORKED_ON and (alone or not workers):
        message, hint = advice.others_beside, advice.to_stop_others
        if not workers:
            message, hint = advice.only_others, f"{advice.to_switch}: see docora-ops help workers"
        if docora.queue.is_docoras and (seconds := seconds_until_forgotten(docora.redis)):
            hint += f"; if all of these were killed, try again in {duration(seconds)}"
        raise WrongBackendError(message, hint=hint)
    return workers, other


def count_workers(docora: Docora, *, to_change: bool = False, alone: bool = False) -> int:
    """Counts the live workers.

    Warns if there is none, if workers are suspended, or if the other backend is in use.
    `to_change`, `alone`: raises WrongBackendError as `require_right_workers` does.
    """
    queue = docora.queue_to_read
    if to_change:
        workers, other = require_right_workers(docora, alone=alone)
    else:
        workers, other = queue.count_workers(), queue.read_other()
    if not docora.backend.is_clear:
        return workers
    if other is OtherQueue.WORKED_ON:
        warn_of_other_workers(docora, has_workers=workers > 0)
    elif not workers:
        listens = f"no worker listens on the queue {QUEUE_NAME}"
        none = "no BullMQ worker is seen" if queue.is_docoras else listens
        docora.warn(f"{none}: jobs wait until one is started: {docora.advice.to_start_workers}")
    if suspension := read_suspension(docora.redis, queue.backend):
        docora.warn(f"{suspension.sentence}. To go on: {docora.advice.to_resume}")
    if other is OtherQueue.LEFT_JOBS and not queue.is_docoras:
        docora.warn(
            "Docora's BullMQ queue holds jobs, and no BullMQ worker runs to take them: "
            "docora-ops schedule, run each minute, queues their links; docora-ops doctor has the "
            "command that removes the jobs"
        )
    return workers


def warn_of_wrong_backend(docora: Docora) -> None:
    """Warns if only workers of the other backend are running: their jobs are not shown."""
    queue = docora.queue_to_read
    is_worked_on = docora.backend.is_clear and queue.read_other() is OtherQueue.WORKED_ON
    if is_worked_on and not queue.count_workers():
        warn_of_other_workers(docora, has_workers=False)


def warn_of_other_workers(docora: Docora, *, has_workers: bool) -> None:
    """Warns that workers of the other backend are running. `has_workers`: beside ours."""
    advice = docora.advice
    if has_workers:
        docora.warn(f"{advice.others_beside}: {advice.to_stop_others}")
    else:
        docora.warn(f"{advice.only_others}: {advice.to_switch}")
