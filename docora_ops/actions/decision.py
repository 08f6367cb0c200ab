"""The one rule for what becomes of a link, by its lock, its job and an earlier look."""

from __future__ import annotations

from docora_ops.jobs import JobState
from docora_ops.links import Outcome
from docora_ops.queue import Answer

STUCK_ERROR = "the snapshot was cut off: its worker was killed"
"""Error of a link whose scan ended without a result."""


def decide(answer: Answer, *, is_locked: bool = False, earlier: str = "") -> Outcome | None:
    """Returns the outcome of a link that qualifies, None if its job must be looked at again.

    `answer`: the job, as a look or a push found it. `is_locked`: a worker holds the link's lock.
    `earlier`: the evidence of a doubtful job at an earlier look; unchanged, the job is stale.
    """
    if is_locked:
        return None
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
