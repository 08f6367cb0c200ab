"""Which backend a command takes where `DOCORA_OPS_BACKEND` is not set, and that it says so."""

from contextlib import ExitStack
from datetime import timedelta
from signal import SIGTERM

import pytest
from rq.job import JobStatus

from tests.support.bullmq import Bullmq
from tests.support.diagnoses import ONE_LOOK, check
from tests.support.docora import QUEUE, Docora, Result, finish
from tests.support.privileges import without_rule
from tests.support.proxy import eventually

UNSET: dict[str, str | None] = {"DOCORA_OPS_BACKEND": None, **ONE_LOOK}
WHY = {
    "rq workers": "using rq, as RQ workers run\n",
    "bullmq workers": "using bullmq, as BullMQ workers run\n",
    "rq traces": "using rq, as only RQ has keys, with no worker in sight\n",
    "bullmq traces": "using bullmq, as only BullMQ has keys, with no worker in sight\n",
    "rq default": "using rq, as nobody has used the queue yet\n",
}


def found_by(docora: Docora, **changes: str) -> str:
    """The backend of `status` and what the choice rests on, which it says once."""
    result = docora.run("status", "--json", env={**UNSET, **changes}).ended(0)
    found = "{backend} {backend_source}".format(**result.data["queue"])
    if found != "rq unclear":
        assert result.stderr == f"DOCORA_OPS_BACKEND is not set: {WHY[found]}"
    return found


def run_unset(docora: Docora, *arguments: str) -> Result:
    return docora.run(*arguments, env={**UNSET, "ENCRYPTION_KEY": "ab" * 32})


def test_a_worker_of_bullmq_alone_decides_whatever_rq_has_left(bullmq: Bullmq) -> None:
    docora = bullmq.docora
    link = docora.add_link()
    docora.leave_job("done", JobStatus.FINISHED)
    with bullmq.worker(lambda _job_id: None):
        for user in (docora.redis_access.bullmq, docora.redis_access.monitor):
            assert found_by(docora, REDIS_URL=user) == "bullmq workers"
        refused = run_unset(docora, "schedule")
        assert "needs RQ's queue, and the backend in use is bullmq" in refused.stderr
        assert "DOCORA_OPS_BACKEND=rq" not in refused.stderr, "an invitation to run both"
        retried = run_unset(docora, "retry", *link.ids, "--json")
        assert (retried.code, retried.data["outcome"]) == (0, "reset"), retried
        assert retried.stderr.count("DOCORA_OPS_BACKEND is not set") == 1
    assert docora.waiting() == []


def test_bullmqs_keys_decide_when_docoras_worker_was_just_killed(bullmq: Bullmq) -> None:
    docora = bullmq.docora
    running, pending = docora.add_link("scanning"), docora.add_link("pending_snapshot")
    stuck = docora.add_link("scanning", retry_count=1)
    bullmq.start(running)
    docora.age_links()
    assert found_by(docora) == "bullmq traces"
    assert "set DOCORA_OPS_BACKEND=rq" in run_unset(docora, "schedule").stderr
    repaired = run_unset(docora, "repair", "--yes", "--json")
    by_kind = repaired.data["by_kind"]
    assert (repaired.code, by_kind["stuck"], by_kind["lost"]) == (0, 1, 0), repaired
    assert docora.status(stuck) == docora.status(pending) == "pending_snapshot"
    assert docora.redis.keys("rq:*") == []


def test_rqs_keys_decide_when_no_worker_runs_and_other_queues_are_no_trace(docora: Docora) -> None:
    assert found_by(docora) == "rq default"
    for leave in (
        lambda: docora.enqueue("waits"),
        lambda: docora.start_job("runs", heartbeat=-1),
        lambda: docora.leave_job("done", JobStatus.FINISHED),
    ):
        docora.redis.flushdb()
        leave()
        assert found_by(docora, REDIS_URL=docora.redis_access.monitor) == "rq traces"
    docora.redis.flushdb()
    docora.redis.rpush("rq:queue:mails", "a")
    docora.redis.sadd("rq:queues", docora.queue.key, "rq:queue:mails")
    docora.redis.set("bull:mails:id", "x")
    docora.redis.hset(f"bull:{QUEUE}:meta", "version", "bullmq:5")  # the dashboard was opened
    docora.add_link("pending_snapshot")
    assert found_by(docora) == "rq default"
    docora.add_link("pending_snapshot", scanned=timedelta(minutes=5))
    assert found_by(docora) == "rq unclear", "Redis was emptied, or is another one"


