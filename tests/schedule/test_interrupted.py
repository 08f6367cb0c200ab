"""A pass of the schedule that ends before its end."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.schedule.checks import BATCH, LINKS, document, job_ids, known_operations, rows
from tests.support.docora import Docora, Result, finish
from tests.support.fork_server import ForkedProcess
from tests.support.own_servers import own_redis
from tests.support.proxy import COMMIT, PUSH, Fault, Plan, Proxy
from tests.support.running_commands import PATIENT, await_goodbye


@contextmanager
def held(
    docora: Docora,
    redis_url: str,
    marker: bytes,
    fault: Fault,
    number: int,
    *,
    as_json: bool = True,
) -> Iterator[tuple[ForkedProcess, Plan]]:
    """A pass that has come to a push or a commit of its third batch."""
    docora.add_links(LINKS, apps=2, status="synced")
    with (
        Proxy.before_redis(redis_url) as redis_proxy,
        Proxy.before_postgres(docora.database_url) as postgres_proxy,
    ):
        plan = (redis_proxy if marker is PUSH else postgres_proxy).plan(marker, fault, number)
        process = docora.start(
            *("schedule", *["--json"] * as_json),
            env={**PATIENT, "REDIS_URL": redis_proxy.url, "DATABASE_URL": postgres_proxy.url},
        )
        plan.wait()
        yield process, plan


def assert_next_pass_does_the_rest(docora: Docora) -> None:
    done = len(docora.waiting())
    assert docora.doubled_jobs() == []
    result = docora.run("schedule", "--json")
    assert result.code == 0, result
    assert (result.data["already_queued"], result.data["queued"]) == (done, LINKS - done)
    assert docora.waiting() == job_ids(docora)
    assert known_operations(docora) == []


@pytest.mark.parametrize(
    ("marker", "fault", "number", "pushed"),
    [
        # The first commit is that of the selection.
        pytest.param(PUSH, Fault.HOLD_REQUEST, 3, {2}, id="before a push"),
        pytest.param(PUSH, Fault.HOLD_REPLY, 3, {3}, id="after a push"),
        pytest.param(COMMIT, Fault.HOLD_REQUEST, 4, {3, 4}, id="before a commit"),
        pytest.param(COMMIT, Fault.HOLD_REPLY, 4, {3, 4}, id="after a commit"),
    ],
)
def test_a_killed_pass_doubles_nothing_and_the_next_one_does_the_rest(
    docora: Docora, marker: bytes, fault: Fault, number: int, pushed: set[int]
) -> None:
    with held(docora, docora.redis_url, marker, fault, number) as (process, _):
        before = rows(docora)
        process.kill()
        assert finish(process).code == -signal.SIGKILL
        await_goodbye(docora)
    assert len(docora.waiting()) / BATCH in pushed
    assert_next_pass_does_the_rest(docora)
    assert rows(docora) == before


def await_stopping(process: ForkedProcess) -> None:
    """Until the pass has said that it has seen the signal."""
    lines = iter(process.stderr.readline, "")
    assert any("Stopping after the batches in hand" in line for line in lines)


def read_to_end(process: ForkedProcess) -> Result:
    """The same as `finish`, where some lines of stderr have been read."""
    with process:
        stderr, stdout = process.stderr.read(), process.stdout.read()
    return Result(process.wait(), stdout, stderr)


@pytest.mark.parametrize(
    ("number", "as_json"),
    [(signal.SIGINT, False), (signal.SIGTERM, True)],
    ids=["SIGINT", "SIGTERM with --json"],
)
def test_one_signal_ends_a_pass_after_the_batches_in_hand(
    docora: Docora, number: signal.Signals, as_json: bool
) -> None:
    hold = held(docora, docora.redis_url, PUSH, Fault.HOLD_REQUEST, 2, as_json=as_json)
    with hold as (process, push):
        process.send_signal(number)
        await_stopping(process)
        push.release()
        result = read_to_end(process)
    assert result.code == 130, result
    done = len(docora.waiting())
    assert done in {2 * BATCH, 3 * BATCH}
    if as_json:
        assert result.json == document(
            "Schedule pass stopped", queued=done, total=LINKS, cancelled=True
        )
    else:
        assert f"Cancelled after {done} of {LINKS} links" in result.stderr
        assert "the same command finishes the rest" in result.stderr
    assert_next_pass_does_the_rest(docora)


def test_a_second_signal_ends_a_pass_at_once(docora: Docora) -> None:
    with held(docora, docora.redis_url, PUSH, Fault.HOLD_REQUEST, 2) as (process, _):
        process.send_signal(signal.SIGINT)
        await_stopping(process)
        process.send_signal(signal.SIGINT)
        result = read_to_end(process)
        assert result.code == 130, result
        assert "Traceback" not in result.stderr
        await_goodbye(docora)
    assert len(docora.waiting()) == BATCH
    assert_next_pass_does_the_rest(docora)


def assert_says_what_was_done(result: Result, code: str, done: int) -> None:
    assert result.code == 5, result
    assert result.json["code"] == code
    expected = document("Schedule pass stopped", queued=done, total=LINKS, cancelled=True)
    assert result.data == expected["data"]
    assert f"Stopped after {done} of {LINKS} links." in result.stderr
    assert "the same command finishes the rest" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_pass_whose_redis_is_lost_says_what_it_has_done(docora: Docora, tmp_path: Path) -> None:
    with own_redis(tmp_path) as own:
        with held(docora, own.url, PUSH, Fault.HOLD_REQUEST, 3) as (process, push):
            before = rows(docora)
            own.stop()
            push.release()
            result = finish(process)
        assert_says_what_was_done(result, "redis", 2 * BATCH)
    assert rows(docora) == before


def test_a_pass_whose_postgres_is_lost_says_what_it_has_done(docora: Docora) -> None:
    with held(docora, docora.redis_url, PUSH, Fault.HOLD_REQUEST, 3) as (process, push):
        ended = docora.connection.execute(
            "SELECT count(pg_terminate_backend(pid)) AS ended FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = 'docora-ops'"
        ).fetchone()
        assert ended == {"ended": 3}
        push.release()
        result = finish(process)
    # The second batch has been pushed, and may have been about to commit.
    done = result.data["queued"]
    assert done in {BATCH, 2 * BATCH}
    assert_says_what_was_done(result, "postgres", done)
    assert_next_pass_does_the_rest(docora)


def test_servers_that_are_not_there_are_named(docora: Docora) -> None:
    docora.add_link("synced")
    before = docora.dump()
    nowhere = "127.0.0.1:1"
    without_redis = docora.run("schedule", "--json", env={"REDIS_URL": f"redis://{nowhere}"})
    without_postgres = docora.run(
        "schedule", "--json", env={"DATABASE_URL": f"postgres://u@{nowhere}/docora"}
    )
    assert (without_redis.code, without_redis.json["code"]) == (5, "redis")
    assert (without_postgres.code, without_postgres.json["code"]) == (5, "postgres")
    assert docora.dump() == before
