"""Tells whether the database and the queue belong together, before anything is changed."""

from __future__ import annotations

import re

from docora_ops.database import Database
from docora_ops.database.link_rows import linked_jobs
from docora_ops.database.postgres_server import read_standby
from docora_ops.drift import Belonging
from docora_ops.errors import PostgresError, ServersMismatchedError
from docora_ops.links import ids_of_job
from docora_ops.queue import LinkQueue

_SAMPLE = 100  # jobs
DOCORA_JOB_ID = re.compile(r"app_[0-9a-f]{24}-repo_[0-9a-f]{24}")
"""The id of a job that was made for a link."""


def require_primary(database: Database) -> None:
    """Raises PostgresError on a standby: its links may be older than their jobs."""
    if standby := read_standby(database):
        raise PostgresError(
            f"Postgres database {database.target} is {standby}: it says nothing about drift",
            hint="point DATABASE_URL at the primary; if this standby takes over, try again once it "
            "is promoted",
        )


def require_servers_to_match(
    database: Database, queue: LinkQueue, *, all_jobs: bool = False
) -> None:
    """Raises ServersMismatchedError if the jobs in the queue do not look like this database's.

    Raises PostgresError if it is a standby, which may not have their links yet.
    Queueing is refused, too: once the queue of another Docora holds jobs of this database, the two
    look as if they belonged together, and the next repair removes the other's jobs.
    `all_jobs`: counts all jobs at once, not only a sample.
    """
    found = (count_jobs_with_links if all_jobs else sample_jobs)(database, queue)
    if found.is_plausible:
        return
    require_primary(database)
    deleted = "docora-ops repair --remove-unknown-jobs"
    if queue.is_docoras:
        deleted = "wait until Docora's workers have taken these jobs"
    raise ServersMismatchedError(
        f"{database.place} and Redis at {queue.where} do not seem to belong together: {found}. "
        "Nothing was changed",
        hint="check DATABASE_URL and REDIS_URL; if both are right, and the "
        f"links were deleted: {deleted}",
        details={"job_count": found.jobs, "jobs_without_link": found.without_link},
    )


def sample_jobs(database: Database, queue: LinkQueue) -> Belonging:
    """Counts the jobs of a sample, and all jobs if these do not look like this database's."""
    sample = set(filter(ids_of_job, queue.sample(_SAMPLE)))
    unknown = len(sample) - len(linked_jobs(database, sample))
    found = Belonging(len(sample), unknown, queue.is_docoras)
    return found if found.is_plausible else count_jobs_with_links(database, queue)


def count_jobs_with_links(database: Database, queue: LinkQueue) -> Belonging:
    """Counts the jobs of the whole queue, and the ones that have no link in the database.

    Jobs that were not made for a link do not count. A job without a link counts only if it is to be
    run or has failed: finished jobs of deleted links are history.
    """
    linked: set[str] = set()
    unlinked: set[str] = set()
    for page, is_to_run_or_failed in queue.pages_of_jobs():
        new = {job_id for job_id in page if ids_of_job(job_id)} - linked - unlinked
        found = linked_jobs(database, new)
        linked |= found
        if is_to_run_or_failed:
            unlinked |= {job_id for job_id in new - found if DOCORA_JOB_ID.fullmatch(job_id)}
    return Belonging(len(linked) + len(unlinked), len(unlinked), queue.is_docoras)
