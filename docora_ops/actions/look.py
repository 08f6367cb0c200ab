"""Looks at the jobs of many links."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

from docora_ops.batches import batches
from docora_ops.database import Database
from docora_ops.database.link_rows import held_job_ids
from docora_ops.jobs import JobState
from docora_ops.links import LinkIds, LinkRef
from docora_ops.queue import Answer, LinkQueue, WaitingList

LinkT = TypeVar("LinkT", bound=LinkIds)

_FEW = 100  # for more jobs it is faster to read the waiting list once than to search it for each
_SEARCHED_AT_ONCE = 20
_FOUND_AT_ONCE = 500


def look_at_jobs(
    database: Database,
    queue: LinkQueue,
    links: Sequence[LinkT],
    *,
    waiting: WaitingList | None = None,
    detailed: bool = False,
) -> Iterator[tuple[LinkT, Answer]]:
    """Yields each link with a valid job id, and its job: running if a worker holds the link's lock.

    `waiting`: the list as read before. `detailed`: tells a finished and a stale job
    from none.
    """
    valid = [link for link in links if link.has_valid_job_id]
    if waiting is None and len(valid) > _FEW:
        waiting = queue.read_waiting()
    for some in batches(valid, _FOUND_AT_ONCE if waiting else _SEARCHED_AT_ONCE):
        job_ids = [link.job_id for link in some]
        answers = queue.look(job_ids, waiting=waiting, detailed=detailed)
        held = held_job_ids(database, job_ids)
        for link, answer in zip(some, answers, strict=True):
            is_held = link.job_id in held
            yield link, Answer(link.job_id, JobState.RUNNING) if is_held else answer


def job_state(database: Database, queue: LinkQueue, ref: LinkRef) -> JobState:
    """Returns the state of the link's job; a link with an invalid job id has none."""
    found = [answer.state for _, answer in look_at_jobs(database, queue, [ref], detailed=True)]
    return found[0] if found else JobState.NONE
