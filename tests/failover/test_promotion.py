"""A promotion in the middle of a command: what it says, and what a rerun finishes."""

import pytest

from tests.support.docora import Docora, finish
from tests.support.proxy import PUSH, Fault, Proxy, eventually
from tests.support.running_commands import PATIENT
from tests.support.standby import Pair

pytestmark = pytest.mark.slow  # starts a pair of servers


def test_a_bulk_retry_stops_and_a_rerun_finishes_it_although_its_commits_are_lost(
    replicated: Docora, pair: Pair
) -> None:
    replicated.add_links(30)
    replicated.age_links()
    pair.catch_up()
    pair.cut_off()  # what the primary commits from here on is lost with it
    with Proxy.before_redis(replicated.redis_url) as redis:
        push = redis.plan(PUSH, Fault.HOLD_REQUEST, 3)
        environment = {**PATIENT, "DATABASE_URL": pair.either, "REDIS_URL": redis.url}
        command = ("retry-all-failed", "--yes", "--batch-size", "5", "--json")
        process = replicated.start(*command, env=environment)
        push.wait()
        pair.stop_primary()
        pair.promote()
        push.release()
        stopped = finish(process)
    assert (stopped.code, stopped.json["code"]) == (5, "postgres"), stopped
    assert f"on {pair.primary_host} " in stopped.json["error"]
    done = stopped.data["put_to_work"]
    assert 0 < done < 30
    assert f"Stopped (lost server) after {done} of 30 links." in stopped.stderr
    assert "the same command finishes the rest" in stopped.stderr
    queued = len(replicated.waiting())
    assert done <= queued < 30
    assert pair.statuses() == {"failed": 30}

    again = replicated.run(*command[:2], "--json", env={"DATABASE_URL": pair.either})
    assert again.code == 0, again
    assert f"on {pair.standby_host} (schema public)" in again.stderr
    assert "Redis belongs to" not in again.stderr  # a standby has its primary's identifier
    assert again.data["put_to_work"] == 30
    assert again.data["already_queued"] == queued
    assert pair.statuses() == {"pending_snapshot": 30}
    assert len(replicated.waiting()) == 30
    assert replicated.doubled_jobs() == []


def test_a_wait_ends_with_5_and_the_next_one_finds_the_new_primary(
    replicated: Docora, pair: Pair
) -> None:
    link = replicated.add_link()
    environment = {"DATABASE_URL": pair.either}
    assert replicated.run("retry", *link.ids, env=environment).code == 0
    pair.catch_up()
    with Proxy.before_redis(replicated.redis_url) as redis:
        # The first wait looks at the job.
        looked = redis.plan(link.job_id.encode())
        process = replicated.start(
            "wait", *link.ids, "--json", env={**environment, "REDIS_URL": redis.url}
        )
        looked.wait()
        pair.stop_primary()
        ended = finish(process)
    assert (ended.code, ended.json["code"]) == (5, "postgres"), ended
    assert "the job goes on" in ended.stderr
    assert "if a standby takes over, try again once it is promoted" in ended.json["hint"]
    pair.promote()
    pair.on_standby.execute("UPDATE app_repositories SET status = 'synced'")
    again = replicated.run("wait", *link.ids, "--json", env=environment)
    assert again.code == 0, again


def test_with_a_synchronous_standby_a_retry_that_was_confirmed_is_not_lost(
    replicated: Docora, pair: Pair
) -> None:
    link = replicated.add_link()
    pair.be_synchronous()
    with pair.suspended_receiver():
        process = replicated.start("retry", *link.ids, env={"DATABASE_URL": pair.either})
        eventually(lambda: replicated.sessions("wait_event = 'SyncRep'"), "a commit that waits")
    assert finish(process).code == 0
    pair.cut_off()
    pair.stop_primary()
    pair.promote()
    assert pair.status(link) == "pending_snapshot"
