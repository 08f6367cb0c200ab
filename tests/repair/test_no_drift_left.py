"""A repair repairs all that a look for drift finds."""

from rq.job import JobStatus
from rq.registry import FailedJobRegistry, ScheduledJobRegistry
from rq.utils import now

from tests.support.actions import Actions
from tests.support.docora import QUEUE, Docora


def assert_no_drift(docora: Docora, actions: Actions) -> None:
    assert actions.drift().total == 0
    before = docora.dump()
    actions.repair()
    assert docora.dump() == before


def test_the_job_of_a_gone_link_that_a_worker_has_just_taken_is_no_orphan(docora: Docora) -> None:
    link = docora.add_link()
    actions = docora.actions()
    actions.retry(link)
    failed = FailedJobRegistry(QUEUE, connection=docora.redis).key
    docora.redis.zadd(failed, {link.job_id: now().timestamp() + 3600})
    docora.delete_link(link)
    assert actions.drift().total == 1
    docora.redis.lmove(docora.queue.key, f"{docora.queue.key}:intermediate")
    assert_no_drift(docora, actions)


def test_entries_of_a_link_whose_lock_a_worker_holds_are_no_drift_yet(docora: Docora) -> None:
    doubled, stale = docora.add_link("synced"), docora.add_link("synced")
    docora.enqueue(doubled.job_id)
    docora.enqueue(doubled.job_id)
    docora.leave_job(stale.job_id, JobStatus.FAILED).set_status(JobStatus.FINISHED)
    actions = docora.actions()
    assert actions.drift().total == 2
    docora.hold_lock(doubled.job_id)
    docora.hold_lock(stale.job_id)
    assert_no_drift(docora, actions)


def test_a_second_place_of_a_job_that_runs_is_no_drift_yet(docora: Docora) -> None:
    link = docora.add_link("scanning")
    docora.start_job(link.job_id)
    docora.enqueue(link.job_id)
    scheduled = ScheduledJobRegistry.key_template.format(QUEUE)
    docora.redis.zadd(scheduled, {link.job_id: now().timestamp() + 3600})
    actions = docora.actions()
    assert_no_drift(docora, actions)
