"""One batch of a bulk operation: its links, and their outcomes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from threading import Event

from docora_ops.actions.decision import invalid_job_id
from docora_ops.links import LinkRef, Outcome
from docora_ops.queue import Answer, WaitingList

_LONGEST_WAIT = 1  # seconds that a batch, with its rows locked, waits for the batch before it


@dataclass(frozen=True, slots=True)
class LinkOutcome:
    """The outcome of one link."""

    ref: LinkRef
    outcome: Outcome
    error_message: str | None = None


@dataclass(slots=True)
class Batch:
    """Links that are handled together. Each is recorded with its outcome, or postponed.

    The second round handles the postponed links, and postpones none.
    """

    refs: Sequence[LinkRef]
    waiting: WaitingList
    earlier: Mapping[str, str] | None = None
    """Evidence of doubtful jobs in the first round, by the id of the link. None: first round."""
    after: Batch | None = None  # the batch that is to push its jobs before this one
    pushed: Event = field(default_factory=Event)
    recorded: list[LinkOutcome] = field(default_factory=list)
    postponed: dict[str, str] = field(default_factory=dict)
    """Evidence of doubtful jobs, by the id of the link."""
    deliveries_cleared: int = 0
    circuits_reset: set[str] = field(default_factory=set)
    """Ids of repositories."""
    circuits_held: set[str] = field(default_factory=set)
    """Ids of repositories whose circuits could not be reset: other sessions hold their rows."""

    @property
    def is_final(self) -> bool:
        """Tells whether this is the second round."""
        return self.earlier is not None

    def evidence_of(self, ref: LinkRef) -> str:
        """Returns the evidence of the link's job in the first round."""
        return self.earlier[ref.id] if self.earlier else ""

    def wait_for_turn(self) -> None:
        """Waits until the batch before has pushed its jobs, but not for long.

        The order of jobs is not worth a transaction that stays open.
        """
        if self.after is not None:
            self.after.pushed.wait(_LONGEST_WAIT)

    def record(self, ref: LinkRef, outcome: Outcome, error_message: str | None = None) -> None:
        """Records the outcome of a link."""
        self.recorded.append(LinkOutcome(ref, outcome, error_message))

    def record_invalid(self) -> list[LinkRef]:
        """Records links with invalid job ids as failed. Returns the other links."""
        for ref in self.refs:
            if not ref.has_valid_job_id:
                self.record(ref, Outcome.NOT_QUEUED, invalid_job_id(ref).message)
        return [ref for ref in self.refs if ref.has_valid_job_id]

    def record_decision(self, ref: LinkRef, outcome: Outcome | None, answer: Answer) -> None:
        """Records an outcome of `decide`, or postpones a link whose job is running or doubtful."""
        if outcome is Outcome.NOT_QUEUED:
            self.record(ref, outcome, f"its Redis key does not hold a job: {answer.reason}")
        elif outcome is not None:
            self.record(ref, outcome)
        elif self.is_final:
            self.record(ref, Outcome.ALREADY_RUNNING)
        else:
            self.postponed[ref.id] = answer.evidence
