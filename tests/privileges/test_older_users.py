"""Users that an older topic created still do all that they did: nobody need change them first."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.privileges.test_users import CHANGING, arrange, run
from tests.support.docora import Docora
from tests.support.privileges import with_rules
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
    "docora-worker": "~rq:* ~docora:repo-lock:* %R~bull:snapshot-queue:* resetchannels"
    " &rq:pubsub:* -@all +@read +@write +@connection +@pubsub +@transaction +@scripting"
    " -@dangerous +info +time +client|list",
}
"""The rules of the users before releases changed them, without their passwords."""


@pytest.fixture(autouse=True)
def older(docora: Docora) -> Iterator[None]:
    access = docora.redis_access
    names = (access.command_name, access.worker_name)
    with ExitStack() as stack:
        for (user, line), name in zip(OLDER.items(), names, strict=True):
            stack.enter_context(with_rules(docora.redis, user, name, f"resetkeys {line}"))
        yield
    docora.redis.acl_log_reset()  # what they lack is asked for in vain


@pytest.mark.slow
def test_commands_change_what_they_did(docora: Docora) -> None:
    """Who may not release an app can't hold one either."""
    for command in CHANGING:
        link, _ = arrange(docora)
        result = run(docora, link, command)
        if command.startswith(("hold ", "release ")):
            assert (result.code, "hdel" in result.stderr) == (5, True), result
        else:
            assert result.code in {0, 6}, (command, result)


def test_a_worker_runs_jobs_as_before(snapshots: Snapshots) -> None:
    link, _ = snapshots.add_queued({"a.txt": "a"})
    result = snapshots.work()
    assert (result.code, snapshots.docora.status(link)) == (0, "synced"), result
    assert "no outcome is recorded: " in result.stderr
    assert snapshots.docora.redis.keys("docora-ops:outcomes*") == []
