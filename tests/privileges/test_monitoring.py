"""The role and the user for monitoring run every command that only reads, and change nothing."""

import re
from dataclasses import replace
from typing import Any

import pytest
from rq.job import JobStatus

from tests.support.diagnoses import ONE_LOOK, check, examine, not_ok, states
from tests.support.docora import Docora, Result
from tests.support.privileges import grants, rules, without_grant, without_rule

OPERATION = "bulk_0123456789abcdef"
SHOW = ("show", "APP", "REPO")
DOCTOR = ("doctor", "--json")
READING = (
    ("failed",),
    ("failed", "--group-by", "error"),
    ("links", "--circuit", "open", "--group-by", "repository"),
    ("apps",),
    SHOW,
    ("queue",),
    DOCTOR,
    ("metrics", "--by-app"),
    ("operations",),
    ("progress", OPERATION),
    ("history",),
    ("retry", "APP", "REPO", "--dry-run"),
    ("retry-all-failed", "--dry-run"),
    ("resync", "APP", "REPO", "--dry-run"),
    ("resync", "APP", "--all", "--dry-run"),
    ("schedule", "--dry-run"),
    ("repair", "--dry-run"),
)
CHANGING = (
    ("retry", "APP", "REPO"),
    ("retry-all-failed", "--yes"),
    ("resync", "APP", "REPO", "--yes"),
    ("schedule",),
    ("cancel", OPERATION),
    ("pause",),
)


class World:
    """A Docora where every command finds something, and a monitor that looks at it."""

    def __init__(self, docora: Docora) -> None:
        self.docora = docora
        self.link = docora.add_link()
        docora.add_deliveries(self.link, 3)
        docora.leave_job(self.link.job_id, JobStatus.FAILED)
        docora.queue_job(docora.add_link("pending_snapshot"))
        docora.add_link("pending_snapshot")
        # Its place in the list is looked at again.
        docora.enqueue(docora.add_link("synced").job_id).set_status(JobStatus.FAILED)
        docora.age_links()
        docora.add_worker()
        docora.redis.hset(f"docora:bulk:{OPERATION}", items=["total", 5, "completed", 1])
        docora.redis.set("rq:scheduler-lock:snapshot-queue", "scheduler")

    def run(self, arguments: tuple[str, ...], **environment: str) -> Result:
        names = {"APP": self.link.app_id, "REPO": self.link.repository_id}
        monitor = {
            "DATABASE_URL": self.docora.database_access.monitor,
            "REDIS_URL": self.docora.redis_access.monitor,
            **ONE_LOOK,
        }
        return self.docora.run(
            *(names.get(argument, argument) for argument in arguments), env=monitor | environment
        )

    def check(self, name: str) -> Any:
        """Returns one check of doctor."""
        return check(self.run(DOCTOR), name)

    def forget_denials(self) -> None:
        self.docora.redis.acl_log_reset()


@pytest.fixture
def world(docora: Docora) -> World:
    return World(docora)


def test_every_command_that_reads_runs_and_changes_nothing(world: World) -> None:
    before = world.docora.dump()
    for arguments in READING:
        result = world.run(arguments)
        # doctor and repair have found the link without a job.
        assert result.code == (6 if arguments == DOCTOR else 0), (arguments, result)
    assert world.docora.dump() == before
    world.forget_denials()


def test_every_command_that_changes_something_is_refused(world: World) -> None:
    before = world.docora.dump()
    for arguments in CHANGING:
        result = world.run(arguments)
        assert result.code == 5, (arguments, result)
        assert re.search("permission denied|does not permit", result.stderr), result
    assert world.docora.dump() == before
    world.forget_denials()


def test_each_server_refuses_changes_by_itself(world: World) -> None:
    before = world.docora.dump()
    for name, url in (
        ("DATABASE_URL", world.docora.database_access.command),
        ("REDIS_URL", world.docora.redis_access.command),
    ):
        assert world.run(("retry", "APP", "REPO"), **{name: url}).code == 5
        assert world.docora.dump() == before
    world.forget_denials()


def test_doctor_warns_that_both_may_only_read_and_fails_for_nothing_else(world: World) -> None:
    world.docora.connection.execute("UPDATE app_repositories SET status = 'synced'")
    world.docora.redis.flushdb()
    world.docora.add_worker()
    result = world.run(DOCTOR)
    assert result.code == 0, result
    assert not_ok(result) == dict.fromkeys(["privileges", "redis"], "warning")
    for name in ("privileges", "redis"):
        found = check(result, name)
        assert "may only read" in found["finding"]
        assert "docora-ops help privileges" in found["hint"]
    world.forget_denials()


@pytest.mark.matrix
def test_without_any_one_grant_a_command_is_refused_and_doctor_says_what_to_grant(
    world: World, subtests: pytest.Subtests
) -> None:
    connection = world.docora.connection
    role = world.docora.database_access.monitor_name
    for grant in grants("docora_monitor"):
        with subtests.test(grant=str(grant)), without_grant(connection, grant, role):
            assert any(world.run(each).code == 5 for each in (SHOW, ("schedule", "--dry-run")))
            found = world.check("privileges")
            granted = f"{grant}".replace(" ON ", " ON public.")
            assert found["hint"] == f"GRANT {granted} TO {role};"
    world.forget_denials()


@pytest.mark.matrix
def test_without_any_one_rule_of_redis_a_command_is_refused(
    world: World, subtests: pytest.Subtests
) -> None:
    docora = world.docora
    name = docora.redis_access.monitor_name
    for rule in rules("docora-monitor"):
        with subtests.test(rule=rule), without_rule(docora.redis, rule, "docora-monitor", name):
            environment = {}
            if rule == "+select":
                environment["REDIS_URL"] = f"{docora.redis_access.monitor}?db=3"
            docora.redis.script_flush()
            if rule == "+client|list":  # without it, workers of BullMQ are seen by their locks
                assert all(world.run(each).code != 5 for each in READING)
            elif rule == "+info":
                assert "may not ask how it is" in world.check("redis")["finding"]
            else:
                assert any(world.run(each, **environment).code == 5 for each in READING)
    world.forget_denials()


def test_the_role_for_commands_is_not_taken_for_one_that_only_reads(world: World) -> None:
    docora = world.docora
    owner = replace(docora)
    found = states(examine(owner))
    assert (found["privileges"], found["redis"]) == ("ok", "ok")
    owner.close()
