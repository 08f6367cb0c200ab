"""A bulk retry that is looked at, stopped, or overtaken on its way."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg

from tests.bulk.documents import OPERATION_ID, counts
from tests.support.docora import COMMAND, Docora, Result, finish
from tests.support.fork_server import ForkedProcess
from tests.support.rows import TestLink


@contextmanager
def held_midway(
    docora: Docora, *options: str, links: int = 300
) -> Iterator[tuple[ForkedProcess, str, Callable[[], Result]]]:
    """A run of one link a batch, held (SIGSTOP) when it has told its id and done some links.

    Yields the process, the id, and a function that lets it go on and returns its result.
    """
    docora.add_worker()
    docora.add_links(links)
    with docora.start("retry-all-failed", "--batch-size", "1", *options) as process:
        first_line = process.stderr.readline()
        wait_until_completed(docora, 1)
        process.send_signal(signal.SIGSTOP)

        def go_on() -> Result:
            process.send_signal(signal.SIGCONT)
            stderr, stdout = process.stderr.read(), process.stdout.read()
            return Result(process.wait(timeout=30), stdout, first_line + stderr)

        try:
            [operation_id] = OPERATION_ID.findall(first_line)
            yield process, operation_id, go_on
        finally:
            process.kill()


def test_another_terminal_can_follow_and_cancel_by_the_id_printed_at_the_start(
    docora: Docora,
) -> None:
    with held_midway(docora, "--json") as (_, operation_id, go_on):
        shown = docora.run("progress", operation_id, "--json")
        assert (shown.code, shown.data["total"]) == (0, 300)
        assert 1 <= shown.data["completed"] < 300
        cancelled = docora.run("cancel", operation_id, "--json")
        assert cancelled.code == 0, cancelled
        result = go_on()

    assert result.code == 6, result
    data = result.data
    assert data["cancelled"] is True
    # Two batches may have been in hand.
    assert shown.data["completed"] <= data["completed"] <= shown.data["completed"] + 3
    assert docora.statuses() == {
        "failed": 300 - data["completed"],
        "pending_snapshot": data["completed"],
    }
    assert len(docora.waiting()) == data["completed"]
    fields = docora.redis.hgetall(f"docora:bulk:{operation_id}")
    assert fields[b"cancelled"] == b"true"
    assert int(fields[b"completed"]) == data["completed"]

    rest = docora.run("retry-all-failed", "--json")
    assert rest.data["total"] == 300 - data["completed"]
    assert docora.statuses() == {"pending_snapshot": 300}
    assert docora.doubled_jobs() == []


def test_a_first_signal_ends_the_run_after_the_batches_in_hand(docora: Docora) -> None:
    with held_midway(docora) as (process, operation_id, go_on):
        process.send_signal(signal.SIGTERM)
        result = go_on()
    assert result.code == 130, result
    assert "finishes the rest" in result.stderr
    done = docora.statuses()["pending_snapshot"]
    assert 1 <= done < 300
    assert f"{done} of 300 links" in result.stderr
    assert len(docora.waiting()) == done
    assert docora.lost_links() == []
    assert docora.redis.hget(f"docora:bulk:{operation_id}", "cancelled") == b"true"


def test_a_signal_while_the_operation_is_announced_cancels_it_for_all_to_see(
    docora: Docora,
) -> None:
    docora.add_worker()
    docora.add_links(3)
    before = docora.statuses()
    # The first line on stderr, which tells the operation's id, finds no room in the pipe.
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * 4096)
    os.set_blocking(writer, True)
    with subprocess.Popen(
        [COMMAND, "retry-all-failed", "--json"],
        env=docora.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=writer,
        text=True,
        start_new_session=True,
    ) as process:
        os.close(writer)
        deadline = time.monotonic() + 20
        while not (keys := list(docora.redis.scan_iter("docora:bulk:*"))):
            assert time.monotonic() < deadline
        process.send_signal(signal.SIGTERM)
        while os.read(reader, 65536):
            pass
        assert process.stdout is not None
        document = process.stdout.read()
    os.close(reader)
    assert process.returncode == 130
    assert document.count("\n") == 1
    assert docora.statuses() == before
    assert docora.redis.hget(keys[0].decode(), "cancelled") == b"true"


@contextmanager
def row_held(docora: Docora, link: TestLink) -> Iterator[psycopg.Connection[Any]]:
    """The link's row, locked by somebody else."""
    with psycopg.connect(docora.database_access.owner) as other:
        other.execute(
            "SELECT 1 FROM app_repositories WHERE app_id = %s AND repository_id = %s FOR UPDATE",
            (link.app_id, link.repository_id),
        )
        yield other


def completed_so_far(docora: Docora) -> int:
    keys = list(docora.redis.scan_iter("docora:bulk:*"))
    return int(docora.redis.hget(keys[0], "completed") or 0) if keys else 0


def wait_until_completed(docora: Docora, links: int) -> None:
    deadline = time.monotonic() + 20
    while completed_so_far(docora) < links:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_link_that_changed_after_it_was_listed_is_skipped(docora: Docora) -> None:
    first, held, last = (docora.add_link() for _ in range(3))
    with row_held(docora, held) as other, docora.start("retry-all-failed", "--json") as process:
        wait_until_completed(docora, 2)
        other.execute(
            "UPDATE app_repositories SET status = 'synced' WHERE app_id = %s", (held.app_id,)
        )
        other.commit()
        result = finish(process)
    assert result.code == 0, result
    assert {name: result.data[name] for name in counts()} == counts(queued=2, skipped=1)
    assert docora.status(held) == "synced"
    assert docora.waiting() == [first.job_id, last.job_id]


def test_an_operation_cancelled_before_its_last_look_leaves_the_rest_alone(
    docora: Docora,
) -> None:
    held, _ = docora.add_link(), docora.add_link()
    before = docora.row(held)
    with row_held(docora, held) as other, docora.start("retry-all-failed", "--json") as process:
        wait_until_completed(docora, 1)
        process.send_signal(signal.SIGSTOP)
        [key] = docora.redis.scan_iter("docora:bulk:*")
        cancelled = docora.run("cancel", key.decode().removeprefix("docora:bulk:"))
        other.rollback()
        process.send_signal(signal.SIGCONT)
        result = finish(process)
    assert cancelled.code == 0, cancelled
    assert docora.row(held) == before
    assert result.code == 6, result
    assert (result.data["cancelled"], result.data["completed"]) == (True, 1)
