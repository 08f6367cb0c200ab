"""Each rule of the topic for a user of Redis is needed; the suite runs with all of them."""

from contextlib import suppress

import pytest
from rq.job import JobStatus

from tests.support.diagnoses import ONE_LOOK
from tests.support.docora import Docora
from tests.support.privileges import rules, without_rule
from tests.support.rows import TestLink
from tests.support.snapshots import Snapshots

OPERATION = "bulk_0123456789abcdef"
READING = (
    *("show APP REPO", "doctor --read-only", "queue", "status", "metrics", "operations"),
    *(f"progress {OPERATION}", "history", "retry APP REPO --dry-run", "schedule --dry-run"),
    "repair --dry-run",
)
CHANGING = (
    *("doctor", "retry APP REPO", "retry APP REPO --front", "retry-all-failed --yes"),
    *("repair --yes", "schedule", "wait OTHER --timeout 1", f"cancel {OPERATION}", "pause"),
)
OPTIONAL = {"+client|list", "+hget"}
"""Without the one, workers of BullMQ are not seen; the other is needed to read BullMQ's queue."""


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
    docora.redis.set("rq:scheduler-lock:snapshot-queue", "scheduler")
    docora.redis.hset(f"docora:bulk:{OPERATION}", items=["total", 5, "completed", 1])
    docora.redis.expire(f"docora:bulk:{OPERATION}", 3000)
    docora.age_links()
    return stale, other


def is_refused(docora: Docora, command: str, **environment: str) -> bool:
    """Runs a command in a fresh world. A change that is refused changes no link."""
    stale, other = arrange(docora)
    docora.redis.script_flush()
    names = {"APP": stale.app_id, "REPO": stale.repository_id}
    words = [names.get(word, word) for word in command.split()]
    if "OTHER" in words:
        words[1:2] = other.ids
    rows = docora.dump()[0]
    result = docora.run(*words, env=ONE_LOOK | environment)
    said = result.stdout + result.stderr
    if "does not permit" not in said and "may not ask" not in said:
        return False
    assert "docora-ops help privileges" in said or "+info" in said, result
    assert "Traceback" not in said
    if command.startswith("retry APP"):
        assert docora.dump()[0] == rows
    return True


@pytest.mark.matrix
@pytest.mark.parametrize("user", ["docora-ops", "docora-monitor"])
def test_without_any_one_rule_a_command_is_refused(
    docora: Docora, user: str, subtests: pytest.Subtests
) -> None:
    commands: tuple[str, ...] = (*CHANGING, *READING)
    access = docora.redis_access
    name, environment = access.command_name, {"REDIS_URL": access.command}
    if user == "docora-monitor":
        commands, name = READING, access.monitor_name
        environment = {
            "REDIS_URL": access.monitor,
            "DATABASE_URL": docora.database_access.monitor,
        }
    for rule in rules(user):
        with subtests.test(rule=rule), without_rule(docora.redis, rule, user, name):
            changed = {"REDIS_URL": f"{environment['REDIS_URL']}?db=3"} if rule == "+select" else {}
            refused = any(is_refused(docora, each, **environment | changed) for each in commands)
            assert refused is (rule not in OPTIONAL)
    docora.redis.acl_log_reset()


@pytest.mark.matrix
def test_without_any_one_rule_a_worker_does_not_start_and_nothing_is_lost(
    snapshots: Snapshots, subtests: pytest.Subtests
) -> None:
    docora = snapshots.docora
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
            # BullMQ's keys tell as much as the list of clients; RQ's own workers need the channels.
            if rule in {"+client|list", "&rq:pubsub:*", "+@pubsub"}:
                assert result.code == 0, result
                continue
            assert "does not permit" in result.stderr
            if rule == "~docora:repo-lock:*":  # only its jobs need that, and are tried again
                assert result.code == 0, result
                assert docora.job(link).get_status() is JobStatus.SCHEDULED
                assert "does not permit one of our keys" in docora.row(link)["last_error"]
                continue
            assert result.code == 5, result
            assert "docora-ops help privileges" in result.stderr
            assert docora.row(link) == before
            assert docora.waiting() == [link.job_id]
