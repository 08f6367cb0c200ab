"""The role and the user for monitoring run every command that only reads, and change nothing."""

import re
from hashlib import sha1
from importlib.resources import files
from typing import Any

import psycopg
import pytest
import redis
from rq.job import JobStatus

from tests.support.diagnoses import ONE_LOOK, check
from tests.support.docora import Docora, Result
from tests.support.privileges import (
    block,
    grants,
    only_our_scripts,
    rules,
    without_grant,
    without_rule,
)

OPERATION = "bulk_0123456789abcdef"
SHOW = ("show", "APP", "REPO")
DOCTOR = ("doctor", "--read-only", "--json")
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
            if rule in {"+client|list", "+hget"}:  # without the first, no BullMQ worker is seen
                assert all(world.run(each).code != 5 for each in READING)
            elif rule == "+info":
                assert "may not ask how it is" in world.check("redis")["finding"]
            else:
                assert any(world.run(each, **environment).code == 5 for each in READING)
    world.forget_denials()


def test_the_role_reads_neither_tokens_nor_keys_and_show_says_so(world: World) -> None:
    monitor = world.docora.database_access.monitor
    for column, table in (
        ("github_token_encrypted", "app_repositories"),
        ("client_auth_key_encrypted", "apps"),
    ):
        with (
            psycopg.connect(monitor) as connection,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            connection.execute(f"SELECT {column} IS NOT NULL FROM {table}".encode())
    assert world.run((*SHOW, "--json")).data["has_token"] is None
    assert "Token\tnot known: our role " in world.run(SHOW).stdout
    for url in (world.docora.database_access.command, world.docora.database_access.owner):
        assert world.run((*SHOW, "--json"), DATABASE_URL=url).data["has_token"] is True


def test_a_refused_change_of_one_link_reads_no_secret_either(world: World) -> None:
    docora = world.docora
    docora.set_link(world.link, status="synced")
    for column in ("github_token_encrypted", "last_error"):
        grant = f"SELECT ({column}) ON app_repositories"
        docora.connection.execute(f"REVOKE {grant} FROM {docora.role}".encode())
        result = docora.run("retry", *world.link.ids)
        assert result.code == (4 if column == "github_token_encrypted" else 5), result


# What the topic says that monitoring can do all the same


def test_the_topic_names_each_script_of_a_command_that_reads() -> None:
    def text(*names: str) -> str:
        folder = files("docora_ops.queue")
        return "".join(folder.joinpath(name).read_text(encoding="utf-8") for name in names)

    scripts = (
        text("judge.lua", "look_and_push.lua"),
        text("judge.lua", "sweep.lua"),
        text("bullmq.lua"),
    )
    shas = [
        f"+evalsha|{sha1(script.encode(), usedforsecurity=False).hexdigest()}" for script in scripts
    ]
    assert block("ACL SETUSER docora-monitor -evalsha").split()[4:] == shas


def test_the_narrower_user_runs_every_command_that_reads_and_no_other_script(world: World) -> None:
    docora, access = world.docora, world.docora.redis_access
    reading = (*READING, (*DOCTOR, "--read-only"))
    endless = "while true do end"
    with (
        redis.Redis.from_url(access.monitor) as monitor,
        only_our_scripts(docora.redis, access.monitor_name),
    ):
        docora.redis.script_flush()
        assert [world.run(each).code for each in reading] == [
            6 if each[0] == "doctor" else 0 for each in reading
        ]
        for command in (("EVALSHA", monitor.script_load(endless), 0), ("EVAL", endless, 0)):
            with pytest.raises(redis.exceptions.NoPermissionError):
                monitor.execute_command(*command)
    with only_our_scripts(docora.redis, access.monitor_name, "-script|load"):
        docora.redis.script_flush()
        refused = world.run(("status",))
        assert (refused.code, "the command script|load" in refused.stderr) == (5, True)
        for load in (("status",), ("doctor",)):
            docora.run(*load)
        assert [world.run(each).code for each in reading] == [
            6 if each[0] == "doctor" else 0 for each in reading
        ]
    world.forget_denials()
