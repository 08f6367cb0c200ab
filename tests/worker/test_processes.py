"""Worker processes: what is refused and logged, signals, children, parents, jobs cut off."""

import os
import shutil
import signal
import subprocess
import threading
from pathlib import Path
from signal import SIGTERM
from typing import cast

import pytest
from rq.job import JobStatus

from tests.support.delivery_checks import git_failures, link_row
from tests.support.docora import COMMAND, QUEUE, WIP, Result
from tests.support.git_over_http import GitHandler, GitSite, gate_at
from tests.support.proxy import eventually, patience
from tests.support.rows import TestLink
from tests.support.snapshots import FILES, KEY, Snapshots
from tests.support.worker_processes import children_of, held_worker, running, running_program

PASSWORD = "hunter2"


@pytest.fixture
def waiting(snapshots: Snapshots) -> TestLink:
    link = snapshots.docora.add_link()
    snapshots.queue(link)
    return link


def assert_untouched(snapshots: Snapshots, link: TestLink) -> None:
    assert snapshots.docora.waiting() == [link.job_id]
    assert snapshots.docora.status(link) == "pending_snapshot"
    assert snapshots.docora.redis.keys("rq:worker*") == []


@pytest.mark.parametrize(
    ("changes", "code", "sentence"),
    [
        ({"ENCRYPTION_KEY": None}, 2, "ENCRYPTION_KEY is not set"),
        ({"DATABASE_URL": f"mysql://ada:{PASSWORD}@db/docora"}, 2, "DATABASE_URL: must look like"),
        ({"PATH": ""}, 2, "git is not on PATH"),
        ({"REPOS_BASE_PATH": "/dev/null/a"}, 4, "can't write to '/dev/null/a/.docora-ops': Not a"),
    ],
)
def test_what_can_not_work_is_refused_before_a_job_is_taken(
    snapshots: Snapshots,
    waiting: TestLink,
    changes: dict[str, str | None],
    code: int,
    sentence: str,
) -> None:
    result = snapshots.work(**changes)
    assert (result.code, result.stdout) == (code, "")
    assert result.stderr.startswith("Error: ")
    assert sentence in result.stderr
    assert "Hint: " in result.stderr
    for secret in (PASSWORD, KEY.hex()):
        assert secret not in result.stderr
    assert_untouched(snapshots, waiting)


def test_a_name_that_is_taken_or_unusable_is_refused(snapshots: Snapshots) -> None:
    snapshots.docora.add_worker("mine-2")
    result = snapshots.work("--name", "mine", "--concurrency", "2")
    assert (result.code, result.stdout) == (4, "")
    assert "Error: a worker named 'mine-2' is at work already" in result.stderr
    assert "Traceback" not in result.stderr
    unusable = snapshots.work("--name", "a b")
    assert (unusable.code, "Error: --name 'a b': " in unusable.stderr) == (2, True), unusable


@pytest.mark.slow
def test_without_the_extra_a_worker_and_a_probe_say_how_to_install_it(
    snapshots: Snapshots, waiting: TestLink, tmp_path: Path
) -> None:
    (tmp_path / "cryptography.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'cryptography'\", name='cryptography')\n"
    )
    docora, env = snapshots.docora, {"PYTHONPATH": str(tmp_path)}
    change = ("set-url", waiting.app_id, "https://new.example/hook")
    refusal = Result(
        2,
        "",
        "Error: the worker's packages are not installed (cryptography is missing)\n"
        "Hint: in a clone: pipx install --force '.[worker]', or [worker] behind a wheel's name\n",
    )
    assert snapshots.work(**env) == refusal
    for words in (("probe", waiting.app_id), (*change, "--probe")):
        assert docora.run(*words, env=env) == refusal
    assert_untouched(snapshots, waiting)
    for needs_nothing in (("retry-all-failed", "--yes"), (*change, "--dry-run")):
        assert docora.run(*needs_nothing, env=env).code == 0


