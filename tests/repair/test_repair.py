"""`repair` as its user meets it, and when it is cut off. Beside others: tests/chaos."""

import json
import signal
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from rq.job import Job

from docora_ops.actions.doctor import Diagnosis, diagnose
from docora_ops.actions.repairs import RepairOutcome, RepairResult
from docora_ops.actions.repairs import repair as repair_all
from tests.support.docora import QUEUE, Docora, Result, finish
from tests.support.proxy import PUSH, Fault, Proxy
from tests.support.read_only import frozen
from tests.support.rows import TestLink
from tests.support.running_commands import PATIENT, await_line
from tests.support.terminal import on_terminal

AT_ONCE = {"DOCORA_OPS_DRIFT_GRACE": "0"}
REMOVE = b"$6\r\nremove\r\n"


STATUSES = {
    "lost": "pending_snapshot",
    "stuck": "scanning",
    "orphan": "failed",
    "duplicate": "failed",
    "stale_entry": "synced",
}


def world(docora: Docora) -> dict[str, TestLink]:
    """One link for each kind of drift."""
    app = docora.add_app("Acme \x1b[31mSearch")
    links = {
        kind: docora.link(app, docora.add_repository(f"octo/{kind}"), status, retry_count=0)
        for kind, status in STATUSES.items()
    }
    docora.queue_job(links["orphan"])
    docora.delete_link(links["orphan"])
    for _ in range(2):
        docora.enqueue(links["duplicate"].job_id)
    docora.redis.zadd(f"rq:failed:{QUEUE}", {links["stale_entry"].job_id: 9e9})
    docora.redis.delete("docora-ops:audit")
    docora.add_worker()
    docora.age_links()
    return links


def repair(docora: Docora, *arguments: str) -> Result:
    return docora.run("repair", *arguments, env=AT_ONCE)


def test_a_repair_says_that_it_checks_again_before_it_changes_anything(docora: Docora) -> None:
    link = docora.add_link("pending_snapshot")
    docora.age_links()
    with docora.start("repair", "--yes", env={"DOCORA_OPS_DRIFT_GRACE": "600"}) as process:
        await_line(process, "1 suspect at first check: checking again in 600 s.")
        result = finish(process, signal.SIGINT)
    assert (result.code, "suspects" in result.stderr) == (130, False), result
    assert docora.status(link) == "pending_snapshot"
    assert docora.waiting() == []


def test_a_repair_says_link_by_link_what_it_has_done(docora: Docora) -> None:
    links = world(docora)
    with frozen(docora):
        planned = repair(docora, "--dry-run", "--json")
        shown = repair(docora, "--dry-run")
    assert (planned.data["message"], planned.data["dry_run"]) == ("Dry run", True)
    assert "queued" in shown.stdout
    assert "nothing was changed" in shown.stderr

    result = repair(docora, "--json", "--reason", "killed")
    assert result.code == 0, result
    data = result.data
    counts = {"total": 5, "queued": 2, "removed": 3}
    assert [
        (entry["event"], entry["command"], entry["reason"], json.loads(entry["counts"]))
        for entry in docora.audit_entries()
    ] == [("started", "repair", "killed", {"total": 5}), ("ended", "repair", "killed", counts)]
    none = {"reset": 0, "left_alone": 0, "not_repaired": 0}
    assert (data["message"], data["by_kind"]) == ("Repair done", dict.fromkeys(links, 1))
    assert data["counts"] == {"queued": 2, "removed": 3, **none}
    items = {item["drift"]["kind"]: item for item in data["repaired"]}
    for kind, link in links.items():
        drift, outcome = items[kind]["drift"], items[kind]["outcome"]
        assert (drift["job_id"], drift["repository_name"]) == (link.job_id, f"octo/{kind}")
        assert outcome == ("queued" if kind in {"lost", "stuck"} else "removed")
    assert planned.data["repaired"] == data["repaired"]
    with frozen(docora):
        again = repair(docora)
    assert (again.code, again.stdout) == (0, "Nothing to repair\n")
    assert again.stderr.endswith(": looking for drift.\n")


def test_at_a_terminal_it_shows_the_counts_and_asks(docora: Docora) -> None:
    links = world(docora)
    with frozen(docora):
        code, shown = on_terminal(docora, ["repair"], answer=b"n\n", env=AT_ONCE)
    assert code == 130
    for text in ("lost", "stuck", "orphan", "duplicate", "stale entry"):
        assert text in shown
    question = ": repair 5 cases of drift?"
    words = " ".join(shown.split())
    assert question in words
    # The first line and the question name both servers.
    url = docora.redis_url.rpartition("@")[2].partition("/")[0]
    assert words.count(f", Redis {url}") == 2
    assert words.count("(schema public)") == 1

    code, shown = on_terminal(docora, ["repair"], answer=b"y\n", env=AT_ONCE, columns=60)
    assert code == 0, shown
    assert "\x1b[31mSearch" not in shown
    assert len(docora.waiting()) == 3
    docora.assert_sound()

    docora.redis.rpush(docora.queue.key, links["lost"].job_id)
    code, shown = on_terminal(docora, ["repair", "--yes"], env=AT_ONCE)
    assert (code, "[y/N]" in shown) == (0, False)
    assert docora.doubled_jobs() == []


