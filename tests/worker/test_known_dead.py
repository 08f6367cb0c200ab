"""A worker that was killed is known to be dead where it ran, and silent soon everywhere else."""

import re
import signal
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest
from rq.utils import now, utcformat

from docora_ops.queue.processes import Process, this_process
from tests.doctor.test_metrics import numbers
from tests.support.bullmq import Bullmq
from tests.support.diagnoses import ONE_LOOK, check
from tests.support.docora import Docora
from tests.support.proxy import eventually
from tests.support.snapshots import Snapshots
from tests.support.worker_processes import await_waiting_worker, held_worker, running

KEY = "rq:worker:w"


def kill_worker(snapshots: Snapshots) -> None:
    """Leaves a worker `w` that was killed a moment ago while it waited for a job."""
    with running(snapshots, "--name", "w") as worker:
        await_waiting_worker(snapshots.docora)
        worker.signal(signal.SIGKILL)
        worker.end()
    assert 100 < snapshots.docora.redis.ttl(KEY) <= 105


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"boot_id": "x"}, {"pid_namespace": "pid:[1]"}, None])
def test_repair_beside_bullmq_awaits_no_dead_worker_of_this_host_and_says_how_long_others_last(
    snapshots: Snapshots, docora: Docora, bullmq: Bullmq, changes: dict[str, str] | None
) -> None:
    """On another host, in another container, or of a version that does not register its process."""
    kill_worker(snapshots)
    for name, value in (changes or {}).items():
        docora.redis.hset(KEY, name, value)
    if changes is None:
        docora.redis.hdel(KEY, "boot_id", "pid_namespace", "process_started_at")
    stuck = docora.add_link("scanning", retry_count=0)
    with bullmq.worker(lambda _: None):
        result = bullmq.run("repair", "--yes", env=bullmq.environment(**ONE_LOOK))
    if changes == {}:
        assert (result.code, docora.status(stuck)) == (0, "pending_snapshot"), result
        return
    assert (result.code, docora.status(stuck)) == (4, "scanning"), result
    assert re.search(r"if all of these were killed, try again in 1m\d+s", result.stderr)


@pytest.mark.slow
def test_a_worker_that_lives_is_refused_and_a_link_is_left_to_the_work_horse_of_a_dead_one(
    snapshots: Snapshots, docora: Docora, bullmq: Bullmq
) -> None:
    link, _ = snapshots.add_queued({"a": "1\n", "b": "2\n"})
    with held_worker(snapshots, "--name", "w") as (gate, worker), bullmq.worker(lambda _: None):
        env = bullmq.environment(**ONE_LOOK)
        refused = bullmq.run("repair", "--yes", env=env).ended(4)
        assert "a worker of RQ runs beside Docora's own" in refused.stderr
        worker.signal(signal.SIGKILL)
        worker.process.wait()
        left_alone = bullmq.run("repair", "--yes", env=env)
        assert (left_alone.code, docora.status(link)) == (0, "scanning"), left_alone
        gate.release()
        eventually(lambda: docora.status(link) == "synced", "the end of the job")


@pytest.mark.slow
def test_workers_that_were_killed_are_said_to_be_gone_at_once(snapshots: Snapshots) -> None:
    docora = snapshots.docora
    kill_worker(snapshots)
    assert "Workers\tnone (w is gone); to start one: docora-ops worker" in run(docora, "status")
    assert "Workers\t0 (w is gone)" in run(docora, "queue")
    result = docora.run("doctor", "--json", env=ONE_LOOK)
    found = check(result, "workers")
    assert (found["state"], result.code) == ("critical", 6)
    assert "no worker listens on snapshot-queue (w is gone)" in found["finding"]
    assert sum(numbers(docora.run("metrics"))["docora_workers"].values()) == 0
    with running(snapshots, "--name", "other") as other:
        other.await_ready()
        found = check(docora.run("doctor", "--json", env=ONE_LOOK), "workers")
        assert (found["state"], found["finding"]) == ("warning", "1 on snapshot-queue (w is gone)")


@pytest.mark.parametrize(
    ("state", "seconds", "is_silent"),
    [("idle", 8, False), ("idle", 12, True), ("busy", 70, False), ("busy", 77, True)],
)
def test_a_worker_elsewhere_is_silent_10_s_after_its_last_heartbeat_or_75_s_while_it_is_busy(
    docora: Docora, state: str, seconds: int, *, is_silent: bool
) -> None:
    docora.add_worker("w")
    heartbeat = utcformat(now() - timedelta(seconds=seconds))
    fields = (("state", state), ("last_heartbeat", heartbeat), ("no_job_reason", ""))
    for name, value in (*fields, ("clock_ahead", 0)):
        docora.redis.hset(KEY, name, value)
    docora.redis.expire(KEY, 105 - seconds)
    assert (f"1, {int(state == 'busy')} busy (last heartbeat" in run(docora, "status")) is is_silent
    if is_silent:
        assert f"{state}, silent" in run(docora, "queue")
        found = check(docora.run("doctor", "--json", env=ONE_LOOK), "workers")
        assert found["state"] == "critical"
        assert found["finding"].startswith("1 on snapshot-queue (last heartbeat ")
        assert numbers(docora.run("metrics"))["docora_workers"]["silent",] == 1
        docora.add_worker("other")
        assert "(1 of them: last heartbeat" in run(docora, "status")
        found = check(docora.run("doctor", "--json", env=ONE_LOOK), "workers")
        assert found["state"] == "warning"
        # No worker is left that takes jobs.
        docora.redis.hset("rq:worker:other", "no_job_reason", '{"code": "host", "message": "full"}')
        found = check(docora.run("doctor", "--json", env=ONE_LOOK), "workers")
        assert found["state"] == "critical"
        assert re.fullmatch(
            r"2 on \S+ \(1 of them: last .* ago\), 1 takes no job: full, .*", found["finding"]
        )
        said = "nothing is scanned: no worker takes jobs (full); no scan yet\n"
        assert run(docora, "status").startswith(said)
        docora.redis.delete("rq:worker:other")
        docora.redis.set("rq:suspended", 1)
        found = check(docora.run("doctor", "--json", env=ONE_LOOK), "workers")
        assert (found["state"], found["hint"]) == (
            "critical",
            "see whether they run: docora-ops queue",
        )
    # A worker of RQ itself, by how soon its key expires, whatever its state.
    docora.redis.hdel(KEY, "no_job_reason")
    assert ("last heartbeat" in run(docora, "status")) is (seconds >= 60)


def run(docora: Docora, command: str) -> str:
    return docora.run(command).stdout


# A process


def started_at(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def test_a_process_is_known_dead_only_where_it_ran_and_if_its_number_means_no_other() -> None:
    here = this_process()
    assert here is not None
    assert not here.is_known_dead
    assert Process(*here.where, here.pid, here.started_at - 1).is_known_dead
    with subprocess.Popen(["sleep", "60"]) as child:
        process = Process(*here.where, child.pid, started_at(child.pid))
        elsewhere = Process("another boot", here.pid_namespace, child.pid, 1)
        assert not process.is_known_dead
        child.kill()
        eventually(lambda: process.is_known_dead, "a zombie")
    assert process.is_known_dead
    assert not elsewhere.is_known_dead