@pytest.mark.slow
def test_an_env_file_is_read_once_for_all_jobs(snapshots: Snapshots, tmp_path: Path) -> None:
    for link in snapshots.add_links(["One", "Two"]).values():
        snapshots.queue(link)
    environment = snapshots.environment(SCAN_CONCURRENCY="2")
    path = tmp_path / "docora.env"
    content = "".join(f"{name}={value}\n" for name, value in environment.items())
    os.mkfifo(path)
    threading.Thread(target=path.write_text, args=(content,), daemon=True).start()
    arguments = ("worker", "--env-file", str(path), "--burst")
    result = snapshots.docora.run(*arguments, env=dict.fromkeys(environment, None))
    assert (result.code, result.stdout) == (0, ""), result.stderr
    assert snapshots.docora.statuses() == {"synced": 2}
    assert (snapshots.clone() / "HEAD").exists()


PID_1 = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")


def may_unshare() -> bool:
    """Whether this user may start a process as PID 1."""
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*PID_1, "true"], capture_output=True, check=False).returncode == 0


def names(snapshots: Snapshots) -> set[str]:
    """Workers on RQ's screens."""
    keys = cast("set[bytes]", snapshots.docora.redis.smembers(f"rq:workers:{QUEUE}"))
    return {key.decode().removeprefix("rq:worker:") for key in keys}


@pytest.mark.parametrize(
    ("number", "arguments", "setting", "count"),
    [
        pytest.param(signal.SIGINT, ("--concurrency", "2"), "1", 2, id="Ctrl-C, to all"),
        pytest.param(signal.SIGTERM, (), None, 5, id="TERM to a parent of five"),
    ],
)
def test_a_signal_ends_it_when_the_job_in_hand_is_done(
    snapshots: Snapshots,
    number: signal.Signals,
    arguments: tuple[str, ...],
    setting: str | None,
    count: int,
) -> None:
    link, _ = snapshots.add_queued(FILES)
    with held_worker(snapshots, *arguments, SCAN_CONCURRENCY=setting) as (gate, worker):
        worker.await_ready(count)
        assert len(names(snapshots)) == count
        if number == signal.SIGINT:
            os.killpg(worker.pid, number)
        else:
            worker.signal(number)
        worker.await_line("told to end", count)
        eventually(lambda: len(names(snapshots)) == 1, "the end of who is idle")
        snapshots.docora.enqueue("app_1-repo_1")
        gate.release()
        assert worker.end() == 0
        eventually(lambda: worker.processes == [], "the end of all processes")
    assert snapshots.docora.status(link) == "synced"
    assert sorted(snapshots.received().files) == ["a", "b"]
    assert snapshots.docora.waiting() == ["app_1-repo_1"]
    assert names(snapshots) == set()


@pytest.mark.slow
def test_a_child_that_is_killed_is_replaced(snapshots: Snapshots) -> None:
    with running(snapshots, "--concurrency", "2", "--name", "pair") as worker:
        worker.await_ready(2)
        without_name = signal.SIGRTMIN + 1
        for number, deadly in ((3, signal.SIGKILL), (4, without_name)):
            eventually(lambda: len(worker.children) == 2, "two children")
            first = min(worker.children)
            os.kill(first, deadly)
            worker.await_ready(number)
            assert first not in worker.children
        # They still work, both of them.
        barrier = threading.Barrier(2, timeout=patience())
        snapshots.receiver.answer = lambda _: barrier.wait() * 0 + 200
        for link in snapshots.add_links(["One", "Two"]).values():
            snapshots.queue(link)
        eventually(lambda: snapshots.docora.statuses() == {"synced": 2}, "two snapshots")
        worker.stop()


@pytest.mark.slow
@pytest.mark.skipif(not may_unshare(), reason="needs the right to make a process namespace")
def test_a_worker_as_pid_1_outlives_killed_jobs_and_their_orphans(snapshots: Snapshots) -> None:
    link, _ = snapshots.add_queued(FILES, retry_base_delay_ms=0)
    command = [*PID_1, str(COMMAND), "worker", "--concurrency", "1"]
    with gate_at(snapshots.receiver, "b") as gate, running_program(command, snapshots) as worker:
        gate.wait()
        horse = worker.horse()
        gits = children_of(horse)
        assert gits, "the git that the job reads from"
        os.kill(horse, signal.SIGKILL)
        gate.release()
        eventually(
            lambda: not any(Path(f"/proc/{pid}").exists() for pid in gits),
            "the end of the orphans, zombies too",
        )
        eventually(lambda: snapshots.docora.status(link) == "synced", "another try")
        [first] = children_of(worker.pid)
        os.kill(first, signal.SIGTERM)
        assert worker.end() == 0