def test_repeated_passes_queue_nothing_while_it_is_unclear_and_name_the_backend_once(
    docora: Docora,
) -> None:
    """As when all workers restart at the same moment, and BullMQ has left keys."""

    def await_passes() -> None:
        def connections() -> int:
            return int(docora.redis.info("stats")["total_connections_received"])

        until = connections() + 4
        eventually(lambda: connections() >= until, "passes")

    docora.add_worker()
    docora.redis.set(f"bull:{QUEUE}:id", 1)
    first = docora.add_link("pending_snapshot")
    env = {**UNSET, "SCAN_INTERVAL_MS": "50"}
    process = docora.start("schedule", "--repeat", env=env)
    eventually(lambda: docora.waiting() == [first.job_id], "the first pass")
    await_passes()
    docora.redis.delete("rq:worker:worker-1")
    await_passes()
    later = docora.add_link("pending_snapshot")
    await_passes()
    assert docora.waiting() == [first.job_id]
    docora.add_worker()
    eventually(lambda: docora.waiting() == [first.job_id, later.job_id], "a pass with a worker")
    result = finish(process, SIGTERM)
    assert (result.code, result.stderr.count("Error: ")) == (0, 1), result
    assert "and both RQ and BullMQ have keys, with no worker in sight" in result.stderr
    assert result.stderr.count("DOCORA_OPS_BACKEND is not set: using rq, as RQ workers run") == 1
    docora.redis.delete("rq:worker:worker-1")
    docora.run("schedule", "--repeat", env=env).ended(4, says="nothing is changed")


TWICE = "stop the workers of one kind, as each link may be worked on twice"
FIRST = {"workers": f"{TWICE}, then ", "keys": "start Docora's worker if it runs its own, or "}
READING = ("status", "doctor --all", "metrics", "wait APP REPO --timeout 1")
CHANGING = (
    *("retry APP REPO --json", "retry-all-failed --dry-run --json", "resync APP --all --yes"),
    *("repair --yes --json", "pause --yes", "worker"),
)


def test_without_the_list_of_clients_no_worker_begins_beside_one_of_docora(bullmq: Bullmq) -> None:
    docora = bullmq.docora
    access = docora.redis_access
    env = {"DOCORA_OPS_BACKEND": "rq", "REDIS_URL": access.worker, "ENCRYPTION_KEY": "ab" * 32}
    # As moveStalledJobsToWait of BullMQ 5 sets it, every 30 s while a worker lives.
    docora.redis.set(f"bull:{QUEUE}:stalled-check", "1", px=30_000)
    with without_rule(docora.redis, "+client|list", "docora-worker", access.worker_name):
        refused = docora.run("worker", "--burst", env=env)
        assert (refused.code, "a BullMQ worker of Docora" in refused.stderr) == (4, True), refused
    docora.redis.acl_log_reset()


def test_no_pause_is_promised_while_a_worker_of_docora_runs(bullmq: Bullmq) -> None:
    with bullmq.worker(lambda _: None):
        refused = bullmq.docora.run("pause", "--yes", env={"DOCORA_OPS_BACKEND": "rq"})
    assert (refused.code, "obeys no pause" in refused.stderr) == (4, True), refused
    assert not bullmq.docora.redis.exists("rq:suspended")


@pytest.mark.slow
@pytest.mark.parametrize("seen", ["workers", "keys"])
def test_where_it_is_unclear_commands_that_read_warn_and_all_others_but_cancel_refuse(
    bullmq: Bullmq, docora: Docora, seen: str
) -> None:
    docora.redis.set(bullmq.key("id"), 1)  # as the first job leaves it
    docora.add_link()
    known = bullmq.run("retry-all-failed", "--yes", "--json").data["operation_id"]
    link, waited = docora.add_link(), docora.add_link("scanning")
    docora.age_links()
    operation = "bulk_0123456789abcdef"
    docora.redis.hset(f"docora:bulk:{operation}", items=["total", 5, "completed", 1])
    docora.leave_job("done", JobStatus.FINISHED)

    def run(command: str) -> Result:
        app, repository = (waited if command.startswith("wait") else link).ids
        words = command.replace("APP", app).replace("REPO", repository).split()
        return run_unset(docora, *words)

    why = "both RQ and BullMQ have keys, with no worker in sight"
    with ExitStack() as stack:
        if seen == "workers":
            stack.enter_context(bullmq.worker(lambda _job_id: None))
            docora.add_worker()
            why = "workers of both RQ and BullMQ run"
        for command in (*READING, f"wait {known} --timeout 1"):
            result = run(command).ended({"doctor": 6, "wait": 8}.get(command.split()[0], 0))
            assert result.stderr.count(f"DOCORA_OPS_BACKEND is not set, and {why}") == 1
            assert "set DOCORA_OPS_BACKEND to rq or bullmq" in result.stderr + result.stdout
            assert (TWICE in result.stderr + result.stdout) is (seen == "workers"), result
        metrics = run("metrics").stdout
        assert "\ndocora_backend_ok 0.0\n" in metrics
        assert "docora_drift_links" not in metrics
        assert check(run("doctor --json"), "drift_stuck")["state"] == "not_checked"

        before = docora.dump()
        for command in CHANGING:
            refused = run(command).ended(4)
            assert f"DOCORA_OPS_BACKEND is not set, and {why}: nothing is changed" in refused.stderr
            assert f"Hint: {FIRST[seen]}set DOCORA_OPS_BACKEND to rq or bullmq" in refused.stderr
        if seen != "workers":  # a worker of BullMQ writes now and then
            assert docora.dump() == before
        assert docora.waiting() == []
        assert run(f"cancel {operation}").code == 0
