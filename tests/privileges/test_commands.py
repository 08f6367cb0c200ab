"""Each privilege of the role and the user for commands is needed; the suite runs with them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from rq.job import JobStatus

from docora_ops.actions.diagnose import check_privileges
from docora_ops.database.postgres_server import TABLES, read_role
from docora_ops.diagnosis import CheckState
from docora_ops.errors import RedisError
from docora_ops.jobs import Backend
from docora_ops.queue.redis_server import QueueInspector
from tests.support.diagnoses import ONE_LOOK, check
from tests.support.docora import Docora, Result
from tests.support.privileges import Grant, grants, rules, without_grant
from tests.support.rows import TestLink

OPERATION = "bulk_0123456789abcdef"

RETRY = ("retry", "APP", "REPO")
RESYNC = ("resync", "APP", "REPO")
SHOW = ("show", "APP", "REPO")
CLOSE = ("retry", "APP", "REPO", "--reset-circuit")
RETRY_ALL = ("retry-all-failed",)
DOCTOR = ("doctor", "--json")


def columns(privilege: str, table: str, *names: str) -> list[Grant]:
    return [Grant(privilege, table, name) for name in names]


NEED_GRANT = {
    RETRY: [
        *columns("SELECT", "apps", "app_id", "app_name", "base_url", "client_auth_key_encrypted"),
        *columns("SELECT", "repositories", "repository_id", "github_url", "owner", "name"),
        *columns("SELECT", "app_repositories", "id", "app_id", "repository_id"),
        *columns("SELECT", "app_repositories", "github_token_encrypted", "status"),
        *columns("SELECT", "app_repositories", "retry_count", "last_error"),
        *columns("UPDATE", "app_repositories", "status", "retry_count", "last_error"),
    ],
    CLOSE: columns(
        "UPDATE", "repositories", "consecutive_failures", "circuit_open_until", "updated_at"
    ),
    ("failed",): [
        *columns("SELECT", "repositories", "circuit_open_until"),
        *columns("SELECT", "app_repositories", "created_at"),
    ],
    ("schedule",): columns("SELECT", "app_repositories", "last_scanned_at"),
    RESYNC: [
        *columns("SELECT", "app_delivered_files", "app_id", "repository_id"),
        Grant("DELETE", "app_delivered_files", None),
    ],
    (*RESYNC, "--update"): columns("UPDATE", "app_delivered_files", "file_sha"),
    SHOW: [
        *columns("SELECT", "repositories", "consecutive_failures"),
        *columns("SELECT", "app_delivered_files", "delivered_at"),
        *columns("SELECT", "repository_snapshots", "id", "repository_id", "commit_sha"),
        *columns("SELECT", "repository_snapshots", "branch", "scanned_at"),
        *columns("SELECT", "snapshot_files", "snapshot_id"),
    ],
}
"""A command that can't do without, for each grant."""

NEED_RULE = {
    RETRY: (
        *("~rq:*", "~docora-ops:*", "%R~bull:snapshot-queue:*", "+client|setname", "+select"),
        *("+evalsha", "+script|load", "+time", "+pttl", "+exists", "+smembers", "+sadd", "+hmget"),
        *("+hset", "+del", "+persist", "+llen", "+lpos", "+lrem", "+lpush", "+rpush", "+zrange"),
        *("+zscore", "+zrem", "+xadd", "+xlen"),
        *("+append", "+expire", "+getrange"),
    ),
    RETRY_ALL: ("+hsetnx",),
    ("progress", OPERATION): ("~docora:bulk:*", "+hgetall"),
    ("operations",): ("+scan",),
    ("queue",): ("+lrange", "+get", "+zcard", "+zcount"),
    ("history",): ("+xrevrange",),
    ("repair",): ("+lset",),
    ("pause",): ("+set", "+exec"),
    DOCTOR: ("+ping", "+lindex", "+hget", "+info"),
}
"""The same, for each command and pattern of keys in Redis."""
OPTIONAL = {"+client|list", "+multi"}
"""Without the first, workers of BullMQ are seen by their locks. Without the second, Redis runs the
commands of a transaction one by one, and the error comes afterwards."""
ONLY_SHOWS = {"+hgetall", "+scan", "+zcard", "+zcount", "+xrevrange"}
"""What none but a command that shows something needs: doctor does not ask for it."""


@dataclass(frozen=True)
class World:
    """A Docora in which each command has something to do."""

    docora: Docora
    link: TestLink
    """Failed, its circuit open, over a stale job."""

    def run(self, arguments: tuple[str, ...], **environment: str) -> Result:
        names = {"APP": self.link.app_id, "REPO": self.link.repository_id}
        return self.docora.run(
            *(names.get(argument, argument) for argument in arguments), env=ONE_LOOK | environment
        )

    def dump(self) -> Any:
        return self.docora.dump()


@pytest.fixture
def world(docora: Docora) -> World:
    link, twice = docora.add_link(), docora.add_link("pending_snapshot")
    synced = docora.add_link("synced")
    docora.enqueue(synced.job_id).set_status(JobStatus.FAILED)  # whose place is looked at again
    docora.add_deliveries(link, 3)
    docora.leave_job(link.job_id, JobStatus.FAILED)
    docora.queue_job(twice)
    docora.redis.rpush(docora.queue.key, twice.job_id)
    docora.redis.set("rq:scheduler-lock:snapshot-queue", "scheduler")
    docora.redis.hset(f"docora:bulk:{OPERATION}", items=["total", 5, "completed", 1])
    docora.redis.expire(f"docora:bulk:{OPERATION}", 3000)
    docora.age_links()
    docora.connection.execute(
        "UPDATE repositories SET consecutive_failures = 5,"
        " circuit_open_until = now() + interval '1 hour'"
    )
    docora.connection.execute(
        "INSERT INTO repository_snapshots (repository_id, commit_sha, branch)"
        " SELECT repository_id, 'c0ffee', 'main' FROM repositories"
    )
    return World(docora, link)


