"""Bulk actions that are interrupted, cancelled, killed and followed."""

import json
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest

from docora_ops.actions import BulkStep
from tests.support.bulk_actions import RESYNC, RETRY, SCHEDULE, BulkAction, every_bulk_action
from tests.support.docora import Docora, finish
from tests.support.fork_server import ForkedProcess
from tests.support.proxy import COMMIT, PUSH, Fault, Plan, Proxy, eventually
from tests.support.running_commands import (
    PATIENT,
    STOPPING,
    ErrorOutput,
    await_goodbye,
    await_locks,
    only_operation,
    pending,
    progress_of,
    terminate_sessions,
)


@contextmanager
def held_at_push(
    docora: Docora, bulk: BulkAction, *options: str, batches: int = 4
) -> Iterator[tuple[ForkedProcess, ErrorOutput, Plan]]:
    """A bulk action of so many batches, and one link more, that has come to its third push."""
    bulk.add_links(docora, batches * bulk.batch + 1)
    with Proxy.before_redis(docora.redis_url) as proxy:
        push = proxy.plan(PUSH, Fault.HOLD_REQUEST, number=3)
        process = docora.start(*bulk.command, *options, env={**PATIENT, "REDIS_URL": proxy.url})
        stderr = ErrorOutput(process)
        push.wait()
        if bulk is not SCHEDULE:
            eventually(lambda: pending(docora) == 2 * bulk.batch, "two batches committed")
        yield process, stderr, push


def assert_next_run_does_the_rest(docora: Docora, bulk: BulkAction, total: int) -> None:
    """Jobs of batches that were pushed but not committed are found and kept."""
    docora.assert_sound()
    queued = len(docora.waiting())
    left_out = pending(docora) if bulk is RETRY else 0
    rest = docora.run(*bulk.command, "--json").ended(0)
    assert rest.data["total"] == rest.data["put_to_work"] == total - left_out
    assert rest.data["already_queued"] == queued - left_out
    assert docora.waiting() == [link.job_id for link in docora.links()]
    assert docora.statuses() == {bulk.done_status: total}


@pytest.mark.slow
@every_bulk_action
def test_one_signal_ends_a_bulk_action_after_the_batch_that_has_begun(
    docora: Docora, bulk: BulkAction
) -> None:
    total, done = 4 * bulk.batch + 1, 3 * bulk.batch
    with held_at_push(docora, bulk) as (process, stderr, push):
        process.send_signal(signal.SIGTERM if bulk is RESYNC else signal.SIGINT)
        stderr.wait_for(STOPPING)
        push.release()
        code, stdout = stderr.finish()
    assert (code, len(docora.waiting())) == (130, done)
    if bulk is SCHEDULE:
        assert docora.redis.keys("docora:*") == []
    else:
        assert docora.statuses() == {bulk.status: total - done, bulk.done_status: done}
        progress = progress_of(docora, only_operation(docora))
        assert [*progress.values()] == [str(total), str(done), str(done), "0", "true"]
    assert re.search(rf"App 1\t.*\t{done}\b", stdout), stdout
    again = "begins again, with all of them" if bulk is RESYNC else "finishes the rest"
    assert (
        f"Stopped (interrupted) after {done} of {total} links; the same command {again}"
        in stderr.text
    )
    if bulk is not SCHEDULE:
        for screen in docora.run_together(("operations",), ("status",), ("report",)):
            assert "interrupted" in screen.stdout, screen
            assert "cancelled" not in screen.stdout, screen
    assert_next_run_does_the_rest(docora, bulk, total)


@pytest.mark.slow
def test_a_bulk_retry_that_loses_postgres_reports_what_it_has_done(docora: Docora) -> None:
    """And Redis: tests/errors/test_bulk_retry_midway.py."""
    with held_at_push(docora, RETRY, "--json") as (_, stderr, push):
        assert terminate_sessions(docora) >= 1
        push.release()
        code, stdout = stderr.finish()
    total, done = 41, 20
    document = json.loads(stdout)
    data = document["data"]
    assert (code, document["code"]) == (5, "postgres")
    assert (data["total"], data["completed"], data["cancelled"]) == (total, done, True)
    assert data["message"] == "Bulk retry stopped"
    assert data["queued"] == data["put_to_work"] == done
    assert f"Stopped (lost server) after {done} of {total} links." in stderr.text
    assert docora.statuses() == {"failed": total - done, "pending_snapshot": done}
    operation_id = only_operation(docora)
    progress = progress_of(docora, operation_id)
    assert (progress["completed"], progress["cancelled"]) == (str(done), "true")
    [entry] = docora.run("history", "--json").data
    assert (entry["operation_id"], entry["state"]) == (operation_id, "cancelled")
    assert entry["counts"] == {"total": total, "queued": done}
    assert_next_run_does_the_rest(docora, RETRY, total)