@pytest.mark.slow
def test_a_repair_cut_off_tells_what_was_done_and_another_does_the_rest(docora: Docora) -> None:
    docora.add_links(1100, status="pending_snapshot")  # three batches
    docora.age_links()
    with Proxy.before_redis(docora.redis_url) as proxy:
        env = {**AT_ONCE, **PATIENT, "REDIS_URL": proxy.url}
        moment = proxy.plan(PUSH, Fault.HOLD_REPLY)
        process = docora.start("repair", "--json", env=env)
        moment.wait()
        process.send_signal(signal.SIGINT)
        moment.release()
        interrupted = finish(process)
        proxy.plan(PUSH, Fault.LOSE_REQUEST, number=2)
        lost = docora.run("repair", "--json", env=env)
    for result, code in ((interrupted, 130), (lost, 5)):
        assert (result.code, result.data["message"]) == (code, "Repair stopped"), result
        assert 0 < result.data["counts"]["queued"] == len(result.data["repaired"]) <= 500
    assert "the same command finishes the rest" in interrupted.stderr
    assert lost.json["code"] == "redis"
    assert repair(docora, "--json").code == 0
    assert len(docora.waiting()) == 1100
    docora.assert_sound()


@pytest.mark.parametrize(
    ("fault", "is_done"), [(Fault.HOLD_REQUEST, False), (Fault.HOLD_REPLY, True)]
)
def test_a_repair_killed_while_it_removes_has_removed_all_or_nothing(
    docora: Docora, fault: Fault, *, is_done: bool
) -> None:
    duplicate = world(docora)["duplicate"].job_id
    with Proxy.before_redis(docora.redis_url) as proxy:
        moment = proxy.plan(REMOVE, fault)
        process = docora.start("repair", env={**AT_ONCE, **PATIENT, "REDIS_URL": proxy.url})
        moment.wait()
        process.kill()
        assert finish(process).code == -signal.SIGKILL
    assert docora.waiting().count(duplicate) == (1 if is_done else 2)
    assert len(docora.waiting()) == (1 if is_done else 3)
    result = repair(docora, "--json")
    assert (result.code, result.data["counts"]["removed"]) == (0, 0 if is_done else 3)


def test_a_link_that_was_stuck_too_often_is_failed_and_not_queued(docora: Docora) -> None:
    link = docora.add_link("scanning", retry_count=4)
    result = repair(docora, "--json")
    [item] = result.data["repaired"]
    assert (result.code, item["outcome"]) == (6, "not_repaired")
    assert "cut off too often: the link is failed now" in item["error_message"]
    row = docora.row(link)
    assert (row["status"], row["retry_count"]) == ("failed", 5)
    assert row["last_error"] == "the snapshot was cut off: its worker's heartbeat stopped"
    assert docora.waiting() == []
    # As for any failed link, a retry brings it back.
    assert docora.run("retry", *link.ids).code == 0
    assert docora.waiting() == [link.job_id]


@pytest.mark.slow  # its many jobs take seconds
def test_many_orphans_are_not_kept_in_memory_twice(docora: Docora) -> None:
    count = 5_000
    docora.enqueue(docora.add_link("pending_snapshot").job_id)  # the queue is ours
    pipeline = docora.redis.pipeline()
    for number in range(count):
        job_id = f"app_{1:024x}-repo_{number:024x}"
        fields: dict[Any, Any] = {
            "status": "queued",
            "origin": QUEUE,
            "enqueued_at": f"at {number}",
        }
        pipeline.hset(Job.key_for(job_id), mapping=fields)
        pipeline.rpush(docora.queue.key, job_id)
    pipeline.execute()

    def bytes_per_job(look: Callable[[], Iterator[object]]) -> tuple[int, object]:
        """The lesser of two peaks: Python's table of interned texts may grow in one of them."""
        *_, _ = look()  # imports what it needs
        peaks = []
        for _ in range(2):
            tracemalloc.start()
            *_, result = look()
            peaks.append(tracemalloc.get_traced_memory()[1] // count)
            tracemalloc.stop()
        return min(peaks), result

    actions = docora.actions(drift_grace=0).docora
    for_diagnosis, diagnosis = bytes_per_job(lambda: diagnose(actions))
    for_repair, planned = bytes_per_job(lambda: repair_all(actions, dry_run=True))
    assert isinstance(diagnosis, Diagnosis)
    assert diagnosis.drift
    assert isinstance(planned, RepairResult)
    assert diagnosis.drift.total == planned.total == count
    assert max(for_diagnosis, for_repair) < 1_100


def test_links_queued_meanwhile_are_left_alone_in_one_batch(docora: Docora) -> None:
    docora.add_links(5, status="scanning")
    seen: list[object] = []
    for event in repair_all(docora.actions(drift_grace=0).docora):
        if isinstance(event, RepairResult) and not seen:
            for link in docora.links():
                docora.enqueue(link.job_id)
        seen += [event] if isinstance(event, RepairResult) else []
    assert isinstance(event, RepairResult)
    assert [item.outcome for item in event.repaired] == [RepairOutcome.LEFT_ALONE] * 5
    assert len(seen) <= 4