def was_refused(result: Result, sentence: str) -> None:
    """With a sentence that says what is not permitted, and where one finds what should be."""
    assert result.code == 5, result
    assert "Traceback" not in result.stderr
    assert re.search(rf"^Error: .*{re.escape(sentence)}", result.stderr, re.MULTILINE), result
    assert "docora-ops help privileges" in result.stderr


def each_need(needs: dict[tuple[str, ...], Any]) -> Iterator[tuple[Any, tuple[str, ...]]]:
    for command, needed in needs.items():
        for each in needed:
            yield each, command


@pytest.mark.matrix
def test_without_any_one_grant_a_command_is_refused_and_doctor_says_what_to_grant(
    world: World, subtests: pytest.Subtests
) -> None:
    docora, database = world.docora, world.docora.actions().database
    assert {grant for grant, _ in each_need(NEED_GRANT)} == set(grants("docora_ops"))
    before = world.dump()
    for grant, command in each_need(NEED_GRANT):
        with subtests.test(grant=str(grant)), without_grant(docora.connection, grant, docora.role):
            was_refused(world.run(command), f"permission denied for table {grant.table}")
            assert world.dump() == before
            found = check_privileges(read_role(database, TABLES))
            assert found.state is not CheckState.OK
            assert grant.table in found.finding
            granted = f"{grant}".replace(" ON ", " ON public.")
            assert found.hint == f"GRANT {granted} TO {docora.role};"
    assert check_privileges(read_role(database, TABLES)).state is CheckState.OK


def test_without_the_schema_a_command_is_refused_and_doctor_says_what_to_grant(
    world: World,
) -> None:
    world.docora.connection.execute(
        f"REVOKE USAGE ON SCHEMA public FROM {world.docora.role}".encode()
    )
    before = world.dump()
    was_refused(world.run(RETRY), "permission denied for schema public")
    assert world.dump() == before
    doctor = world.run(DOCTOR)
    tables = check(doctor, "tables")
    assert (doctor.code, tables["state"]) == (6, "critical")
    assert "GRANT USAGE ON SCHEMA public" in tables["hint"]


@pytest.mark.matrix
def test_without_any_one_command_or_key_of_redis_a_command_is_refused(
    world: World, subtests: pytest.Subtests
) -> None:
    docora = world.docora
    all_rules = rules("docora-ops")
    keys = [rule for rule in all_rules if rule[0] != "+"]
    assert {rule for rule, _ in each_need(NEED_RULE)} == set(all_rules) - OPTIONAL
    for rule, command in each_need(NEED_RULE):
        what, changed = f"the command {rule[1:]}", [f"-{rule[1:]}"]
        if rule in keys:
            what, changed = (
                "one of our keys or channels",
                ["resetkeys", *(key for key in keys if key != rule)],
            )
        environment = {"REDIS_URL": f"{docora.redis_url}?db=3"} if rule == "+select" else {}
        with subtests.test(rule=rule):
            before = world.dump()
            docora.redis.script_flush()
            set_user(docora, *changed)
            try:
                result = world.run(command, **environment)
                told = what_doctor_is_told(docora)
            finally:
                set_user(docora, "resetkeys", *all_rules)
                docora.redis.acl_log_reset()
            assert world.dump() == before
            sentence = f"does not permit {what} to our user"
            if rule == "+info":
                assert (result.code, check(result, "redis")["state"]) == (6, "warning")
            elif command == DOCTOR:
                assert result.code == 5, result
                assert sentence in check(result, "redis")["finding"]
            else:
                was_refused(result, sentence)
                assert (sentence in told) == (rule not in ONLY_SHOWS | {"+select"})


def what_doctor_is_told(docora: Docora) -> str:
    """The error, if any, that its look at Redis ends with."""
    actions = docora.actions()
    inspector = QueueInspector(actions.redis, Backend.RQ)
    try:
        inspector.connect()
        actions.queue.health()
        actions.drift()
    except RedisError as error:
        return error.message
    return ""


def set_user(docora: Docora, *changed: str) -> None:
    docora.redis.execute_command("ACL", "SETUSER", docora.redis_access.command_name, *changed)  # type: ignore[no-untyped-call]


def test_what_only_reading_commands_read_the_others_do_without(docora: Docora) -> None:
    link = docora.add_link()
    for revoked in (
        "SELECT (last_scanned_at, created_at) ON app_repositories",
        "SELECT (consecutive_failures) ON repositories",
        "SELECT (delivered_at) ON app_delivered_files",
        "ALL ON repository_snapshots",
        "ALL ON snapshot_files",
    ):
        docora.connection.execute(f"REVOKE {revoked} FROM {docora.role}".encode())
    for arguments in (
        ("retry", *link.ids),
        ("retry-all-failed",),
        ("resync", *link.ids),
        ("resync", link.app_id, "--all", "--yes"),
    ):
        result = docora.run(*arguments)
        assert result.code == 0, (arguments, result)
