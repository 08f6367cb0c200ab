"""Which backend a command takes where `DOCORA_OPS_BACKEND` is not set, and that it says so."""

from contextlib import ExitStack
from datetime import timedelta
from typing import Any

import pytest
from rq.job import JobStatus

from tests.support.bullmq import Bullmq
from tests.support.diagnoses import ONE_LOOK, check
from tests.support.docora import QUEUE, Docora, Result
from tests.support.privileges import without_rule

UNSET: dict[str, str | None] = {"DOCORA_OPS_BACKEND": None, **ONE_LOOK}
KEY = {"ENCRYPTION_KEY": "ab" * 32}
Found = tuple[str, str]
RQ_WORKERS, BULLMQ_WORKERS = ("rq", "workers"), ("bullmq", "workers")
RQ_TRACES, BULLMQ_TRACES = ("rq", "traces"), ("bullmq", "traces")
DEFAULT, UNCLEAR = ("rq", "default"), ("rq", "unclear")
WHY = {
    RQ_WORKERS: "using rq, as RQ workers run\n",
    BULLMQ_WORKERS: "using bullmq, as BullMQ workers run\n",
    RQ_TRACES: "using rq, as only RQ has keys, with no worker in sight\n",
    BULLMQ_TRACES: "using bullmq, as only BullMQ has keys, with no worker in sight\n",
    DEFAULT: "using rq, as nobody has used the queue yet\n",
}


def found_by(docora: Docora, **changes: str) -> Found:
    """The backend of `status` and what the choice rests on, which it says once."""
    result = docora.run("status", "--json", env={**UNSET, **changes})
    assert result.code == 0, result
    queue = result.data["queue"]
    found = (queue["backend"], queue["backend_source"])
    if found != UNCLEAR:
        assert result.stderr == f"DOCORA_OPS_BACKEND is not set: {WHY[found]}"
    return found


def finish_job(docora: Docora) -> None:
    """All that RQ keeps of a queue whose jobs are done."""
    docora.leave_job("done", JobStatus.FINISHED)


def run_unset(docora: Docora, *arguments: str) -> Result:
    return docora.run(*arguments, env={**UNSET, **KEY})


def test_a_worker_of_bullmq_alone_decides_whatever_rq_has_left(bullmq: Bullmq) -> None:
    docora = bullmq.docora
    link = docora.add_link()
    finish_job(docora)
    with bullmq.worker(lambda _job_id: None):
        assert found_by(docora) == BULLMQ_WORKERS
        assert found_by(docora, REDIS_URL=docora.redis_access.bullmq) == BULLMQ_WORKERS
        assert found_by(docora, REDIS_URL=docora.redis_access.monitor) == BULLMQ_WORKERS
        refused = run_unset(docora, "schedule")
        assert "needs RQ's queue, and the backend in use is bullmq" in refused.stderr
        assert "DOCORA_OPS_BACKEND=rq" not in refused.stderr, "an invitation to run both"
        retried = run_unset(docora, "retry", *link.ids, "--json")
        assert (retried.code, retried.data["outcome"]) == (0, "reset"), retried
        assert retried.stderr.count("DOCORA_OPS_BACKEND is not set") == 1
    assert docora.waiting() == []


def test_bullmqs_keys_decide_when_docoras_worker_was_just_killed(bullmq: Bullmq) -> None:
    docora = bullmq.docora
    running = docora.add_link("scanning")
    stuck = docora.add_link("scanning", retry_count=1)
    bullmq.complete(docora.add_link("synced"))
    bullmq.start(running)
    pending = docora.add_link("pending_snapshot")
    docora.age_links()

    assert found_by(docora) == BULLMQ_TRACES
    refused = run_unset(docora, "schedule")
    assert "set DOCORA_OPS_BACKEND=rq" in refused.stderr
    repaired = run_unset(docora, "repair", "--yes", "--json")
    assert (repaired.code, repaired.data["stuck"], repaired.data["lost"]) == (0, 1, 0), repaired
    assert docora.status(stuck) == docora.status(pending) == "pending_snapshot"
    assert docora.redis.keys("rq:*") == []


def test_rqs_keys_decide_when_no_worker_runs(docora: Docora) -> None:
    for leave in (
        lambda: docora.enqueue("waits"),
        lambda: docora.start_job("runs", heartbeat=-1),
        lambda: finish_job(docora),
    ):
        docora.redis.flushdb()
        leave()
        assert found_by(docora, REDIS_URL=docora.redis_access.monitor) == RQ_TRACES


