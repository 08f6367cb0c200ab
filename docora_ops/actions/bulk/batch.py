"""One batch of a bulk operation, and what has become of its links."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from threading import Event
from typing import Protocol

from docora_ops.actions.job_ids import require_valid_job_id
from docora_ops.database import Database
from docora_ops.database.link_rows import shared_job_ids
from docora_ops.errors import InvalidJobIdError
from docora_ops.jobs import JobState
from docora_ops.links import LinkRef, Outcome
from docora_ops.queue import Answer, WaitingList

_PATIENCE = 1
"""Seconds that a batch, with its rows locked, waits for the one before."""


@dataclass(frozen=True, slots=True)
class Settled:
    """A link that needs no more work."""

    ref: LinkRef
    outcome: Outcome
    error: str | None = None


@dataclass(slots=True)
class Batch:
    """Links of one batch, settled or put off.

    In the final round nothing is put off; `seen` then holds, by the id of the link, a fingerprint
    of how its doubtful job looked in the first.
    """

    refs: Sequence[LinkRef]
    waiting: WaitingList
    seen: Mapping[str, int] | None = None
    after: Batch | None = None
    """The batch whose jobs come before these in the queue."""
    pushed: Event = field(default_factory=Event)
    settled: list[Settled] = field(default_factory=list)
    put_off: dict[str, int] = field(default_factory=dict)
    deliveries_cleared: int = 0

    def wait_for_turn(self) -> None:
        """Until the jobs of the batch before are in the queue, or it has given up.

        Order is a courtesy: not worth keeping a transaction open for as long as it takes.
        """
        if self.after is not None:
            self.after.pushed.wait(_PATIENCE)

    @property
    def final(self) -> bool:
        """Whether this is the last round."""
        return self.seen is not None

    def still_doubtful(self, ref: LinkRef, answer: Answer) -> bool:
        """Whether nothing has happened to a doubtful job since the first round: it is dead."""
        return (
            self.seen is not None
            and (answer.state is JobState.DOUBTFUL or answer.enqueued_at != "")
            and self.seen[ref.id] == fingerprint(answer)
        )

    def settle(self, ref: LinkRef, outcome: Outcome, error: str | None = None) -> None:
        """The link is done with."""
        self.settled.append(Settled(ref, outcome, error))

    def leave(self, ref: LinkRef, answer: Answer) -> None:
        """The link's job is not to be touched now."""
        if answer.state is JobState.UNREADABLE:
            reason = f"its Redis key does not hold a job: {answer.detail}"
            self.settle(ref, Outcome.FAILED, reason)
        elif self.final:
            self.settle(ref, Outcome.ALREADY_RUNNING)
        else:
            self.put_off[ref.id] = fingerprint(answer)


def fingerprint(answer: Answer) -> int:
    """Eight bytes that change when a job that is doubtful, or not live, is queued anew; or 0."""
    enqueued_at = answer.detail if answer.state is JobState.DOUBTFUL else answer.enqueued_at
    return hash(enqueued_at) if enqueued_at else 0


class BatchHandler(Protocol):
    """Settles the links of a batch."""

    def handle(self, batch: Batch) -> None:
        """Settle each link or put it off. Raises PostgresError, RedisError."""


def separate(database: Database, batch: Batch) -> tuple[list[LinkRef], list[LinkRef]]:
    """The links with a job id of their own, and those that share it with another link.

    Those that can't have a job are settled.
    """
    shared = shared_job_ids(database, batch.refs)
    alone: list[LinkRef] = []
    sharing: list[LinkRef] = []
    for ref in batch.refs:
        try:
            require_valid_job_id(ref)
        except InvalidJobIdError as error:
            batch.settle(ref, Outcome.FAILED, error.message)
            continue
        (sharing if ref.job_id in shared else alone).append(ref)
    return alone, sharing
