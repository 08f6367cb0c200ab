"""The users of the topic: each rule in Redis is needed, and who monitors changes nothing."""

import re
from contextlib import suppress
from typing import Any

import pytest
from rq.job import JobStatus

from tests.support.bullmq import Bullmq
from tests.support.diagnoses import ONE_LOOK
from tests.support.docora import Docora, Result
from tests.support.privileges import (
    judges_subcommands,
    rules,
    without_rule,
)
from tests.support.rows import TestLink
from tests.support.snapshots import Snapshots

OPERATION = "bulk_0123456789abcdef"
HELD = "app_held"
READING = (
    *("show APP REPO", "doctor --read-only", "queue", "status", "operations"),
    "metrics --by-app --by-error",
    *(
        f"operations {OPERATION}",
        "history",
        "report",
        "retry APP REPO --dry-run",
        "schedule --dry-run",
    ),
    *("repair --dry-run", "retry-all-failed --dry-run", "resync APP REPO --dry-run"),
    *("resync APP --all --dry-run", "failed", "failed --group-by error", "apps"),
    *("deliveries APP", "deliveries APP --files", "trend", "trend APP --error x"),
    *("links --circuit open --group-by repository", "verify", "show APP REPO", "show APP"),
)
CHANGING = (
    *("retry APP REPO", "retry APP REPO --front", "retry-all-failed --yes", "repair --yes"),
    *("resync APP REPO --yes", "schedule", f"cancel {OPERATION}", "pause", "hold APP"),
    "release HELD",
)
OPTIONAL = {"docora-ops": {"+client|list"}, "docora-monitor": {"+client|list", "+hget"}}
"""Without the one, BullMQ's workers are not seen; beside BullMQ, the other is needed to read."""


@pytest.fixture
def subcommands(docora: Docora) -> None:
    if not judges_subcommands(docora.redis):
        pytest.skip("needs Redis 7 or Valkey, which judge each subcommand")


def arrange(docora: Docora) -> tuple[TestLink, TestLink]:
    """Links over jobs of all kinds; returns one of a stale job, and a waiting one."""
    docora.redis.flushdb()
    docora.connection.execute("TRUNCATE apps, repositories, app_repositories CASCADE")
    stale, other = docora.add_link(), docora.add_link("pending_snapshot")
    docora.leave_job(stale.job_id, JobStatus.FAILED)
    docora.enqueue(other.job_id)
    twice = docora.add_link("pending_snapshot")
    docora.enqueue(twice.job_id)
    docora.redis.rpush(docora.queue.key, twice.job_id)
    docora.enqueue(docora.add_link("synced").job_id).set_status(JobStatus.FAILED)
    docora.redis.set(f"rq:job:{docora.add_link().job_id}", "not a hash")
    docora.leave_job(docora.add_link("pending_snapshot").job_id, JobStatus.QUEUED)
    docora.start_job(docora.add_link("scanning").job_id)
    docora.schedule_job(docora.add_link().job_id)
    docora.add_worker()
    docora.redis.hset("rq:worker:worker-1", "obeys_holds", 1)
    docora.redis.hset("docora-ops:holds", docora.add_app("Held", HELD), '{"until": null}')
    docora.redis.set("rq:scheduler-lock:snapshot-queue", "scheduler")
    docora.redis.hset(f"docora:bulk:{OPERATION}", items=["total", 5, "completed", 1])
    docora.redis.expire(f"docora:bulk:{OPERATION}", 3000)
    docora.redis.xadd("docora-ops:operations", {"operation_id": OPERATION})
    record: dict[Any, Any] = {"total": 5, "completed": 1, "started_at": 1_000}
    docora.redis.hset(f"docora-ops:operation:{OPERATION}:record", mapping=record)
    docora.redis.expire(f"docora-ops:operation:{OPERATION}:record", 7 * 86_400)
    docora.add_deliveries(stale, 3)
    docora.age_links()
    return stale, other


def run(docora: Docora, link: TestLink, command: str, **environment: str) -> Result:
    names = {"APP": link.app_id, "REPO": link.repository_id, "HELD": HELD}
    words = (names.get(each, each) for each in command.split())
    return docora.run(*words, env=ONE_LOOK | environment)


def monitor(docora: Docora) -> dict[str, str]:
    """Environment of a command by the role and the user for monitoring."""
    urls = docora.database_access.monitor, docora.redis_access.monitor
    return dict(zip(("DATABASE_URL", "REDIS_URL"), urls, strict=True))


