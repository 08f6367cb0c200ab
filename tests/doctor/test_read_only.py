"""`docora-ops doctor --read-only`: a role and a user that may only read are as wanted."""

from __future__ import annotations

import pytest
import redis
from redis.utils import str_if_bytes

from docora_ops.jobs import Backend
from docora_ops.queue.redis_server import QueueInspector
from tests.support.diagnoses import ONE_LOOK, check, make_healthy, not_ok
from tests.support.docora import Docora, Result
from tests.support.own_servers import OwnRedis


def monitor(docora: Docora, **environment: str) -> Result:
    urls = {
        "DATABASE_URL": docora.database_access.monitor,
        "REDIS_URL": docora.redis_access.monitor,
    }
    return docora.run("doctor", "--read-only", "--json", env=ONE_LOOK | urls | environment)


def test_all_is_well_for_the_role_and_the_user_for_monitoring(docora: Docora) -> None:
    """The fixture checks that Redis has refused them nothing."""
    make_healthy(docora)
    before = docora.dump()
    result = monitor(docora)
    assert docora.dump() == before
    assert (result.code, result.stderr, not_ok(result)) == (0, "All is well.\n", {}), result
    for name in ("privileges", "redis"):
        assert check(result, name)["finding"].endswith(", as wanted")


def test_who_may_change_something_is_warned_and_nothing_is_tried(docora: Docora) -> None:
    make_healthy(docora)
    before = docora.dump()
    for database, queue, power in (
        (docora.database_access.command, docora.redis_access.command, "UPDATE on app_repositories"),
        (docora.database_access.worker, docora.redis_access.owner, "INSERT on snapshot_files"),
        (docora.database_access.owner, docora.redis_access.owner, ""),
    ):
        result = monitor(docora, DATABASE_URL=database, REDIS_URL=queue)
        assert (result.code, not_ok(result)) == (
            0,
            {"privileges": "warning", "redis": "warning"},
        ), result
        for name, whom in (("privileges", "role docora_monitor"), ("redis", "user docora-monitor")):
            found = check(result, name)
            assert "may do more than read: " in found["finding"]
            assert found["hint"] == f"use the {whom} of docora-ops help privileges"
        assert power in check(result, "privileges")["finding"]
    assert docora.dump() == before


@pytest.mark.parametrize(
    ("rules", "command"),
    [
        ("+flushdb", "FLUSHDB"),
        ("%W~rq:queue:snapshot-queue +rpush", "RPUSH"),
        ("~rq:job:* +restore", "RESTORE"),
        ("~docora:bulk:* +hset", "HSET"),
        ("~docora-ops:* +xtrim", "XTRIM"),
        ("~bull:* +getdel", "GETDEL"),
    ],
)
def test_one_permission_too_many_in_redis_is_named(
    spoiled: Docora, own: OwnRedis, rules: str, command: str
) -> None:
    name = spoiled.redis_access.monitor_name
    own.client.execute_command("ACL", "SETUSER", name, *rules.split())  # type: ignore[no-untyped-call]
    found = check(monitor(spoiled), "redis")
    assert found["state"] == "warning"
    assert found["finding"].endswith(f"may do more than read: {command}")
    assert own.client.acl_log() == []


def test_each_command_that_writes_is_found_in_redis(spoiled: Docora, own: OwnRedis) -> None:
    client, name = own.client, spoiled.redis_access.monitor_name
    monitor_client = redis.Redis.from_url(spoiled.redis_access.monitor)
    inspector = QueueInspector(spoiled.settings, monitor_client, Backend.RQ)
    assert inspector.permitted_write() == ""
    client.execute_command("ACL", "SETUSER", name, "~*")  # type: ignore[no-untyped-call]
    for command in map(str_if_bytes, client.acl_cat("write")):
        client.execute_command("ACL", "SETUSER", name, f"+{command}")  # type: ignore[no-untyped-call]
        assert inspector.permitted_write() == command.partition("|")[0].upper()
        client.execute_command("ACL", "SETUSER", name, f"-{command}")  # type: ignore[no-untyped-call]


def test_a_role_that_may_not_read_all_gets_the_grants_to_read_only(docora: Docora) -> None:
    role = docora.database_access.command_name
    docora.connection.execute(
        f"REVOKE SELECT (status), UPDATE (status) ON app_repositories FROM {role}".encode()
    )
    found = check(monitor(docora, DATABASE_URL=docora.database_access.command), "privileges")
    assert found["state"] == "critical"
    assert found["hint"] == f"GRANT SELECT (status) ON public.app_repositories TO {role};"


def test_transactions_that_are_read_only_are_as_wanted(docora: Docora) -> None:
    url = docora.database_access.monitor
    options = f"{'&' if '?' in url else '?'}options=-c%20default_transaction_read_only%3Don"
    result = monitor(docora, DATABASE_URL=url + options)
    assert check(result, "postgres_primary")["state"] == "ok", result
