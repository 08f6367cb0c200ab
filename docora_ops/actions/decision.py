"""The one rule for what becomes of a link, by its job and an earlier look."""

from __future__ import annotations

from docora_ops.errors import InvalidJobIdError
from docora_ops.jobs import JobState
from docora_ops.links import LinkRef, Outcome
from docora_ops.queue import Answer

STUCK_ERROR = "the snapshot was cut off: its worker was killed"
"""Error of a link whose scan ended without a result."""


def decide(answer: Answer, earlier: str = "") -> Outcome | None:
    """Returns the outcome of a link that qualifies, None if its job must be looked at again.

    `answer`: the job, as a look or a push found it. `earlier`: the evidence of a doubtful job at an
    earlier look; unchanged, the job is stale.
    """
    if answer.outcome is not None:
        return answer.outcome
    match answer.state:
        case JobState.NONE:
            return Outcome.QUEUED
        case JobState.STALE:
            return Outcome.REPLACED_STALE
        case JobState.WAITING:
            return Outcome.ALREADY_QUEUED
        case JobState.UNREADABLE:
            return Outcome.FAILED
        case JobState.DOUBTFUL if earlier and answer.evidence == earlier:
            return Outcome.REPLACED_STALE
    return None


def invalid_job_id(ref: LinkRef) -> InvalidJobIdError:
    """Returns the error for a link whose two ids form no job id that can be told apart."""
    return InvalidJobIdError(
        f"the ids {ref.app_id!r} and {ref.repository_id!r} can't form a job id",
        hint="ids of Docora hold only letters, digits and `_`",
    )
