"""A job that is cut off by the end of its worker is queued again at once, and counts no failure."""

import threading
from signal import SIGTERM

from rq.job import JobStatus

from tests.support.delivery_checks import git_failures, link_row
from tests.support.docora import WIP
from tests.support.git_over_http import GitHandler, GitSite
from tests.support.proxy import PATIENCE, eventually
from tests.support.rows import TestLink
from tests.support.snapshots import Snapshots
from tests.support.worker_processes import Running, held_worker, running


def assert_queued_again(snapshots: Snapshots, link: TestLink, tries_left: int) -> None:
    """No later than the end of the worker, and as if the job had never run."""
    docora = snapshots.docora
    assert docora.waiting() == [link.job_id]
    job = docora.job(link)
    assert (job.get_status(), job.retries_left) == (JobStatus.QUEUED, tries_left)
    assert link_row(snapshots, link) == ("pending_snapshot", 0, None)
    assert docora.redis.zcard(WIP) == 0
    assert docora.redis.keys("rq:execution*") == docora.redis.keys("docora:repo-lock:*") == []
    assert docora.lost_links() == docora.doubled_jobs() == []


def test_a_slow_delivery_is_cut_off_after_the_grace_period_and_goes_on_with_the_next_worker(
    snapshots: Snapshots,
) -> None:
    link, _ = snapshots.add_queued({"a": "1\n", "b": "2\n"}, max_retry_attempts=1)
    with held_worker(snapshots, "--concurrency", "2", "--grace", "1") as (_gate, worker):
        worker.signal(SIGTERM)
        assert worker.end() == 0
        assert "told to end; its job is finished first, or cut off after 1 s" in worker.log
        assert "Acme ← octo/api: cut off, and queued again at once; no failure" in worker.log
        assert worker.log.count(" WARNING ") == 1
        assert_queued_again(snapshots, link, 0)
        eventually(lambda: worker.processes == [], "the end of all processes")
    assert set(snapshots.deliveries(link)) == {"a"}
    assert snapshots.work().code == 0
    assert link_row(snapshots, link) == ("synced", 0, None)
    received = snapshots.received()
    assert sorted(received.files) == ["a", "b"]
    assert received.requests[0].path == "a"
    assert {request.path for request in received.requests[1:]} == {"b"}


def test_a_git_that_is_cut_off_ends_and_leaves_the_lock_of_the_repository(
    snapshots: Snapshots, site: GitSite, link: TestLink
) -> None:
    begun, over = threading.Event(), threading.Event()

    def hold(_handler: GitHandler) -> bool:
        if not over.is_set():
            begun.set()
            assert over.wait(PATIENCE)
        return True

    site.intercept = hold
    snapshots.queue(link)
    with running(snapshots, "--grace", "1") as worker:
        assert begun.wait(PATIENCE)
        assert snapshots.docora.redis.exists("docora:repo-lock:octo/api")
        worker.signal(SIGTERM)
        assert worker.end() == 0
        assert_queued_again(snapshots, link, 4)
        eventually(lambda: worker.processes == [], "the end of git")
    over.set()
    assert snapshots.work().code == 0
    assert link_row(snapshots, link) == ("synced", 0, None)
    assert git_failures(snapshots, link) == 0


def insist(worker: Running) -> bool:
    """Sends SIGTERM again: within a second, it counts as the one before. Whether it has ended."""
    worker.signal(SIGTERM)
    return worker.process.poll() is not None


def test_a_second_signal_leaves_the_job_to_a_worker_that_runs_already(snapshots: Snapshots) -> None:
    link, _ = snapshots.add_queued({"a": "1\n", "b": "2\n"})
    with held_worker(snapshots) as (gate, worker), running(snapshots) as other:
        other.await_ready()
        eventually(lambda: insist(worker) or "told again" in worker.log, "a second signal")
        other.await_line("began")
        gate.release()
        other.await_line("synced")
        assert worker.end() == 0
    assert link_row(snapshots, link) == ("synced", 0, None)
