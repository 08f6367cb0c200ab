"""Checks whether the database and the queue belong to the same Docora."""

from __future__ import annotations

from docora_ops.database import Database
from docora_ops.database.drift_rows import link_statuses
from docora_ops.drift import Belonging
from docora_ops.links import ids_of_job
from docora_ops.queue import LinkQueue
from docora_ops.queue.sweep import TO_RUN_OR_FAILED, Place


def count_jobs_with_links(database: Database, queue: LinkQueue) -> Belonging:
    """Counts the jobs of the whole queue, and the ones that have no link in the database.

    Jobs that were not made for a link do not count. A job without a link counts only if it is to be
    run or has failed: finished jobs of deleted links are history. Raises PostgresError, RedisError.
    """
    linked: set[str] = set()
    unlinked: set[str] = set()
    for place in Place:
        for page in queue.sweep.pages(place):
            new = {job_id for job_id in page if ids_of_job(job_id)} - linked - unlinked
            found = link_statuses(database, new).keys()
            linked |= found
            if place in TO_RUN_OR_FAILED:
                unlinked |= queue.sweep.made_for_links(new - found)
    return Belonging(len(linked) + len(unlinked), len(unlinked))
