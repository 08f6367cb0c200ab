"""Looks at the jobs of many links."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

from docora_ops.database import Database
from docora_ops.database.link_rows import held_job_ids
from docora_ops.jobs import JobState
from docora_ops.links import LinkIds, LinkRef
from docora_ops.pages import batches
from docora_ops.queue import Answer, LinkQueue, WaitingList

LinkT = TypeVar("LinkT", bound=LinkIds)

_AT_ONCE = 500


def look_at_jobs(
    database: Database,
    queue: LinkQueue,
    links: Sequence[LinkT],
    *,
    waiting: WaitingList | None = None,
    detailed: bool = False,
    by_status: bool = False,
) -> Iterator[tuple[LinkT, Answer]]:
    """Yields each link with a valid job id, and its job: running if a worker holds the link's lock.

    `waiting`: the list as read before. `detailed`: tells a finished and a stale job
    from none. `by_status`: believes RQ's status and searches no list.
    """
    valid = [link for link in links if link.has_valid_job_id]
    if waiting is None and not by_status and len(valid) > 1:
        waiting = queue.read_waiting()  # Redis would be held while it searches for each
    for some in batches(valid, _AT_ONCE):
        job_ids = [link.job_id for link in some]
        answers = queue.look(job_ids, waiting=waiting, detailed=detailed, by_status=by_status)
        held = held_job_ids(database, job_ids)
        for link, answer in zip(some, answers, strict=True):
            is_held = link.job_id in held
            yield link, Answer(link.job_id, JobState.RUNNING) if is_held else answer


def job_state(
    database: Database, queue: LinkQueue, ref: LinkRef, *, by_status: bool = False
) -> JobState:
    """Returns the state of the link's job; a link with an invalid job id has none."""
    looked = look_at_jobs(database, queue, [ref], detailed=True, by_status=by_status)
    return next((answer.state for _, answer in looked), JobState.NONE)