def test_children_end_after_their_job_when_their_parent_is_killed(snapshots: Snapshots) -> None:
    link, _ = snapshots.add_queued(FILES)
    with held_worker(snapshots, "--concurrency", "2") as (gate, worker):
        worker.await_ready(2)
        worker.signal(signal.SIGKILL)
        worker.await_line("its parent was killed")
        assert snapshots.docora.status(link) == "scanning"
        snapshots.docora.enqueue("app_1-repo_1")
        gate.release()
        eventually(lambda: worker.processes == [], "the end of all processes")
    assert snapshots.docora.waiting() == ["app_1-repo_1"]
    assert worker.log.count("its parent was killed") == 2
    assert snapshots.docora.status(link) == "synced"
    assert names(snapshots) == set()


@pytest.mark.slow
def test_under_nohup_workers_go_on_after_a_hang_up(snapshots: Snapshots) -> None:
    command = ["nohup", str(COMMAND), "worker", "--concurrency", "2"]
    with running_program(command, snapshots) as worker:
        worker.await_ready(2)
        os.killpg(worker.pid, signal.SIGHUP)
        link, _ = snapshots.add_queued(FILES)
        eventually(lambda: snapshots.docora.status(link) == "synced", "a snapshot")
        worker.stop()


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
    link, _ = snapshots.add_queued(FILES, max_retry_attempts=1)
    arguments = ("--concurrency", "2", "--grace", "1", "--log-format", "json")
    with held_worker(snapshots, *arguments) as (_gate, worker):
        worker.stop()
        assert "told to end; its job is finished first, or cut off after 1 s" in worker.log
        assert "cut off, and queued again at once; no failure is counted" in worker.log
        assert worker.log.count('"WARNING"') == worker.log.count('"outcome": "cut_off"') == 1
        assert_queued_again(snapshots, link, 0)
        eventually(lambda: worker.processes == [], "the end of all processes")
    assert set(snapshots.deliveries(link)) == {"a"}
    assert snapshots.work().code == 0
    assert link_row(snapshots, link) == ("synced", 0, None)
    received = snapshots.received()
    assert sorted(received.files) == ["a", "b"]
    assert received.requests[0].path == "a"
    assert {request.path for request in received.requests[1:]} == {"b"}


@pytest.mark.slow
def test_a_git_that_is_cut_off_ends_and_leaves_the_lock_of_the_repository(
    snapshots: Snapshots, site: GitSite, link: TestLink
) -> None:
    begun, over = threading.Event(), threading.Event()
    redis, lock = snapshots.docora.redis, "docora:repo-lock:octo/api"

    def hold(_handler: GitHandler) -> bool:
        if not over.is_set() and redis.exists(lock):  # of the fetch: `git ls-remote` needs none
            begun.set()
            assert over.wait(patience())
        return True

    site.intercept = hold
    snapshots.queue(link)
    with running(snapshots, "--grace", "1") as worker:
        assert begun.wait(patience())
        assert redis.exists(lock)
        worker.stop()
        assert_queued_again(snapshots, link, 4)
        eventually(lambda: worker.processes == [], "the end of git")
    over.set()
    assert snapshots.work().code == 0
    assert link_row(snapshots, link) == ("synced", 0, None)
    assert git_failures(snapshots, link) == 0


@pytest.mark.slow
def test_a_second_signal_leaves_the_job_to_a_worker_that_runs_already(snapshots: Snapshots) -> None:
    link, _ = snapshots.add_queued(FILES)
    with held_worker(snapshots) as (gate, worker), running(snapshots) as other:
        other.await_ready()

        def insist() -> bool:
            """Sends SIGTERM again, which counts as the one before for a second."""
            worker.signal(SIGTERM)
            return "told again" in worker.log

        eventually(insist, "a second signal")
        other.await_line("began")
        gate.release()
        other.await_line("synced")
        assert worker.end() == 0
    assert link_row(snapshots, link) == ("synced", 0, None)
