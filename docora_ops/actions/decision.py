"""The one rule for what becomes of a link, by its job and an earlier look."""

from __future__ import annotations

from docora_ops.errors import InvalidJobIdError
from docora_ops.jobs import JobState
from docora_ops.links import LinkRef, Outcome
from docora_ops.queue import Answer

STUCK_ERROR = "the snapshot was cut off: its worker was killed"
"""Error of a link whose scan ended without a result."""

_OUTCOMES = {
    JobState.NONE: Outcome.QUEUED,
    JobState.FINISHED: Outcome.QUEUED,
    JobState.STALE: Outcome.REPLACED_STALE,
    JobState.WAITING: Outcome.ALREADY_QUEUED,
    JobState.UNREADABLE: Outcome.NOT_QUEUED,
}


def decide(answer: Answer, earlier: str = "") -> Outcome | None:
    """Returns the outcome of a link that qualifies, None if its job must be looked at again.

    `answer`: the job, as a look or a push found it. `earlier`: the evidence of a doubtful job at an
    earlier look; unchanged, the job is stale.
    """
    if answer.state is JobState.DOUBTFUL and earlier and answer.evidence == earlier:
        return Outcome.REPLACED_STALE
    return answer.outcome or _OUTCOMES.get(answer.state)


def invalid_job_id(ref: LinkRef) -> InvalidJobIdError:
    """Returns the error for a link whose two ids form no job id that can be told apart."""
    return InvalidJobIdError(
        f"the ids {ref.app_id!r} and {ref.repository_id!r} can't form a job id",
        hint="ids of Docora hold only letters, digits and `_`",
    )