@pytest.mark.slow
def test_a_second_signal_ends_a_bulk_action_at_once_while_redis_holds_a_push(
    docora: Docora,
) -> None:
    with held_at_push(docora, RETRY) as (process, stderr, _):
        process.send_signal(signal.SIGINT)
        stderr.wait_for(STOPPING)
        process.send_signal(signal.SIGINT)
        code, _ = stderr.finish()
        await_goodbye(docora)
    assert (code, "Traceback" in stderr.text) == (130, False)
    # The others were rolled back.
    assert len(docora.waiting()) == pending(docora) == 20
    assert_next_run_does_the_rest(docora, RETRY, 41)


@every_bulk_action
def test_after_a_kill_midway_the_next_run_does_the_rest(docora: Docora, bulk: BulkAction) -> None:
    """After the push or, a resync, before the commit."""
    total = 4 * bulk.batch + 1
    bulk.add_links(docora, total)
    with (
        Proxy.before_redis(docora.redis_url) as redis,
        Proxy.before_postgres(docora.database_url) as postgres,
    ):
        if bulk is RESYNC:  # before it, its app was looked up and its deliveries were counted
            plan = postgres.plan(COMMIT, Fault.HOLD_REQUEST, number=7)
        else:
            plan = redis.plan(PUSH, Fault.HOLD_REPLY, number=3)
        servers = {"REDIS_URL": redis.url, "DATABASE_URL": postgres.url}
        process = docora.start(*bulk.command, env=PATIENT | servers)
        plan.wait()
        process.kill()
        assert finish(process).code == -signal.SIGKILL
        await_goodbye(docora)
    assert len(docora.waiting()) == 3 * bulk.batch
    assert pending(docora) in ({0} if bulk is SCHEDULE else {2 * bulk.batch})
    assert_next_run_does_the_rest(docora, bulk, total)


def test_a_signal_before_any_change_ends_a_command_without_a_trace(docora: Docora) -> None:
    docora.add_link()
    before = docora.dump()
    with psycopg.connect(docora.database_access.owner) as holder:
        holder.execute("LOCK TABLE app_repositories")  # not even to be read
        process = docora.start("retry-all-failed", "--json", env=PATIENT)
        await_locks(docora, 1)
        result = finish(process, signal.SIGTERM).ended(130, "interrupted")
    assert "Traceback" not in result.stderr
    await_goodbye(docora)
    assert docora.dump() == before


def test_another_process_cancels_a_bulk_retry_after_the_batch_that_has_begun(
    docora: Docora,
) -> None:
    with (
        held_at_push(docora, RETRY, "--json", batches=7) as (_, stderr, push),
        Proxy.before_redis(docora.redis_url) as proxy,
    ):
        operation_id = only_operation(docora)
        look = proxy.plan(b"HMGET")
        follower = docora.start(
            *("operations", operation_id, "--follow", "--json"),
            env={"REDIS_URL": proxy.url, "DATABASE_URL": None},
        )
        look.wait()
        cancel = docora.run("cancel", operation_id, "--json", env={"DATABASE_URL": None})
        assert (cancel.code, cancel.data["message"]) == (0, "Cancellation requested")
        push.release()
        code, stdout = stderr.finish()
        result = finish(follower)
    data = json.loads(stdout)["data"]
    assert (code, data["cancelled"], data["completed"]) == (6, True, 30)
    assert docora.statuses() == {"failed": 41, "pending_snapshot": 30}
    progress = progress_of(docora, operation_id)
    assert (progress["cancelled"], progress["completed"]) == ("true", "30")
    assert (result.code, result.data["cancelled"]) == (6, True), result
    assert_next_run_does_the_rest(docora, RETRY, 71)


def test_progress_is_written_before_the_first_link_and_with_each_batch(docora: Docora) -> None:
    docora.add_links(10)
    seen: list[tuple[int, list[str]]] = []

    def look(step: BulkStep) -> None:
        progress = progress_of(docora, only_operation(docora))
        seen.append((step.result.completed, [*progress.values()]))
        # Others write into it, or it expires.
        key = f"docora:bulk:{step.result.operation_id}"
        docora.redis.hset(key, "completed", "1000")
        if step.result.completed == 6:
            docora.redis.hdel(key, "total", "cancelled")

    docora.actions().retry_all(batch_size=3, prepare=look, each=look)
    assert [done for done, _ in seen] == [0, 3, 6, 9, 10, 10]
    for done, progress in seen[:-1]:
        assert progress == ["10", str(done), str(done), "0", "false"]
