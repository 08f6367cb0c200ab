"""Rows that a bulk retry has locked, while Redis hangs or the command is stopped: not for long."""

import pytest
from pydantic import SecretStr

from docora_ops.drift import RepairOutcome
from tests.errors.bulk_midway import rest_is_finished, tells_what_was_done
from tests.errors.checks import refuses
from tests.support.docora import QUEUE, Docora, finish
from tests.support.proxy import PUSH, Fault, Proxy
from tests.support.running_commands import PATIENT, suspended

EXECUTIONS = f"rq:wip:{QUEUE}".encode()
"""In a request that reads RQ's registry of running jobs."""


def test_a_redis_that_hangs_has_a_few_seconds_while_rows_are_locked(docora: Docora) -> None:
    docora.add_links(200, apps=2)
    with Proxy.before_redis(docora.redis_url) as proxy:
        push = proxy.plan(PUSH, Fault.HOLD_REQUEST, number=5)
        # It is never released, and any other answer of Redis may take 90 seconds.
        result = docora.run(
            *("retry-all-failed", "--batch-size", "10", "--json"),
            env={**PATIENT, "REDIS_URL": proxy.url},
        )
        push.wait()
    document = refuses(result, "redis", "did not answer in time")
    assert "it has 4 s while links are locked" in document["hint"]
    done = docora.statuses()["pending_snapshot"]
    assert done in {40, 50}, "the sixth batch was in flight as well"
    tells_what_was_done(docora, document, result, done)
    rest_is_finished(docora, already_queued=0)


def test_a_command_that_is_stopped_with_rows_locked_loses_them_and_ends_with_a_sentence(
    docora: Docora,
) -> None:
    docora.add_links(200, apps=2)
    with Proxy.before_redis(docora.redis_url) as proxy:
        push = proxy.plan(PUSH, Fault.HOLD_REPLY, number=5)
        process = docora.start(
            *("retry-all-failed", "--batch-size", "10", "--json"),
            env={**PATIENT, "REDIS_URL": proxy.url},
        )
        push.wait()
        with suspended(process):
            push.release()
            # Waits for the rows of the fifth batch, a minute at most.
            docora.connection.execute("SELECT 1 FROM app_repositories FOR UPDATE")
        result = finish(process)
    document = refuses(result, "postgres", "ended a transaction of ours that was idle for 6 s")
    done = docora.statuses()["pending_snapshot"]
    tells_what_was_done(docora, document, result, done)
    docora.assert_sound()
    # Their jobs were pushed, and never committed.
    rest_is_finished(docora, already_queued=len(docora.waiting()) - done)


def test_a_retry_reads_expired_executions_before_it_locks_the_row(docora: Docora) -> None:
    link = docora.add_link("failed")
    with Proxy.before_redis(docora.redis_url) as proxy:
        read = proxy.plan(EXECUTIONS, Fault.HOLD_REPLY)
        process = docora.start(
            "retry", link.app_id, link.repository_id, env={"REDIS_URL": proxy.url}
        )
        read.wait()
        docora.connection.execute("SELECT FROM app_repositories FOR UPDATE NOWAIT")
        read.release()
        assert finish(process).code == 0
    docora.assert_sound()


def test_a_repair_reads_expired_executions_once_however_many_jobs_it_removes(
    docora: Docora, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("docora_ops.actions.repair.fix._ENTRIES_AT_ONCE", 1)
    reads = []
    for number in (1, 8):
        for link in [docora.add_link("synced") for _ in range(number)]:
            docora.enqueue(link.job_id)
            docora.redis.rpush(docora.queue.key, link.job_id)
        with Proxy.before_redis(docora.redis_url) as proxy:
            actions = docora.actions(redis_url=SecretStr(proxy.url))
            read = proxy.plan(EXECUTIONS)
            assert actions.repair().counts == {RepairOutcome.REMOVED: number}
            reads.append(read.requests)
    assert reads[0] == reads[1]
