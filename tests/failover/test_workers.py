"""Workers wait while Redis is away or fails over, and go on with the new primary."""

from contextlib import suppress

import pytest
import redis

from tests.failover.conftest import RedisPair
from tests.support.docora import WIP, Docora
from tests.support.proxy import eventually
from tests.support.rows import TestLink
from tests.support.snapshots import Snapshots
from tests.support.worker_processes import (
    await_waiting_worker,
    expire_heartbeats,
    held_worker,
    make_delayed_jobs_due,
    running,
)

WAITS = "; waits until it answers"
BACK = "Redis answers again: goes on"


def is_registered(client: redis.Redis) -> bool:
    return client.scard("rq:workers") == 1


def broken_link(snapshots: Snapshots) -> TestLink:
    """A link to a repository that is not there."""
    docora = snapshots.docora
    url = f"file://{snapshots.folder}/none"
    return snapshots.link(snapshots.add_app("Other"), docora.add_repository("octo/none", url=url))


@pytest.mark.slow
def test_a_worker_goes_on_with_the_new_primary_although_the_former_one_keeps_its_connections(
    snapshots: Snapshots, docora: Docora, redis_pair: RedisPair
) -> None:
    with running(snapshots, "--concurrency", "1", REDIS_URL=redis_pair.name.url) as worker:
        worker.await_ready()
        await_waiting_worker(docora)
        eventually(redis_pair.is_in_step, "a replica in step")
        redis_pair.promote()
        redis_pair.demote()
        worker.await_line(BACK)
        link, _ = snapshots.add_queued({"a": "1\n"}, max_retry_attempts=3)
        eventually(lambda: docora.status(link) == "synced", "a snapshot")
        eventually(lambda: is_registered(redis_pair.replica.client), "a worker")
        other = broken_link(snapshots)
        snapshots.queue(other, max_retry_attempts=2)
        eventually(lambda: docora.status(other) == "failed", "a second try")
        worker.stop()
    assert worker.log.count(WAITS) == worker.log.count(BACK) == 1
    assert "Traceback" not in worker.log
    assert docora.redis.zcard(WIP) == 0
    assert not is_registered(redis_pair.replica.client)


@pytest.mark.slow
def test_a_job_is_finished_while_redis_is_away(snapshots: Snapshots, redis_pair: RedisPair) -> None:
    docora = snapshots.docora
    link, _ = snapshots.add_queued({"b": "1\n"}, max_retry_attempts=3, retry_base_delay_ms=0)
    with held_worker(snapshots, "--concurrency", "1", REDIS_URL=redis_pair.name.url) as (
        gate,
        worker,
    ):
        eventually(redis_pair.is_in_step, "a replica in step")
        redis_pair.primary.stop()
        gate.release()
        eventually(lambda: docora.status(link) == "synced", "a snapshot")
        worker.await_line(WAITS)
        redis_pair.promote()
        worker.await_line(BACK)
        other = broken_link(snapshots)
        snapshots.queue(other, max_retry_attempts=1)
        eventually(lambda: docora.status(other) == "failed", "a further job")
        # The end of the first job is not recorded: its heartbeats end, and it is run again.
        expire_heartbeats(docora)
        worker.stop()
    assert worker.log.count(WAITS) == 1
    assert "Traceback" not in worker.log
    logs = ""
    for _ in range(2):
        make_delayed_jobs_due(docora)
        ended = snapshots.work().ended(0)
        logs += ended.stderr
    assert logs.count(" began, try ") == 1
    assert (
        "Acme ← octo/api: its worker's heartbeat stopped; the link is synced; tried again" in logs
    )
    assert "was killed" not in logs
    assert docora.status(link) == "synced"
    assert len(snapshots.receiver.of("Acme").requests) == 1
    assert docora.waiting() == []
    assert docora.redis.zcard(WIP) == 0


def test_a_worker_that_waits_for_redis_ends_at_once_when_told(
    snapshots: Snapshots, redis_pair: RedisPair
) -> None:
    with running(snapshots, "--concurrency", "2", REDIS_URL=redis_pair.name.url) as worker:
        worker.await_ready(2)
        redis_pair.primary.stop()
        worker.await_line(WAITS, 2)
        worker.stop()
    assert worker.log.count("ended, as told") == 2


def test_a_worker_ends_if_refused_at_login(snapshots: Snapshots, redis_pair: RedisPair) -> None:
    admin = redis_pair.primary.client
    with running(snapshots, "--concurrency", "1", REDIS_URL=redis_pair.name.url) as worker:
        worker.await_ready()
        await_waiting_worker(snapshots.docora)
        user = redis_pair.primary.access.worker_name
        admin.execute_command("ACL", "SETUSER", user, "resetpass", ">changed")  # type: ignore[no-untyped-call]
        with suppress(redis.ResponseError):
            admin.client_kill_filter(_type="normal", skipme=True)
        assert worker.end() == 5
    assert "refuses our user or password" in worker.log
    assert WAITS not in worker.log.partition("refuses our user")[2]
