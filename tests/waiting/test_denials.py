"""What a server denies for good ends a wait and a watch; an outage does not."""

from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.docora import Docora, Result, finish
from tests.support.other_worker import other_worker
from tests.support.own_servers import OwnRedis
from tests.support.privileges import without_rule
from tests.support.running_commands import await_line

QUICK = {"DOCORA_OPS_DRIFT_GRACE": "0", "DOCORA_OPS_CONNECT_TIMEOUT": "1"}


@contextmanager
def denied(docora: Docora, rule: str) -> Iterator[None]:
    """Commands have no such rule in Redis."""
    with without_rule(docora.redis, rule, "docora-ops", docora.redis_access.command_name):
        yield
    docora.redis.acl_log_reset()


def ends_with(result: Result, *sentences: str) -> None:
    assert result.code == 5, result
    assert all(sentence in result.stderr for sentence in sentences), result


def test_a_missing_privilege_of_redis_ends_a_wait_and_is_named(docora: Docora) -> None:
    docora.add_link()
    operation_id = docora.run("retry-all-failed", "--json").data["operation_id"]
    with denied(docora, "+getrange"):
        result = docora.run("wait", operation_id, "--timeout", "20", "--json", env=QUICK)
    ends_with(result, "does not permit the command getrange", "docora-ops help privileges")
    assert result.json["code"] == "redis"
    assert result.data["waited"]["unfinished"] == 0


def test_a_password_that_is_changed_meanwhile_ends_a_wait(docora: Docora, own: OwnRedis) -> None:
    docora.add_link()
    env = {**QUICK, "REDIS_URL": own.url}
    operation_id = docora.run("retry-all-failed", "--json", env=env).data["operation_id"]
    process = docora.start("wait", operation_id, env=env)
    await_line(process, "Waiting for the snapshot")
    name = own.access.command_name
    own.client.execute_command("ACL", "SETUSER", name, "resetpass", ">new")  # type: ignore[no-untyped-call]
    own.client.execute_command("CLIENT", "KILL", "USER", name)  # type: ignore[no-untyped-call]
    ends_with(finish(process), "refuses our user or password", "check the credentials")


def test_a_replica_that_takes_no_writes_does_not_end_a_wait(docora: Docora, own: OwnRedis) -> None:
    link = docora.add_link()
    env = {**QUICK, "REDIS_URL": own.url}
    operation_id = docora.run("retry-all-failed", "--json", env=env).data["operation_id"]
    own.become_replica()
    process = docora.start("wait", operation_id, "--json", env=env)
    await_line(process, "read-only replica; the wait goes on")
    own.recover()
    docora.connection.execute("UPDATE app_repositories SET status = 'synced'")
    own.client.delete(f"rq:job:{link.job_id}")  # it is a result once Redis has no job
    result = finish(process)
    assert (result.code, result.data["waited"]["synced"]) == (0, 1), result


def test_results_that_can_not_be_kept_are_told(docora: Docora) -> None:
    docora.add_link()
    process = docora.start("retry-all-failed", "--wait", "--json", env=QUICK)
    await_line(process, "Waiting for ")
    with denied(docora, "+xadd"), other_worker(docora):
        result = finish(process).ended(0)
    assert "Warning: the results are not kept with the operation: Redis at" in result.stderr
    assert result.data["waited"]["synced"] == 1
