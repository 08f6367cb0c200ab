"""A job that is cut off by the end of its worker is queued again at once, and counts no failure."""

import os
import signal
import sys
import threading
from signal import SIGKILL, SIGSTOP, SIGTERM
from types import FrameType

import pytest
from rq.job import JobStatus
from rq.timeouts import JobTimeoutException, UnixSignalDeathPenalty

from docora_ops.interrupts import CUT_OFF
from docora_ops.worker.git import Git
from docora_ops.worker.recovery import CutOff, cut_off
from tests.support.delivery_checks import link_row
from tests.support.docora import WIP
from tests.support.git_over_http import GitHandler, GitSite
from tests.support.proxy import PATIENCE, eventually
from tests.support.rows import TestLink
from tests.support.snapshots import Snapshots
from tests.support.worker_processes import (
    Running,
    children_of,
    command_line,
    held_worker,
    running,
)


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
    snapshots: Snapshots,
) -> None:
    begun, over = threading.Event(), threading.Event()

    def hold(_handler: GitHandler) -> bool:
        if not over.is_set():
            begun.set()
            assert over.wait(PATIENCE)
        return True

    snapshots.add_upstream().commit({"a": "1\n"})
    with GitSite(snapshots.folder / "upstream", intercept=hold).serving() as site:
        repository_id = snapshots.docora.add_repository("octo/api", url=f"{site.url}/octo/api")
        link = snapshots.link(snapshots.add_app(), repository_id)
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
    circuit = snapshots.docora.connection.execute("SELECT consecutive_failures FROM repositories")
    assert circuit.fetchall() == [{"consecutive_failures": 0}]


def insist(worker: Running) -> bool:
    """Sends SIGTERM again: within a second, it counts as the one before. Whether it has ended."""
    worker.signal(SIGTERM)
    return worker.process.poll() is not None


def test_a_second_signal_leaves_the_job_to_a_worker_that_runs_already(
    snapshots: Snapshots,
) -> None:
    link, _ = snapshots.add_queued({"a": "1\n", "b": "2\n"})
    with held_worker(snapshots) as (gate, worker), running(snapshots) as other:
        other.await_ready()
        eventually(lambda: insist(worker) or "told again" in worker.log, "a second signal")
        other.await_line("began")
        gate.release()
        other.await_line("synced")
        assert worker.end() == 0
    assert link_row(snapshots, link) == ("synced", 0, None)


@pytest.mark.parametrize(
    "grace",
    [pytest.param("1", marks=pytest.mark.slow), None],
    ids=["10 s after the first try", "with the third signal"],
)
def test_a_job_that_does_not_end_when_it_is_cut_off_is_killed_and_counts_a_failure(
    snapshots: Snapshots, grace: str | None
) -> None:
    link, _ = snapshots.add_queued({"a": "1\n", "b": "2\n"}, retry_base_delay_ms=0)
    arguments = ("--grace", grace) if grace else ()
    with held_worker(snapshots, *arguments) as (_gate, worker):
        os.kill(worker.horse(), SIGSTOP)
        if grace:
            worker.signal(SIGTERM)
        else:
            eventually(lambda: insist(worker), "the end of the worker")
        assert worker.end() == 0
        assert f"its process was killed (wait status {int(SIGKILL)})" in worker.log
    assert snapshots.docora.row(link)["retry_count"] == 1
    assert snapshots.docora.lost_links() == []


@pytest.mark.parametrize(
    ("number", "error"), [(CUT_OFF, CutOff), (signal.SIGALRM, JobTimeoutException)]
)
def test_a_git_that_is_started_at_this_very_moment_is_ended_too(
    snapshots: Snapshots, number: signal.Signals, error: type[BaseException]
) -> None:
    def strike(_frame: FrameType, event: str, what: object) -> None:
        if event == "c_return" and getattr(what, "__name__", "") == "fork_exec":
            signal.raise_signal(number)

    over = threading.Event()
    site = GitSite(snapshots.folder, intercept=lambda _handler: over.wait(PATIENCE))
    before = signal.signal(CUT_OFF, cut_off)
    timeout = UnixSignalDeathPenalty(60, JobTimeoutException)  # type: ignore[no-untyped-call]
    with site.serving(), timeout:
        git = Git(site.url, token=None, protocols=["http"], timeout=60, keep_alive=lambda: None)
        sys.setprofile(strike)
        try:
            with pytest.raises(error):
                git.list_refs()
        finally:
            sys.setprofile(None)
            signal.signal(CUT_OFF, before)
            commands = [command_line(pid) for pid in children_of(os.getpid())]
            over.set()
    assert not [command for command in commands if "ls-remote" in command]
