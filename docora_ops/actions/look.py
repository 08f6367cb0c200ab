"""Looks at the jobs of many links."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from docora_ops.batches import batches
from docora_ops.database import Database
from docora_ops.database.link_rows import held_job_ids
from docora_ops.jobs import JobState
from docora_ops.links import LinkRef
from docora_ops.queue import Answer, LinkQueue, WaitingList

_FEW = 100  # for more jobs it is faster to read the waiting list once than to search it for each
_SEARCHED_AT_ONCE = 20
_FOUND_AT_ONCE = 500


def look_at_jobs(
    database: Database,
    queue: LinkQueue,
    refs: Sequence[LinkRef],
    *,
    waiting: WaitingList | None = None,
    detailed: bool = False,
) -> Iterator[tuple[LinkRef, Answer]]:
    """Yields each link with a valid job id, and its job: running if a worker holds the link's lock.

    `waiting`: the list as read before. `detailed`: tells a stale job from none.
    """
    valid = [ref for ref in refs if ref.has_valid_job_id]
    if waiting is None and len(valid) > _FEW:
        waiting = queue.read_waiting()
    for some in batches(valid, _FOUND_AT_ONCE if waiting else _SEARCHED_AT_ONCE):
        job_ids = [ref.job_id for ref in some]
        answers = queue.look(job_ids, waiting=waiting, detailed=detailed)
        held = held_job_ids(database, job_ids)
        for ref, answer in zip(some, answers, strict=True):
            is_held = ref.job_id in held
            yield ref, Answer(ref.job_id, JobState.RUNNING) if is_held else answer


def job_state(database: Database, queue: LinkQueue, ref: LinkRef) -> JobState:
    """Returns the state of the link's job; a link with an invalid job id has none."""
    found = [answer.state for _, answer in look_at_jobs(database, queue, [ref], detailed=True)]
    return found[0] if found else JobState.NONE