def is_refused(docora: Docora, command: str, **environment: str) -> bool:
    """Runs a command in a fresh world. A change that is refused changes no link."""
    stale, other = arrange(docora)
    docora.redis.script_flush()
    rows = docora.dump()[0]
    link = other if command.startswith("wait") else stale
    result = run(docora, link, command, **environment)
    said = result.stdout + result.stderr
    if "does not permit" not in said and "may not ask" not in said:
        return False
    assert "docora-ops help privileges" in said or "+info" in said, result
    assert "Traceback" not in said
    if command.startswith("retry APP"):
        assert docora.dump()[0] == rows
    return True


@pytest.mark.slow
def test_the_monitor_may_run_what_reads_and_is_refused_what_changes_something(
    docora: Docora,
) -> None:
    link, _ = arrange(docora)
    before = docora.dump()
    for command in READING:
        result = run(docora, link, command, **monitor(docora))
        assert result.code in {0, 6}, (command, result)
    for command in CHANGING:
        result = run(docora, link, command, **monitor(docora)).ended(5)
        assert re.search("permission denied|does not permit", result.stderr), result
    assert docora.dump() == before
    docora.redis.acl_log_reset()


def test_it_may_read_all_there_is_of_bullmq(bullmq: Bullmq, docora: Docora) -> None:
    link = docora.add_link()
    bullmq.delay(link)
    environment = bullmq.environment(**monitor(docora))
    for command in ("show APP REPO", "status", "queue", "metrics", "repair --dry-run"):
        result = run(docora, link, command, **environment)
        assert result.code in {0, 6}, (command, result)


@pytest.mark.usefixtures("subcommands")
@pytest.mark.matrix
@pytest.mark.parametrize(
    "user", ["docora-ops", pytest.param("docora-monitor", marks=pytest.mark.slow)]
)
def test_without_any_one_rule_a_command_is_refused(
    docora: Docora, user: str, subtests: pytest.Subtests
) -> None:
    commands: tuple[str, ...] = (*CHANGING, "doctor", "wait APP REPO --timeout 1", *READING)
    access = docora.redis_access
    name, environment = access.command_name, {"REDIS_URL": access.command}
    if user == "docora-monitor":
        commands, name, environment = READING, access.monitor_name, monitor(docora)
    for rule in rules(user):
        with subtests.test(rule=rule), without_rule(docora.redis, rule, user, name):
            changed = {"REDIS_URL": f"{environment['REDIS_URL']}?db=3"} if rule == "+select" else {}
            refused = any(is_refused(docora, each, **environment | changed) for each in commands)
            assert refused is (rule not in OPTIONAL[user])
    docora.redis.acl_log_reset()


MARKS = {"%R~docora-ops:holds", "~docora-ops:outcomes*"}


@pytest.mark.usefixtures("subcommands")
@pytest.mark.matrix
def test_without_any_one_rule_a_worker_does_not_start_and_nothing_is_lost(
    snapshots: Snapshots, docora: Docora, subtests: pytest.Subtests
) -> None:
    link, _ = snapshots.add_link({"a.txt": "a"})
    name = docora.redis_access.worker_name
    for rule in rules("docora-worker"):
        with subtests.test(rule=rule):
            with suppress(Exception):
                docora.job(link).delete()
            snapshots.queue(link)
            before = docora.row(link)
            with without_rule(docora.redis, rule, "docora-worker", name):
                result = docora.run("worker", "--burst", env=snapshots.environment())
            docora.redis.acl_log_reset()
            assert "Traceback" not in result.stderr
            # BullMQ's keys tell as much as the list of clients; RQ's own workers need the channels
            # and INFO; a worker that may not write the record of outcomes writes none, and one that
            # may not read holds obeys none.
            if rule in {"+client|list", "+info", "&rq:pubsub:*", "+@pubsub", *MARKS}:
                assert result.code == 0, result
                continue
            assert "does not permit" in result.stderr
            if rule == "~docora:repo-lock:*":  # only its jobs need that, and are tried again
                assert result.code == 0, result
                assert docora.job(link).get_status() is JobStatus.SCHEDULED
                assert "does not permit one of our keys" in docora.row(link)["last_error"]
                continue
            assert (result.code, "docora-ops help privileges" in result.stderr) == (5, True), result
            assert docora.row(link) == before
            assert docora.waiting() == [link.job_id]
