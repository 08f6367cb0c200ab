"""The users of the topic: each rule in Redis is needed, and who monitors changes nothing.

Users that an older topic created still do all that they did: nobody need change them first.
"""

import re
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from hashlib import sha1
from importlib.resources import files
from typing import Any

import pytest
import redis
from rq.job import JobStatus

from tests.support.bullmq import Bullmq
from tests.support.diagnoses import ONE_LOOK
from tests.support.docora import Docora, Result
from tests.support.privileges import (
    block,
    judges_subcommands,
    only_our_scripts,
    rules,
    with_rules,
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
    with only_our_scripts(docora.redis, docora.redis_access.monitor_name):
        for command in ("show APP REPO", "status", "queue", "metrics", "repair --dry-run"):
            result = run(docora, link, command, **environment)
            assert result.code in {0, 6}, (command, result)


def test_the_topic_names_each_script_of_a_command_that_reads() -> None:
    def sha(*names: str) -> str:
        folder = files("docora_ops.queue")
        text = "".join(folder.joinpath(name).read_text(encoding="utf-8") for name in names)
        return f"+evalsha|{sha1(text.encode(), usedforsecurity=False).hexdigest()}"

    assert block("ACL SETUSER docora-monitor -evalsha").split()[4:] == [
        sha("with_change.lua", "denials.lua", "judge.lua", "look_and_push.lua"),
        sha("denials.lua", "judge.lua", "sweep.lua"),
        sha("with_change.lua", "bullmq.lua"),
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("subcommands")
def test_the_narrower_user_runs_all_that_reads_and_no_other_script(docora: Docora) -> None:
    access, endless = docora.redis_access, "while true do end"
    link, _ = arrange(docora)

    def assert_all_run() -> None:
        for command in ("show APP REPO", "status", "repair --dry-run"):
            assert run(docora, link, command, **monitor(docora)).code == 0, command

    with (
        redis.Redis.from_url(access.monitor) as client,
        only_our_scripts(docora.redis, access.monitor_name),
    ):
        docora.redis.script_flush()
        assert_all_run()
        for call in (("EVALSHA", client.script_load(endless), 0), ("EVAL", endless, 0)):
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command(*call)
    with only_our_scripts(docora.redis, access.monitor_name, "-script|load"):
        docora.redis.script_flush()
        refused = run(docora, link, "status", **monitor(docora))
        assert (refused.code, "the command script|load" in refused.stderr) == (5, True)
        for load in ("status", "doctor"):
            docora.run(load)
        assert_all_run()
    docora.redis.acl_log_reset()


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


_READ = (
    "+select +client|setname +client|list +evalsha +script|load +time +scan +pttl +exists"
    " +smembers +hget +hgetall +hmget +llen +lrange +zrange +zscore +xrevrange +zcard +info"
)
_RECORD = "+ping +multi +exec +hset +hsetnx +expire +xadd +xlen +set +append +getrange"
_WRITE = "+sadd +del +persist +lrem +lset +lpush +rpush +zrem"
OLDER = {
    "docora-ops": "~rq:* ~docora:bulk:* ~docora-ops:* %R~bull:snapshot-queue:* resetchannels -@all"
    f" {_READ} +lpos +get +zcount {_RECORD} {_WRITE}",
    "docora-worker": "~rq:* ~docora:repo-lock:* %R~bull:snapshot-queue:* resetchannels"
    " &rq:pubsub:* -@all +@read +@write +@connection +@pubsub +@transaction +@scripting"
    " -@dangerous +info +time +client|list",
}
"""The rules of the users before releases changed them, without their passwords."""


@pytest.fixture
def older(docora: Docora) -> Iterator[None]:
    access = docora.redis_access
    names = (access.command_name, access.worker_name)
    with ExitStack() as stack:
        for (user, line), name in zip(OLDER.items(), names, strict=True):
            stack.enter_context(with_rules(docora.redis, user, name, f"resetkeys {line}"))
        yield
    docora.redis.acl_log_reset()  # what they lack is asked for in vain


@pytest.mark.slow
@pytest.mark.usefixtures("older")
def test_older_users_change_what_they_did(docora: Docora) -> None:
    """Who may not release an app can't hold one either."""
    for command in CHANGING:
        link, _ = arrange(docora)
        result = run(docora, link, command)
        if command.startswith(("hold ", "release ")):
            assert (result.code, "hdel" in result.stderr) == (5, True), result
        else:
            assert result.code in {0, 6}, (command, result)


@pytest.mark.usefixtures("older")
def test_a_worker_with_an_older_user_runs_jobs_as_before(snapshots: Snapshots) -> None:
    link, _ = snapshots.add_queued({"a.txt": "a"})
    result = snapshots.work()
    assert (result.code, snapshots.docora.status(link)) == (0, "synced"), result
    assert "no outcome is recorded: " in result.stderr
    assert snapshots.docora.redis.keys("docora-ops:outcomes*") == []
