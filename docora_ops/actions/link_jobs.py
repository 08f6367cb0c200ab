"""Looks at the jobs of links."""

import re
from collections.abc import Collection, Iterator, Sequence
from typing import TypeVar

from docora_ops.database import Database
from docora_ops.database.link_rows import locked_job_ids, names_of
from docora_ops.errors import InvalidJobIdError
from docora_ops.jobs import JobState, QueueOverview
from docora_ops.links import LinkFailure, LinkIds, LinkRef, batches
from docora_ops.queue import Answer, LinkQueue

LinkT = TypeVar("LinkT", bound=LinkIds)

_AT_ONCE = 500
DOCORA_JOB_ID = re.compile(r"app_[0-9a-f]{24}-repo_[0-9a-f]{24}")
"""Matches the id of a job that was made for a link."""


def look_at_jobs(
    database: Database, queue: LinkQueue, links: Sequence[LinkT]
) -> Iterator[tuple[LinkT, Answer]]:
    """Yields each link that has a valid job id, with the state of its job.

    A job also counts as running if a worker holds the link's lock. Raises PostgresError,
    RedisError.
    """
    for batch in batches([link for link in links if link.has_valid_job_id], _AT_ONCE):
        job_ids = [link.job_id for link in batch]
        answers = queue.look(job_ids)
        locked = locked_job_ids(database, job_ids)
        for link, answer in zip(batch, answers, strict=True):
            is_locked = link.job_id in locked
            yield link, Answer(JobState.RUNNING) if is_locked else answer


def jobs_to_recover(queue: LinkQueue, overview: QueueOverview | None) -> Collection[str]:
    """Returns the ids of jobs whose links are not drift, because workers will soon recover them.

    These are jobs whose worker was killed lately, and running jobs, whose worker may be killed
    before the next look. Call this before the last look at the links, because a link may be
    recovered in between. Raises RedisError.

    overview: tells whether any worker recovers links; None if unknown.
    """
    if overview and overview.recovers_links and queue.sweep:
        return queue.sweep.recent_runs()
    return ()


def job_state(database: Database, queue: LinkQueue, ref: LinkRef) -> JobState:
    """Returns the state of the link's job; NONE if the job id is invalid."""
    looked = look_at_jobs(database, queue, [ref])
    return next((answer.state for _, answer in looked), JobState.NONE)


def invalid_job_id(ref: LinkRef) -> InvalidJobIdError:
    """Returns the error for a link whose ids can't form a job id."""
    return InvalidJobIdError(
        f"the ids {ref.app_id!r} and {ref.repository_id!r} can't form a job id",
        hint="ids of Docora hold only letters, digits and `_`",
    )


def named_failures(database: Database, failed: Sequence[tuple[LinkRef, str]]) -> list[LinkFailure]:
    """Adds the names of app and repository to links and their errors. Raises PostgresError."""
    names = names_of(database, [ref for ref, _ in failed]) if failed else []
    return [
        LinkFailure(ref.job_id, ref.app_id, ref.repository_id, error, app_name, repository_name)
        for (ref, error), (app_name, repository_name) in zip(failed, names, strict=True)
    ]
