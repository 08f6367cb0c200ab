"""Bulk retries that are interrupted, cancelled and followed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import pytest

from tests.support.docora import COMMAND, Docora, finish
from tests.support.fork_server import ForkedProcess
from tests.support.own_servers import own_redis
from tests.support.proxy import PATIENCE, PUSH, Fault, Plan, Proxy, eventually
from tests.support.running_commands import (
    LOCK_TABLE,
    PATIENT,
    STOPPING,
    ErrorOutput,
    await_goodbye,
    await_locks,
    only_operation,
    pending,
    progress_of,
)


@pytest.mark.parametrize(
    ("number", "as_json"),
    [(signal.SIGINT, False), (signal.SIGTERM, True)],
    ids=["SIGINT", "SIGTERM with --json"],
)
def test_one_signal_ends_a_bulk_retry_after_the_batch_in_hand(
    docora: Docora, number: signal.Signals, as_json: bool
) -> None:
    docora.add_links(300, apps=2)
    with Proxy.before_redis(docora.redis_url) as proxy:
        fifth = proxy.plan(PUSH, Fault.HOLD_REQUEST, number=5)
        process = docora.start(
            *("retry-all-failed", "--batch-size", "10", *["--json"] * as_json),
            env={**PATIENT, "REDIS_URL": proxy.url},
        )
        stderr = ErrorOutput(process)
        fifth.wait()
        operation_id = only_operation(docora)
        process.send_signal(number)
        stderr.wait_for(STOPPING)
        fifth.release()
        code, stdout = stderr.finish()
    assert code == 130
    progress = progress_of(docora, operation_id)
    done = int(progress["completed"])
    # The fifth batch, and the sixth that was in flight with it.
    assert 50 <= done <= 60
    assert progress == {
        "total": "300",
        "completed": str(done),
        "succeeded": str(done),
        "failed": "0",
        "cancelled": "true",
    }
    assert docora.statuses() == {"failed": 300 - done, "pending_snapshot": done}
    assert len(docora.waiting()) == done
    docora.assert_sound()
    if as_json:
        document = json.loads(stdout)["data"]
        assert document["cancelled"] is True
        assert (document["total"], document["completed"], document["queued"]) == (300, done, done)
        assert document["operation_id"] == operation_id
    else:
        assert re.search(rf"App 1 .*\s{done}\s", stdout), stdout
        assert f"Cancelled after {done} of 300 links" in stderr.text
    assert "Traceback" not in stderr.text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_second_signal_ends_a_bulk_retry_at_once_while_redis_holds_a_push(
    docora: Docora, number: signal.Signals
) -> None:
    docora.add_links(100)
    with Proxy.before_redis(docora.redis_url) as proxy:
        fifth = proxy.plan(PUSH, Fault.HOLD_REQUEST, number=5)
        process = docora.start(
            "retry-all-failed", "--batch-size", "10", env={**PATIENT, "REDIS_URL": proxy.url}
        )
        stderr = ErrorOutput(process)
        fifth.wait()
        operation_id = only_operation(docora)
        eventually(
            lambda: progress_of(docora, operation_id)["completed"] == "40", "four batches counted"
        )
        code, seconds = signal_twice(process, stderr, number)
    assert code == 130
    assert seconds < 5
    await_goodbye(docora)
    assert progress_of(docora, operation_id)["cancelled"] == "true"
    assert docora.statuses() == {"failed": 60, "pending_snapshot": 40}, "not rolled back"
    assert len(docora.waiting()) == 40
    docora.assert_sound()


def test_a_second_signal_ends_a_bulk_retry_at_once_while_postgres_holds_a_lock(
    docora: Docora,
) -> None:
    docora.add_links(100)
    with psycopg.connect(docora.database_access.owner) as holder:
        holder.execute(LOCK_TABLE)
        process = docora.start("retry-all-failed", "--batch-size", "10", env=PATIENT)
        stderr = ErrorOutput(process)
        await_locks(docora, 2)
        operation_id = only_operation(docora)
        code, seconds = signal_twice(process, stderr, signal.SIGINT)
    assert code == 130
    assert seconds < 5
    await_goodbye(docora)
    assert progress_of(docora, operation_id) == {
        "total": "100",
        "completed": "0",
        "succeeded": "0",
        "failed": "0",
        "cancelled": "true",
    }
    assert docora.statuses() == {"failed": 100}
    assert docora.waiting() == []


def test_a_second_signal_ends_a_bulk_retry_at_once_even_when_redis_hangs(
    docora: Docora, tmp_path: Path
) -> None:
    docora.add_links(100)
    with own_redis(tmp_path) as own, Proxy.before_redis(own.url) as proxy:
        fifth = proxy.plan(PUSH, Fault.HOLD_REQUEST, number=5)
        process = docora.start(
            "retry-all-failed", "--batch-size", "10", env={**PATIENT, "REDIS_URL": proxy.url}
        )
        stderr = ErrorOutput(process)
        fifth.wait()
        own.hang()
        code, seconds = signal_twice(process, stderr, signal.SIGINT)
        assert code == 130
        assert seconds < 8
        await_goodbye(docora)
        own.go_on()
        assert pending(docora) == own.client.llen(docora.queue.key) == 40


def signal_twice(
    process: ForkedProcess, stderr: ErrorOutput, number: signal.Signals
) -> tuple[int, float]:
    """Exit code, and seconds from the second signal to the end."""
    process.send_signal(number)
    stderr.wait_for(STOPPING)
    process.send_signal(number)
    since = time.monotonic()
    code, _ = stderr.finish()
    assert "Traceback" not in stderr.text
    return code, time.monotonic() - since


@pytest.mark.parametrize(
    ("command", "number"),
    [
        ("retry", signal.SIGTERM),
        ("retry", signal.SIGHUP),
        ("resync", signal.SIGINT),
        ("retry-all-failed", signal.SIGINT),
        ("retry-all-failed", signal.SIGTERM),
    ],
)
def test_a_signal_before_anything_has_changed_ends_a_command_without_a_trace(
    docora: Docora, command: str, number: signal.Signals
) -> None:
    link = docora.add_link()
    docora.add_deliveries(link, 3)
    before = docora.dump()
    which = [] if command == "retry-all-failed" else [link.app_id, link.repository_id]
    with psycopg.connect(docora.database_access.owner) as holder:
        # Not even to be read.
        holder.execute("LOCK TABLE app_repositories" if not which else LOCK_TABLE)
        process = docora.start(command, *which, "--json", env=PATIENT)
        await_locks(docora, 1)
        process.send_signal(number)
        since = time.monotonic()
        result = finish(process)
        assert time.monotonic() - since < 10
    expected = (129, "hung_up") if number == signal.SIGHUP else (130, "interrupted")
    assert (result.code, result.json["code"]) == expected, result
    assert "Traceback" not in result.stderr
    await_goodbye(docora)
    assert docora.dump() == before


# Cancelled and followed


def start_bulk(docora: Docora, proxy: Proxy, hold: int) -> tuple[ForkedProcess, Plan, str]:
    """A bulk retry in batches of ten that has come to its `hold`th push."""
    plan = proxy.plan(PUSH, Fault.HOLD_REQUEST, number=hold)
    process = docora.start(
        "retry-all-failed", "--batch-size", "10", "--json", env={**PATIENT, "REDIS_URL": proxy.url}
    )
    plan.wait()
    return process, plan, only_operation(docora)


def start_following(docora: Docora, proxy: Proxy, operation_id: str) -> ForkedProcess:
    """Another process that follows the operation, and has looked at it once."""
    look = proxy.plan(b"HMGET")
    process = docora.start(
        *("progress", operation_id, "--follow", "--json"),
        env={"REDIS_URL": proxy.url, "DATABASE_URL": None},
    )
    look.wait()
    return process


@contextmanager
def followed_bulk(docora: Docora) -> Iterator[tuple[ForkedProcess, Plan, ForkedProcess, str]]:
    """A bulk retry of 200 links at its fifth push, the push, its follower, and its id."""
    docora.add_links(200)
    with (
        Proxy.before_redis(docora.redis_url) as proxy,
        Proxy.before_redis(docora.redis_url) as follower_proxy,
    ):
        bulk, plan, operation_id = start_bulk(docora, proxy, 5)
        yield bulk, plan, start_following(docora, follower_proxy, operation_id), operation_id


def test_another_process_follows_a_bulk_retry_to_its_end(docora: Docora) -> None:
    with followed_bulk(docora) as (bulk, plan, follower, operation_id):
        assert follower.poll() is None
        plan.release()
        assert finish(bulk).code == 0
        followed = finish(follower)
    assert followed.code == 0, followed
    assert followed.data == {
        "operation_id": operation_id,
        "total": 200,
        "completed": 200,
        "succeeded": 200,
        "failed": 0,
        "cancelled": False,
        "failures": [],
    }
    assert "200 of 200" in followed.stderr


def test_another_process_cancels_a_bulk_retry_before_its_next_batch(docora: Docora) -> None:
    with followed_bulk(docora) as (bulk, plan, follower, operation_id):
        cancel = docora.run("cancel", operation_id, "--json", env={"DATABASE_URL": None})
        assert cancel.code == 0, cancel
        assert cancel.data["message"] == "Cancellation requested"
        plan.release()
        result = finish(bulk)
        followed = finish(follower)
    assert result.code == 6, result
    assert result.data["cancelled"] is True
    done = result.data["completed"]
    assert 50 <= done <= 60, "the batches in hand, and no other"
    assert docora.statuses() == {"failed": 200 - done, "pending_snapshot": done}
    assert len(docora.waiting()) == done
    assert progress_of(docora, operation_id)["cancelled"] == "true"
    assert progress_of(docora, operation_id)["completed"] == str(done)
    assert followed.code == 6, followed
    assert followed.data["cancelled"] is True
    docora.assert_sound()
    rest = docora.run("retry-all-failed", "--json")
    assert rest.code == 0
    assert rest.data["queued"] == 200 - done


@pytest.mark.parametrize("insistent", [False, True])
def test_a_signal_does_not_cut_a_document_in_two(docora: Docora, *, insistent: bool) -> None:
    docora.add_links(2000)
    with docora.start("retry-all-failed", "--dry-run", "--json") as process:
        beginning = process.stdout.read(1)
        # More than a pipe holds is still to come.
        process.send_signal(signal.SIGINT)
        if insistent:
            process.send_signal(signal.SIGTERM)
        result = finish(process)
    if insistent:
        assert result.code == 130
        return
    assert result.code == 0
    assert len(json.loads(beginning + result.stdout)["data"]["links"]) == 2000


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_after_the_document_adds_no_second_one(
    docora: Docora, number: signal.Signals
) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, b"x")
    os.set_blocking(writer, True)
    with subprocess.Popen(
        [COMMAND, "doctor", "--json"],
        env=docora.environment(),
        stdout=subprocess.PIPE,
        stderr=writer,
        text=True,
    ) as process:
        os.close(writer)
        assert process.stdout is not None
        document = process.stdout.readline()
        # The command writes its summary to stderr next, and waits for a reader.
        time.sleep(0.2)
        process.send_signal(number)
        os.close(reader)
        assert process.stdout.read() == ""
        # A signal that comes while the document is being printed has no effect.
        assert process.wait(PATIENCE) in {0, 128 + number}
    assert "checks" in json.loads(document)["data"]


@pytest.mark.parametrize("options", [["--json"], []], ids=["json", "table"])
def test_output_that_nobody_reads_does_not_outlive_a_signal(
    docora: Docora, options: list[str]
) -> None:
    docora.add_links(2000)
    with docora.start("retry-all-failed", "--dry-run", *options) as process:
        assert process.stdout.read(1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 130
