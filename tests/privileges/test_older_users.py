"""Users that an older topic created still do all that they did: nobody need change them first."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.privileges.test_users import CHANGING, READING, arrange, monitor, run
from tests.support.bullmq import Bullmq
from tests.support.diagnoses import examine
from tests.support.docora import Docora
from tests.support.privileges import rules, with_rules
from tests.support.snapshots import Snapshots

_READ = (
    "+select +client|setname +client|list +evalsha +script|load +time +scan +pttl +exists"
    " +smembers +hget +hgetall +hmget +llen +lrange +zrange +zscore +xrevrange +zcard +info"
)
_RECORD = "+ping +multi +exec +hset +hsetnx +expire +xadd +xlen +set +append +getrange"
_WRITE = "+sadd +del +persist +lrem +lset +lpush +rpush +zrem"
OLDER = {
    "docora-ops": "~rq:* ~docora:bulk:* ~docora-ops:* %R~bull:snapshot-queue:* resetchannels -@all"
    f" {_READ} +lpos +get +zcount {_RECORD} {_WRITE}",
    "docora-bullmq": "~docora:bulk:* ~docora-ops:* %R~bull:snapshot-queue:* %R~rq:*:snapshot-queue"
    " %R~rq:queue:snapshot-queue:intermediate %R~rq:worker:* resetchannels -@all"
    f" {_READ} {_RECORD}",
    "docora-worker": "~rq:* ~docora:repo-lock:* %R~bull:snapshot-queue:* resetchannels"
    " &rq:pubsub:* -@all +@read +@write +@connection +@pubsub +@transaction +@scripting"
    " -@dangerous +info +time +client|list",
    "docora-monitor": "%R~rq:* %R~docora:bulk:* %R~docora-ops:* %R~bull:snapshot-queue:*"
    f" resetchannels -@all {_READ} +lpos +get +zcount",
}
"""The rules of the users before releases changed them, without their passwords."""


@pytest.fixture(autouse=True)
def older(docora: Docora) -> Iterator[None]:
    access = docora.redis_access
    names = (access.command_name, access.bullmq_name, access.worker_name, access.monitor_name)
    with ExitStack() as stack:
        for (user, line), name in zip(OLDER.items(), names, strict=True):
            stack.enter_context(with_rules(docora.redis, user, name, line))
        yield
    docora.redis.acl_log_reset()  # what they lack is asked for in vain


@pytest.mark.parametrize("command", CHANGING)
def test_commands_change_what_they_did(docora: Docora, command: str) -> None:
    """Who may not release an app can't hold one either."""
    link, _ = arrange(docora)
    result = run(docora, link, command)
    if command.startswith(("hold ", "release ")):
        assert (result.code, "hdel" in result.stderr) == (5, True), result
    else:
        assert result.code in {0, 6}, result


def test_doctor_says_what_is_not_available(docora: Docora) -> None:
    arrange(docora)
    missing = set(rules("docora-ops")) - set(OLDER["docora-ops"].split())
    said = examine(docora).stdout
    assert ("docora-ops help privileges" in said) is bool(missing)


@pytest.mark.slow
def test_monitoring_reads_what_it_did(docora: Docora) -> None:
    link, _ = arrange(docora)
    for command in READING:
        result = run(docora, link, command, **monitor(docora))
        assert result.code in {0, 6}, (command, result)


def test_beside_bullmq_as_before(bullmq: Bullmq) -> None:
    link = bullmq.docora.add_link()
    for command in ("retry APP REPO", "show APP REPO", "status", "queue", "history", "doctor"):
        result = run(bullmq.docora, link, command, **bullmq.environment())
        assert result.code in {0, 6}, (command, result)


def test_a_worker_runs_jobs_as_before(snapshots: Snapshots) -> None:
    link, _ = snapshots.add_queued({"a.txt": "a"})
    result = snapshots.work()
    assert (result.code, snapshots.docora.status(link)) == (0, "synced"), result
