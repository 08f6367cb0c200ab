"""What commands say of a Redis that fails over, and how links come back whose jobs were lost."""

import pytest
from pydantic import SecretStr
from redis.exceptions import ReadOnlyError

from docora_ops.queue.redis_client import connect
from tests.failover.conftest import RedisPair
from tests.support.docora import finish
from tests.support.proxy import PUSH, Fault, eventually
from tests.support.running_commands import PATIENT

AT_ONCE = {"DOCORA_OPS_DRIFT_GRACE": "0"}


def test_jobs_that_a_failover_has_lost_are_queued_again(redis_pair: RedisPair) -> None:
    docora = redis_pair.docora
    docora.add_links(20)
    docora.age_links()
    redis_pair.cut_off()  # what the primary confirms from here on is lost with it
    plan = redis_pair.name.plan(PUSH, Fault.HOLD_REQUEST, 3)
    environment = {"REDIS_URL": redis_pair.url}
    process = docora.start(
        *("retry-all-failed", "--yes", "--batch-size", "5", "--json"), env=PATIENT | environment
    )
    plan.wait()
    redis_pair.primary.stop()
    plan.release()
    ended = finish(process).ended(5, "redis")
    done = ended.data["queued"]
    assert 0 < done < 20
    assert "the same command finishes the rest" in ended.stderr

    redis_pair.promote()
    again = docora.run("retry-all-failed", "--yes", "--json", env=environment).ended(0)
    assert again.data["queued"] == 20 - done
    assert len(docora.waiting()) == 20 - done
    docora.run("repair", "--yes", "--json", env={**environment, **AT_ONCE}).ended(0)
    assert len(docora.waiting()) == 20
    assert docora.doubled_jobs() == []


def test_the_former_primary_refuses_changes_until_the_name_moves(redis_pair: RedisPair) -> None:
    docora = redis_pair.docora
    link = docora.add_link()
    environment = {"REDIS_URL": redis_pair.url}
    redis_pair.replica.client.replicaof("NO", "ONE")
    redis_pair.demote()
    refused = docora.run("retry", *link.ids, "--json", env=environment).ended(5, "redis")
    assert "it is a read-only replica" in refused.json["error"]
    assert "try again once it is promoted" in refused.json["hint"]
    assert docora.status(link) == "failed"
    redis_pair.promote()
    assert docora.run("retry", *link.ids, "--json", env=environment).code == 0
    assert docora.waiting() == [link.job_id]


def test_a_replica_that_serves_no_old_data_says_so(redis_pair: RedisPair) -> None:
    redis_pair.replica.client.config_set("replica-serve-stale-data", "no")
    redis_pair.primary.stop()
    eventually(
        lambda: redis_pair.replica.client.info("replication")["master_link_status"] == "down",
        "a replica without its primary",
    )
    redis_pair.name.lead_to(redis_pair.replica.url)
    refused = redis_pair.docora.run("queue", "--json", env={"REDIS_URL": redis_pair.url})
    assert (refused.code, refused.json["code"]) == (5, "redis"), refused
    assert "is a replica without a primary" in refused.json["error"]


def test_a_client_leaves_the_former_primary_after_its_first_refusal(redis_pair: RedisPair) -> None:
    url = SecretStr(redis_pair.url)
    client = connect(redis_pair.docora.settings.model_copy(update={"redis_url": url}))
    key = "docora:bulk:bulk_0123456789abcdef"
    client.hset(key, "total", "1")
    redis_pair.promote()
    redis_pair.demote()
    with pytest.raises(ReadOnlyError):
        client.hset(key, "total", "2")
    client.hset(key, "total", "3")
    assert redis_pair.replica.client.hget(key, "total") == b"3"
    client.close()
