"""Whether a link can have the job id that its ids form."""

from __future__ import annotations

from docora_ops.errors import InvalidJobIdError
from docora_ops.jobs import JobState
from docora_ops.links import LinkRef
from docora_ops.queue import LinkQueue
from docora_ops.queue.link_queue import is_valid_job_id


def require_valid_job_id(ref: LinkRef) -> None:
    """Raise InvalidJobIdError if RQ does not accept the link's job id."""
    if not is_valid_job_id(ref.job_id):
        raise InvalidJobIdError(
            f"the ids {ref.app_id!r} and {ref.repository_id!r} can't form a job id",
            hint="RQ allows letters, digits, `_` and `-` only",
        )


def require_job_id_not_held(queue: LinkQueue, ref: LinkRef) -> None:
    """Raise InvalidJobIdError if a live job of another link has the link's job id.

    For links that share their job id with another: `a-b` + `c` and `a` + `b-c`.
    """
    if queue.is_made_for(ref.job_id, ref.app_id):
        return
    [answer] = queue.look([ref.job_id], rows_locked=True)
    if answer.state is not JobState.NONE:
        raise job_id_held(ref)


def job_id_held(ref: LinkRef) -> InvalidJobIdError:
    """The error for a link whose job id another link's job has."""
    return InvalidJobIdError(
        f"the job id {ref.job_id!r} is held by the job of another link",
        hint="the ids of both form the same job id; try again when that job has ended",
    )
