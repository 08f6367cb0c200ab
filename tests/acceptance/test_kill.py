"""Commands that are killed, interrupted, cancelled and followed, at the worst moments."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import cast

import psycopg
import pytest

from tests.harness import Docora, finish
from tests.proxy import COMMIT, PATIENCE, PUSH, Fault, Plan, Proxy, eventually, own_redis
from tests.warm import WarmProcess

SEED_VARIABLE = "TEST_KILL_SEED"
SEED = os.environ.get(SEED_VARIABLE) or str(random.SystemRandom().randrange(10**6))
"""Of the random moments; a failing test shows it."""
PATIENT = {
    "DOCORA_OPS_CONNECT_TIMEOUT": "30",
    "DOCORA_OPS_LOCK_TIMEOUT": "60",
    "DOCORA_OPS_STATEMENT_TIMEOUT": "90",
}
LOCK_TABLE = "LOCK TABLE app_repositories IN EXCLUSIVE MODE"
STOPPING = "Stopping after the batch"


def progress_of(docora: Docora, operation_id: str) -> dict[str, str]:
    found = cast("dict[bytes, bytes]", docora.redis.hgetall(f"docora:bulk:{operation_id}"))
    return {name.decode(): value.decode() for name, value in found.items()}


def only_operation(docora: Docora) -> str:
    """The id of the operation that is going on."""
    [key] = cast("list[bytes]", docora.redis.keys("docora:bulk:*"))
    return key.decode().removeprefix("docora:bulk:")


def await_locks(docora: Docora, waiting: int) -> None:
    """Until so many connections of commands wait for a lock that the test holds."""

    def are_waiting() -> bool:
        row = docora.connection.execute(
            "SELECT count(*) AS waiting FROM pg_stat_activity WHERE datname = current_database()"
            " AND application_name = 'docora-ops' AND wait_event_type = 'Lock'"
        ).fetchone()
        return row is not None and row["waiting"] >= waiting

    eventually(are_waiting, f"{waiting} connections that wait for a lock")


class ErrorOutput:
    """What a running command says on stderr, line by line."""

    def __init__(self, process: WarmProcess) -> None:
        self._process = process
        self._lines: list[str] = []
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        self._lines.extend(iter(self._process.stderr.readline, ""))

    def wait_for(self, text: str) -> None:
        eventually(lambda: text in self.text, f"{text!r} on stderr")

    @property
    def text(self) -> str:
        return "".join(self._lines)

    def finish(self) -> tuple[int, str]:
        """Exit code and stdout, after the end."""
        try:
            code = self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise
        stdout = self._process.stdout.read()
        self._thread.join(PATIENCE)
        self._process.stdout.close()
        self._process.stderr.close()
        return code, stdout


def await_goodbye(docora: Docora) -> None:
    """Until Postgres has noticed that the commands are gone, and undone what they left open."""

    def are_gone() -> bool:
        row = docora.connection.execute(
            "SELECT count(*) AS left FROM pg_stat_activity WHERE datname = current_database()"
            " AND application_name = 'docora-ops'"
        ).fetchone()
        return row == {"left": 0}

    eventually(are_gone, "the end of the commands' connections")


def nothing_lost_nothing_twice(docora: Docora) -> None:
    assert docora.lost_links() == []
    assert docora.doubled_jobs() == []


def pending(docora: Docora) -> int:
    return docora.statuses().get("pending_snapshot", 0)


# Killed


@pytest.mark.parametrize("batch_size", [3, 10, 25, 60])
def test_a_bulk_retry_killed_at_random_moments_loses_nothing_and_is_finished_by_the_next(
    docora: Docora, batch_size: int
) -> None:
    """Five kills, each of the run that was to finish what the one before had left undone."""
    sys.stdout.write(f"{SEED_VARIABLE}={SEED}\n")
    moments = random.Random(f"{SEED} {batch_size}")
    total = 900
    docora.add_links(total, apps=3)
    kills_left = 5
    while kills_left:
        before, queued = pending(docora), docora.redis.llen(docora.queue.key)
        # After so many links, which spreads the kills over the whole of the work.
        target = queued + moments.randrange(max((total - queued) // kills_left, 1))
        process = docora.start(
            "retry-all-failed", "--batch-size", str(batch_size), "--json", env=PATIENT
        )
        eventually(lambda: docora.redis.keys("docora:bulk:*"), "an operation")
        while docora.redis.llen(docora.queue.key) < target and process.poll() is None:
            time.sleep(0.0005)
        # Anywhere in a batch: between its look, its reset, its push, and its commit.
        time.sleep(moments.uniform(0, 0.004))
        process.kill()
        result = finish(process)
        nothing_lost_nothing_twice(docora)
        await_goodbye(docora)
        nothing_lost_nothing_twice(docora)
        if result.code == 0:
            # This test was too slow: once more from the beginning.
            docora.connection.execute("UPDATE app_repositories SET status = 'failed'")
            docora.redis.flushdb()
            continue
        assert result.code == -signal.SIGKILL, result
        kills_left -= 1
        operation_id = only_operation(docora)
        progress = progress_of(docora, operation_id)
        assert int(progress["total"]) == total - before
        assert int(progress["completed"]) <= pending(docora) - before
        assert progress["cancelled"] == "false"
        assert 0 < docora.redis.ttl(f"docora:bulk:{operation_id}") <= 3600
        docora.redis.delete(f"docora:bulk:{operation_id}")
    left = total - pending(docora)
    orphans = len(docora.waiting()) - pending(docora)

    result = docora.run("retry-all-failed", "--json")
    assert result.code == 0, result
    assert result.data["total"] == result.data["succeeded"] == left
    # Jobs of batches that were pushed, but not committed, are found and kept.
    assert result.data["already_queued"] == orphans
    assert docora.statuses() == {"pending_snapshot": total}
    assert len(docora.waiting()) == total
    nothing_lost_nothing_twice(docora)


@pytest.mark.parametrize("command", ["retry", "resync"])
@pytest.mark.parametrize(
    ("marker", "fault", "has_job", "was_reset"),
    [
        pytest.param(PUSH, Fault.HOLD_REQUEST, False, False, id="before its push"),
        pytest.param(PUSH, Fault.HOLD_REPLY, True, False, id="after its push"),
        pytest.param(COMMIT, Fault.HOLD_REQUEST, True, False, id="before its commit"),
        pytest.param(COMMIT, Fault.HOLD_REPLY, True, True, id="after its commit"),
    ],
)
def test_one_link_of_a_killed_command_is_as_it_was_or_done(
    docora: Docora, command: str, marker: bytes, fault: Fault, has_job: bool, was_reset: bool
) -> None:
    link = docora.add_link()
    docora.add_deliveries(link, 7)
    row = docora.row(link)
    with (
        Proxy.before_redis(docora.redis_url) as redis_proxy,
        Proxy.before_postgres(docora.database_url) as postgres_proxy,
    ):
        proxy = redis_proxy if marker is PUSH else postgres_proxy
        moment = proxy.plan(marker, fault)
        process = docora.start(
            command,
            link.app_id,
            link.repository_id,
            env={**PATIENT, "REDIS_URL": redis_proxy.url, "DATABASE_URL": postgres_proxy.url},
        )
        moment.wait()
        process.kill()
        assert finish(process).code == -signal.SIGKILL
        await_goodbye(docora)
    assert docora.waiting() == [link.job_id] * has_job
    nothing_lost_nothing_twice(docora)
    if was_reset:
        assert docora.was_reset(link)
    else:
        assert docora.row(link) == row
    assert docora.deliveries(link) == (0 if was_reset and command == "resync" else 7)

    again = docora.run(command, link.app_id, link.repository_id, "--json")
    if was_reset and command == "retry":
        assert again.code == 4, again
        assert again.json["job"] == "waiting"
    else:
        assert again.code == 0, again
        assert again.data["outcome"] == ("already_queued" if has_job else "queued")
    assert docora.waiting() == [link.job_id]
    assert docora.was_reset(link)
    assert docora.deliveries(link) == (0 if command == "resync" else 7)


@pytest.mark.parametrize(
    ("marker", "fault"),
    [
        pytest.param(PUSH, Fault.HOLD_REPLY, id="after a push"),
        pytest.param(COMMIT, Fault.HOLD_REPLY, id="after a commit"),
    ],
)
def test_a_killed_resync_of_all_forgets_deliveries_only_of_links_that_it_reset(
    docora: Docora, marker: bytes, fault: Fault
) -> None:
    docora.add_links(170)
    app_id = f"app_{1:024x}"
    docora.connection.execute(
        "INSERT INTO app_delivered_files (app_id, repository_id, file_path, file_sha)"
        " SELECT app_id, repository_id, 'file' || i, 'sha'"
        " FROM app_repositories, generate_series(1, 3) i"
    )
    with (
        Proxy.before_redis(docora.redis_url) as redis_proxy,
        Proxy.before_postgres(docora.database_url) as postgres_proxy,
    ):
        # The second batch; the first commit is that of the selection.
        plan = (
            redis_proxy.plan(marker, fault, number=2)
            if marker is PUSH
            else postgres_proxy.plan(marker, fault, number=3)
        )
        process = docora.start(
            *("resync", app_id, "--all", "--yes"),
            env={**PATIENT, "REDIS_URL": redis_proxy.url, "DATABASE_URL": postgres_proxy.url},
        )
        plan.wait()
        process.kill()
        finish(process)
        await_goodbye(docora)
    rows = docora.connection.execute(
        "SELECT l.status, count(f.file_path) AS files, count(DISTINCT l.id) AS links"
        " FROM app_repositories l LEFT JOIN app_delivered_files f USING (app_id, repository_id)"
        " GROUP BY l.id, l.status"
    ).fetchall()
    by_status = {(row["status"], row["files"]) for row in rows}
    assert by_status == {("failed", 3), ("pending_snapshot", 0)}
    nothing_lost_nothing_twice(docora)

    result = docora.run("resync", app_id, "--all", "--yes", "--json")
    assert result.code == 0, result
    assert result.data["deliveries_cleared"] == sum(row["files"] for row in rows)
    assert docora.statuses() == {"pending_snapshot": 170}
    assert len(docora.waiting()) == 170
    nothing_lost_nothing_twice(docora)


# Interrupted


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
    nothing_lost_nothing_twice(docora)
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
    nothing_lost_nothing_twice(docora)


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
    process: WarmProcess, stderr: ErrorOutput, number: signal.Signals
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
    assert result.code == 130, result
    assert result.json["code"] == "interrupted"
    assert "Traceback" not in result.stderr
    await_goodbye(docora)
    assert docora.dump() == before


# Cancelled and followed


def start_bulk(docora: Docora, proxy: Proxy, hold: int) -> tuple[WarmProcess, Plan, str]:
    """A bulk retry in batches of ten that has come to its `hold`th push."""
    plan = proxy.plan(PUSH, Fault.HOLD_REQUEST, number=hold)
    process = docora.start(
        "retry-all-failed", "--batch-size", "10", "--json", env={**PATIENT, "REDIS_URL": proxy.url}
    )
    plan.wait()
    return process, plan, only_operation(docora)


def start_following(docora: Docora, proxy: Proxy, operation_id: str) -> WarmProcess:
    """Another process that follows the operation, and has looked at it once."""
    look = proxy.plan(b"HMGET")
    process = docora.start(
        *("progress", operation_id, "--follow", "--json"),
        env={"REDIS_URL": proxy.url, "DATABASE_URL": None},
    )
    look.wait()
    return process


def test_another_process_follows_a_bulk_retry_to_its_end(docora: Docora) -> None:
    docora.add_links(200)
    with (
        Proxy.before_redis(docora.redis_url) as proxy,
        Proxy.before_redis(docora.redis_url) as follower_proxy,
    ):
        bulk, plan, operation_id = start_bulk(docora, proxy, 5)
        follower = start_following(docora, follower_proxy, operation_id)
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
    docora.add_links(200)
    with (
        Proxy.before_redis(docora.redis_url) as proxy,
        Proxy.before_redis(docora.redis_url) as follower_proxy,
    ):
        bulk, plan, operation_id = start_bulk(docora, proxy, 5)
        follower = start_following(docora, follower_proxy, operation_id)
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
    nothing_lost_nothing_twice(docora)
    rest = docora.run("retry-all-failed", "--json")
    assert rest.code == 0
    assert rest.data["queued"] == 200 - done