def test_nothing_but_the_names_of_rqs_queues_and_other_queues_is_no_trace(docora: Docora) -> None:
    assert found_by(docora) == DEFAULT
    docora.enqueue("gone")
    docora.redis.delete(docora.queue.key)
    docora.redis.rpush("rq:queue:mails", "a")
    docora.redis.sadd("rq:queues", "rq:queue:mails")
    docora.redis.set("bull:mails:id", "x")
    docora.redis.hset(f"bull:{QUEUE}:meta", "version", "bullmq:5")  # the dashboard was opened
    docora.add_link("pending_snapshot")
    assert found_by(docora) == DEFAULT


def test_an_empty_redis_says_nothing_of_a_docora_whose_links_were_scanned(docora: Docora) -> None:
    link = docora.add_link("scanning")
    assert found_by(docora) == UNCLEAR
    docora.delete_link(link)
    docora.add_link("pending_snapshot", scanned=timedelta(minutes=5))
    assert found_by(docora) == UNCLEAR


def test_without_the_list_of_clients_the_keys_decide(bullmq: Bullmq) -> None:
    docora = bullmq.docora
    docora.redis.set(bullmq.key("id"), 1)  # as the first job leaves it
    name = docora.redis_access.command_name
    with without_rule(docora.redis, "+client|list", "docora-ops", name):
        assert found_by(docora) == BULLMQ_TRACES
        docora.add_worker()
        assert found_by(docora) == RQ_WORKERS
        docora.redis.acl_log_reset()


TWICE = "stop the workers of one kind, as each link may be worked on twice"
START = "start Docora's worker if it runs its own, or "
FIRST = {"workers": f"{TWICE}, then ", "keys": START}
READING: tuple[tuple[str, ...], ...] = (
    ("status",),
    ("doctor", "--all"),
    ("metrics",),
    ("wait", "APP", "REPO", "--timeout", "1"),
)
CHANGING: tuple[tuple[str, ...], ...] = (
    ("retry", "APP", "REPO"),
    ("retry-all-failed", "--dry-run"),
    ("resync", "APP", "--all", "--yes"),
    ("repair", "--yes"),
    ("pause", "--yes"),
    ("worker",),
)


@pytest.mark.parametrize("seen", ["workers", "keys"])
def test_where_it_is_unclear_commands_that_read_warn_and_all_others_but_cancel_refuse(
    bullmq: Bullmq, seen: str
) -> None:
    docora = bullmq.docora
    docora.redis.set(bullmq.key("id"), 1)  # as the first job leaves it
    docora.add_link()
    known = bullmq.run("retry-all-failed", "--yes", "--json").data["operation_id"]
    link, waited = docora.add_link(), docora.add_link("scanning")
    docora.age_links()
    operation = "bulk_0123456789abcdef"
    docora.redis.hset(f"docora:bulk:{operation}", items=["total", 5, "completed", 1])
    finish_job(docora)
    why = "both RQ and BullMQ have keys, with no worker in sight"
    with ExitStack() as stack:
        if seen == "workers":
            stack.enter_context(bullmq.worker(lambda _job_id: None))
            docora.add_worker()
            why = "workers of both RQ and BullMQ run"
        for command in (*READING, ("wait", known, "--timeout", "1")):
            chosen = waited if command[0] == "wait" else link
            result = run_unset(docora, *_named(command, chosen))
            codes = {"doctor": 6, "wait": 8}
            assert result.code == codes.get(command[0], 0), (command, result)
            assert result.stderr.count(f"DOCORA_OPS_BACKEND is not set, and {why}") == 1
            assert "set DOCORA_OPS_BACKEND to rq or bullmq" in result.stderr + result.stdout
            assert (TWICE in result.stderr + result.stdout) is (seen == "workers"), result
        numbers: Any = run_unset(docora, "metrics", "--json").data
        assert (numbers["backend_ok"], numbers["drift"]) == (False, None)
        doctor = run_unset(docora, "doctor", "--json")
        assert check(doctor, "drift_stuck")["state"] == "not_checked"

        before = docora.dump()
        for command in CHANGING:
            as_json = ("--json",) if command[0] != "worker" else ()
            refused = run_unset(docora, *_named(command, link), *as_json)
            assert refused.code == 4, (command, refused)
            assert f"DOCORA_OPS_BACKEND is not set, and {why}: nothing is changed" in refused.stderr
            assert f"Hint: {FIRST[seen]}set DOCORA_OPS_BACKEND to rq or bullmq" in refused.stderr
        if seen != "workers":  # a worker of BullMQ writes now and then
            assert docora.dump() == before
        assert docora.waiting() == []
        assert run_unset(docora, "cancel", operation).code == 0


def _named(command: tuple[str, ...], link: Any) -> list[str]:
    ids = {"APP": link.app_id, "REPO": link.repository_id}
    return [ids.get(each, each) for each in command]
