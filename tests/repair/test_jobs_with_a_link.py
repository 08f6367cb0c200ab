"""Which jobs of the queue have a link in the database, and what that tells of the two servers."""

import pytest
from rq.job import JobStatus
from rq.utils import now

from docora_ops.actions.repair.find import count_jobs_with_links
from docora_ops.drift import Belonging
from tests.support.docora import QUEUE, Docora


def test_each_job_that_was_made_for_a_link_counts_once_wherever_it_stands(docora: Docora) -> None:
    waiting, deferred, failed, delayed, finished = gone = [docora.add_link() for _ in range(5)]
    for link in gone:
        docora.queue_job(link)
    docora.redis.rpush(docora.queue.key, waiting.job_id)
    for link, registry in (
        (deferred, "deferred"),
        (failed, "failed"),
        (delayed, "scheduled"),
        (finished, "finished"),
    ):
        docora.redis.lrem(docora.queue.key, 0, link.job_id)
        docora.redis.zadd(f"rq:{registry}:{QUEUE}", {link.job_id: now().timestamp() + 3600})
        docora.delete_link(link)
    docora.delete_link(waiting)
    here, over, running = (docora.add_link() for _ in range(3))
    docora.enqueue(here.job_id)
    docora.leave_job(over.job_id, JobStatus.FINISHED)
    docora.start_job(running.job_id)
    docora.enqueue("a-job-of-somebody-else")
    actions = docora.actions()
    before = docora.dump()
    assert count_jobs_with_links(actions.database, actions.queue) == Belonging(7, without_link=4)
    assert docora.dump() == before


@pytest.mark.parametrize(
    ("jobs", "without_link", "is_plausible"),
    [
        (0, 0, True),
        (1, 0, True),
        (1, 1, False),
        (9, 8, True),
        (9, 9, False),
        (10, 5, True),
        (10, 6, False),
        (2000, 1000, True),
        (2000, 1001, False),
    ],
)
def test_no_link_at_all_or_fewer_than_half_of_ten_jobs_tell(
    jobs: int, without_link: int, is_plausible: bool
) -> None:
    assert Belonging(jobs, without_link).is_plausible is is_plausible


def test_a_key_that_holds_no_job_is_no_job(docora: Docora) -> None:
    """One such key must not keep doctor and repair from their work."""
    gone = docora.add_link()
    docora.enqueue(gone.job_id)
    docora.delete_link(gone)
    docora.redis.delete(f"rq:job:{gone.job_id}")
    docora.redis.set(f"rq:job:{gone.job_id}", "not a job")
    here = docora.add_link()
    docora.enqueue(here.job_id)
    actions = docora.actions()
    assert count_jobs_with_links(actions.database, actions.queue) == Belonging(1, without_link=0)
