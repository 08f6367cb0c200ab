"""Telling whether the database and the queue belong to the same Docora."""

from __future__ import annotations

from docora_ops.database import Database
from docora_ops.database.link_rows import links_of_jobs
from docora_ops.drift import Belonging
from docora_ops.queue import LinkQueue
from docora_ops.queue.link_queue import is_valid_job_id
from docora_ops.queue.sweep import TO_RUN_OR_FAILED, Place


def count_jobs_with_links(database: Database, queue: LinkQueue) -> Belonging:
    """Counts the jobs of the whole queue, and those that have no link in the database.

    Jobs that were not made for a link do not count. A job without a link counts only if it is to be
    run or has failed: finished ones of links that were deleted are history. Writes nothing.
    Raises PostgresError, RedisError.
    """
    seen: set[int] = set()
    jobs = without_link = 0
    for place in Place:
        for page in queue.sweep.pages(place):
            new = {
                job_id for job_id in page if hash(job_id) not in seen and is_valid_job_id(job_id)
            }
            linked = {link.job_id for link in links_of_jobs(database, new)}
            unknown = new - linked if place in TO_RUN_OR_FAILED else set()
            made_for_links = queue.sweep.made_for(sorted(unknown)) if unknown else {}
            seen.update(map(hash, linked | made_for_links.keys()))
            jobs += len(linked) + len(made_for_links)
            without_link += len(made_for_links)
    return Belonging(jobs, without_link)
