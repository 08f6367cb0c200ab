"""Beside Docora's own queue: leftovers are removed, and Docora's scheduler queues the jobs."""

from base64 import b64encode
from collections.abc import Callable
from datetime import timedelta

import pytest

from tests.bullmq.jobs import Bullmq
from tests.support.docora import QUEUE, Docora
from tests.support.rows import TestLink

STATES: dict[str, tuple[Callable[[Bullmq, TestLink], object], str, bool]] = {
    "none": (lambda bullmq, link: None, "reset", True),
    "waiting": (Bullmq.add, "already_queued", True),
    "delayed": (Bullmq.delay, "already_queued", True),
    "to be tried again": (Bullmq.try_once, "already_queued", True),
    "running": (Bullmq.start, "already_running", False),
    "left by a killed worker": (Bullmq.stall, "already_running", False),
    "completed": (Bullmq.complete, "reset", True),
    "failed": (Bullmq.fail, "reset", True),
}


@pytest.mark.parametrize("state", STATES)
def test_a_retry_by_the_state_of_the_job(docora: Docora, bullmq: Bullmq, state: str) -> None:
    prepare, expected, is_reset = STATES[state]
    link = docora.add_link()
    prepare(bullmq, link)
    if state in {"completed", "failed"}:
        assert docora.redis.zscore(bullmq.key(state), link.job_id) is not None
    result = bullmq.run("retry", *link.ids, "--json").ended(0)
    assert result.data["state"] == expected
    assert docora.was_reset(link) is is_reset
    assert docora.redis.exists("rq:queue:snapshot-queue") == 0
    if expected == "reset":  # otherwise, BullMQ would ignore a new job with this id
        assert docora.redis.exists(bullmq.key(link.job_id)) == 0
        for name in ("completed", "failed"):
            assert docora.redis.zscore(bullmq.key(name), link.job_id) is None


@pytest.mark.parametrize("is_reset", [False, True])
def test_an_open_circuit_that_the_scheduler_waits_for_is_named(
    docora: Docora, bullmq: Bullmq, *, is_reset: bool
) -> None:
    repository = docora.add_repository(circuit_open_for=timedelta(hours=1))
    link = docora.link(docora.add_app(), repository)
    reset = ["--reset-circuit"] if is_reset else []
    bulk = bullmq.run("retry-all-failed", "--yes", "--wait", "--timeout", "1", *reset).ended(8)
    assert ("circuits of 1 link: --reset-circuit" in bulk.stderr) is not is_reset
    docora.set_link(link, status="failed")
    single = bullmq.run("retry", *link.ids, "--wait", "--timeout", "1", *reset, "--json").ended(8)
    assert single.data["state"] == "reset"
    for text in (single.data["detail"], single.stderr):
        assert ("--reset-circuit closes it" in text) is not is_reset


def test_a_resync_of_a_running_link_is_refused(docora: Docora, bullmq: Bullmq) -> None:
    link = docora.add_link("scanning")
    docora.add_deliveries(link, 2)
    bullmq.start(link)
    bullmq.run("resync", *link.ids, "--yes", "--json").ended(4, "snapshot_running")
    assert docora.deliveries(link) == 2


def test_a_bulk_retry_resets_all_links(docora: Docora, bullmq: Bullmq) -> None:
    docora.add_links(30, apps=3)
    failed, waiting, *_ = docora.links()
    bullmq.fail(failed)
    bullmq.add(waiting)
    result = bullmq.run("retry-all-failed", "--yes", "--json").ended(0)
    assert result.data["states"] == {"reset": 29, "already_queued": 1}
    assert docora.statuses() == {"pending_snapshot": 30}


def test_repair_mends_a_scanning_link_and_leaves_pending_ones_to_the_scheduler(
    docora: Docora, bullmq: Bullmq
) -> None:
    pending = docora.add_link("pending_snapshot", retry_count=1)
    scanning = docora.add_link("scanning", retry_count=1)
    running = docora.add_link("scanning", retry_count=1)
    bullmq.start(running)
    env = bullmq.environment(DOCORA_OPS_DRIFT_GRACE="0")
    result = docora.run("repair", "--yes", "--json", env=env).ended(0)
    assert (result.data["total"], result.data["states"]) == (1, {"reset": 1})
    assert (docora.status(scanning), docora.row(scanning)["retry_count"]) == ("pending_snapshot", 2)
    assert [docora.row(link)["retry_count"] for link in (pending, running)] == [1, 1]


def test_without_a_worker_it_says_to_start_docoras_own(docora: Docora, bullmq: Bullmq) -> None:
    link = docora.add_link()
    said = bullmq.run("retry", *link.ids, "--wait", "--timeout", "3").ended(8).stderr
    assert "Docora's own" in said
    assert "docora-ops worker" not in said


def test_a_link_at_work_is_not_to_be_sent_again(docora: Docora, bullmq: Bullmq) -> None:
    link = docora.add_link("scanning")
    bullmq.start(link)
    hint = bullmq.run("retry", *link.ids, "--json").ended(4, "not_failed").json["hint"]
    assert "docora-ops show" in hint


def test_schedule_and_worker_are_refused(docora: Docora, bullmq: Bullmq) -> None:
    link = docora.add_link("pending_snapshot")
    bullmq.add(link)
    environment = bullmq.environment(ENCRYPTION_KEY="00" * 32)
    for command in (["schedule"], ["worker", "--burst"]):
        docora.run(*command, env=environment).ended(4, says="DOCORA_OPS_BACKEND=rq")
    docora.run("schedule", "--json", env=environment).ended(4, "wrong_backend")


@pytest.mark.parametrize(
    ("rq", "bull", "expected"),
    [
        ("", "", "queued"),
        ("waiting", "", "queued"),
        ("", "waiting", "reset"),
        ("", "keys", "reset"),
        ("waiting", "worker", None),
        ("", "worker", "reset"),
        ("waiting", "keys", "queued"),
        ("waiting", "waiting", None),
    ],
)
def test_auto_takes_the_queue_in_use(
    docora: Docora, bullmq: Bullmq, rq: str, bull: str, expected: str | None
) -> None:
    link, other = docora.add_link(), docora.add_link("pending_snapshot")
    docora.redis.delete(bullmq.key("meta"))
    if bull == "waiting":
        bullmq.add(other)
    elif bull == "keys":
        docora.redis.hset(bullmq.key("meta"), "version", "bullmq:5")
    elif bull == "worker":
        docora.redis.client_setname(f"bull:{b64encode(QUEUE.encode()).decode()}")
    if rq:
        docora.enqueue(other.job_id)
    result = docora.run("retry", *link.ids, "--json", env={"DOCORA_OPS_BACKEND": "auto"})
    if expected is None:
        result.ended(4, "unclear_backend")
    else:
        assert result.ended(0).data["state"] == expected
