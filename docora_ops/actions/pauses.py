"""`pause` and `resume`: suspend all RQ workers of a Redis, and end the suspension."""

from collections.abc import Sequence
from dataclasses import dataclass

from docora_ops.actions.docora import Docora, require_rq
from docora_ops.jobs import AnyWorker, Suspension
from docora_ops.queue.rq_workers import (
    read_workers_of_all_queues,
    resume_workers,
    suspend_workers,
)


@dataclass(frozen=True)
class RqWorkers:
    """All live RQ workers of this Redis, and their suspension (None if not suspended).

    replaced: the earlier suspension that `pause` has replaced, if any.
    """

    suspension: Suspension | None
    workers: Sequence[AnyWorker]
    replaced: Suspension | None = None


@dataclass(frozen=True)
class Resumed:
    """The result of `resume`. `suspension`: the ended suspension, if any."""

    resumed: bool
    suspension: Suspension | None


def rq_workers(docora: Docora) -> RqWorkers:
    """Returns all live RQ workers of this Redis, regardless of their queue, and their suspension.

    Raises NeedsRqError, UnclearBackendError, RedisError; WrongBackendError if a worker of Docora
    runs, which would continue to take jobs.
    """
    docora.queue.read_use()  # again, because a person may have taken long to answer
    instead = "to keep Docora's workers from taking jobs, stop them"
    require_rq(docora, "pause", instead, alone="it obeys no pause")
    return RqWorkers(docora.queue.use.suspension, read_workers_of_all_queues(docora.redis))


def pause(docora: Docora, seconds: int | None = None, *, reason: str | None = None) -> RqWorkers:
    """Suspends all RQ workers of this Redis, and returns them with their suspension.

    Each worker finishes its job. A worker that is already waiting for a job may take one more.

    seconds: the length of the pause; None means until `resume`.
    reason: for the audit entry.

    Raises the errors of
    `rq_workers`.
    """
    now = rq_workers(docora)
    change = docora.describe_change("pause", reason, **{"for": seconds and f"{seconds}s"})
    suspension = suspend_workers(docora.redis, seconds, change)
    return RqWorkers(suspension, now.workers, replaced=now.suspension)


def resume(docora: Docora, *, reason: str | None = None) -> Resumed:
    """Resumes the RQ workers of this Redis after `pause` or `rq suspend`.

    reason: for the audit entry, which is written only if there was a suspension.

    Raises NeedsRqError, UnclearBackendError, RedisError.
    """
    require_rq(docora, "resume", docora.queue.advice.to_resume)
    suspension = docora.queue.use.suspension
    if suspension:
        resume_workers(docora.redis, docora.describe_change("resume", reason))
    return Resumed(suspension is not None, suspension)
