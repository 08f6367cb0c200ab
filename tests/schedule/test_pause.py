"""`pause` and `resume`: workers take no job meanwhile, and everybody is told who wants that."""

import re

import pytest
import rq.suspension

from docora_ops import actions
from docora_ops.actions import Docora as Connected
from docora_ops.text import seconds_of
from tests.support.docora import Docora
from tests.support.proxy import eventually
from tests.support.read_only import frozen
from tests.support.snapshots import Snapshots
from tests.support.terminal import on_terminal
from tests.support.worker_processes import held_worker

KEY = "rq:suspended"
NO_DATABASE = {"DATABASE_URL": None}
REASON = ("--reason", "gateway is replaced")


def add_worker(docora: Docora, name: str, state: str, queues: str = "snapshot-queue") -> None:
    docora.add_worker(name)
    docora.redis.hset(f"rq:worker:{name}", items=["state", state, "queues", queues])


@pytest.mark.slow
def test_a_busy_worker_finishes_its_job_and_goes_on_after_resume(snapshots: Snapshots) -> None:
    docora = snapshots.docora
    upstream = snapshots.add_upstream()
    upstream.commit({"b": "1\n"})
    repository = snapshots.add_repository(upstream)
    first, second = (snapshots.link(snapshots.add_app(name), repository) for name in ("A", "B"))
    for link in (first, second):
        snapshots.queue(link)
    with held_worker(snapshots, "--name", "one") as (gate, worker):
        paused = docora.run("pause", "--json", *REASON, env=NO_DATABASE).ended(0)
        queues = ["snapshot-queue"]
        assert paused.data["workers"] == [{"name": "one", "state": "busy", "queues": queues}]
        gate.release()
        worker.await_line("worker one: takes no job: workers are suspended")
        assert (docora.status(first), docora.status(second)) == ("synced", "pending_snapshot")
        again = docora.run("pause", "--json", env=NO_DATABASE)
        assert again.data["workers"] == [{"name": "one", "state": "suspended", "queues": queues}]
        assert "gateway is replaced; this pause takes its place" in again.stderr

        burst = snapshots.work("--name", "two").ended(0)
        ended = "two: ended, since workers are suspended; to go on: docora-ops resume"
        assert ended in burst.stderr
        snapshots.work("--concurrency", "2").ended(0)
        assert docora.waiting() == [second.job_id]

        assert docora.run("resume", env=NO_DATABASE).code == 0
        eventually(lambda: docora.status(second) == "synced", "the second job")
        worker.stop()


def test_durations() -> None:
    for typed, seconds in {"600": 600, "30s": 30, "10m": 600, "2h": 7200, "1h30m": 5400}.items():
        assert seconds_of(typed) == seconds
    assert seconds_of("6d23h59m60s") == seconds_of("7d") == 604_800
    for typed in ("0", "0m", "169h", "604801", "1.5h", "-1", "10 m", "30m1h", "1h30", "٣s", ""):
        with pytest.raises(ValueError, match=r"is not a duration between 1 s and 7 days"):
            seconds_of(typed)


def test_a_worker_that_waits_for_a_job_is_named(docora: Docora) -> None:
    for name, state in (("one", "idle"), ("two", "busy"), ("three", "suspended")):
        add_worker(docora, name, state)
    paused = docora.run("pause", env=NO_DATABASE)
    assert (paused.code, paused.stdout) == (0, "")
    assert "workers suspended. To go on: docora-ops resume\n" in paused.stderr
    counted = "1 busy worker finishes its job.\n1 idle worker may take one more job.\n"
    assert counted in paused.stderr


def test_a_terminal_is_asked_with_the_other_queues(docora: Docora) -> None:
    add_worker(docora, "one", "busy", "snapshot-queue,mail")
    add_worker(docora, "two", "busy", "reports")
    docora.redis.srem("rq:workers:snapshot-queue", "rq:worker:two")
    command = ["pause", "--for", "90"]
    with frozen(docora):
        code, shown = on_terminal(docora, command, answer=b"n\n", columns=300)
    assert code == 130, shown
    assert "suspend all RQ workers (2 now) for 1m30s: no job is taken from" in shown
    assert "snapshot-queue, nor from the other queues mail, reports?" in shown
    code, shown = on_terminal(docora, command, answer=b"y\n")
    assert code == 0, shown
    assert "2 busy workers finish their jobs." in shown
    docora.run(*command).ended(0, says="nor from the other queues mail, reports.")


def test_who_and_why_is_told_wherever_the_queue_is_used(docora: Docora) -> None:
    docora.add_worker()
    with Connected(docora.settings) as connected:
        actions.pause(connected, 600, reason=REASON[1])
    sentence = r"workers are suspended by \S.*@\S+ for another (9m\d+s|10m): gateway is"
    for command in ("status", "queue", "doctor", "repair"):
        result = docora.run(command)
        assert result.code == 0, result  # an order, and no trouble
        told = re.sub(r"\s+", " ", result.stdout + result.stderr)
        assert re.search(sentence, told), told
        assert "docora-ops resume" in told
    queue = docora.run("queue", "--json").data
    assert (queue["suspended"], queue["suspension"]["reason"]) == (True, REASON[1])


def test_rq_can_end_a_pause_and_is_not_taken_for_who_paused(docora: Docora) -> None:
    assert docora.run("pause", *REASON, env=NO_DATABASE).code == 0
    assert rq.suspension.is_suspended(docora.redis)
    rq.suspension.resume(docora.redis)
    assert "suspended" not in docora.run("queue", env=NO_DATABASE).stderr
    rq.suspension.suspend(docora.redis)
    told = docora.run("queue", env=NO_DATABASE).stderr
    assert "Warning: workers are suspended. To go on: docora-ops resume\n" in told


def test_a_pause_ends_by_itself_and_each_change_leaves_an_audit_entry(docora: Docora) -> None:
    with frozen(docora):
        nothing = docora.run("resume", env=NO_DATABASE).ended(0)
    assert "nothing to resume" in nothing.stderr
    paused = docora.run("pause", "--for", "10m", "--json", *REASON, env=NO_DATABASE)
    suspension = paused.data["suspension"]
    assert (suspension["remaining_seconds"], suspension["reason"]) == (600, REASON[1])
    assert 590 < docora.redis.ttl(KEY) <= 600
    resumed = docora.run("resume", "--json", "--reason", "it is back", env=NO_DATABASE)
    assert (resumed.code, resumed.data["resumed"]) == (0, True)
    assert resumed.data["suspension"]["reason"] == REASON[1]
    assert not docora.redis.exists(KEY)
    shown = docora.run("history", "--json", env=NO_DATABASE).data
    assert [
        (each["command"], each["reason"], each["selection"], each["state"]) for each in shown
    ] == [("resume", "it is back", {}, "done"), ("pause", REASON[1], {"for": "600s"}, "done")]
