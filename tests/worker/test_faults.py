"""Faults of the host and of the servers: no failure of the link, and the worker waits."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from signal import SIGKILL
from typing import Any

import psycopg
import pytest
from pydantic import SecretStr
from redis import Redis, TimeoutError  # noqa: A004
from redis.client import Pipeline
from redis.lock import Lock

from docora_ops.errors import DocoraOpsError, SnapshotError
from docora_ops.worker import host, resources
from docora_ops.worker.lease import Lease
from tests.support.docora import Docora
from tests.support.pgbouncer import PROGRAM, pgbouncer
from tests.support.proxy import Proxy
from tests.support.rows import TestLink
from tests.support.snapshots import FILES, Snapshots, encrypt
from tests.support.worker_processes import (
    await_status,
    await_waiting_worker,
    expire,
    held_worker,
    running,
    state,
)
from tests.worker.full_disk import with_own_mounts, worker_on_disk
from tests.worker.jobs import run_job

UNCOUNTED = "no failure is counted: "


def fault_after(snapshots: Snapshots, link: TestLink) -> DocoraOpsError | None:
    """Runs the link's job. Returns the fault that the worker would wait for."""
    run_job(snapshots, link)
    return resources.current_resources().fault


def test_another_encryption_key_is_no_failure_unless_only_one_app_has_it(
    snapshots: Snapshots, docora: Docora
) -> None:
    link, _ = snapshots.add_link(FILES, retry_count=0)
    snapshots.settings_changes["encryption_key"] = SecretStr("11" * 32)
    fault = fault_after(snapshots, link)
    assert fault is not None
    assert fault.message == "ENCRYPTION_KEY decrypts none of the auth keys of 1 app"
    assert state(docora, link) == ("pending_snapshot", 0)
    refused = snapshots.work(ENCRYPTION_KEY="11" * 32).ended(4)
    assert "Error: ENCRYPTION_KEY decrypts none of the auth keys of 1 app" in refused.stderr
    other = snapshots.add_app("Other")
    docora.connection.execute(
        "UPDATE apps SET client_auth_key_encrypted = %s WHERE app_id = %s",
        (encrypt("key", bytes.fromhex("11" * 32)), other),
    )
    with pytest.raises(SnapshotError, match="can't be decrypted"):
        run_job(snapshots, link, tries=1)
    assert state(docora, link) == ("pending_snapshot", 1)


def test_a_wrong_clock_is_no_failure(
    snapshots: Snapshots, docora: Docora, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, _ = snapshots.add_link(FILES, retry_count=0)
    monkeypatch.setattr(host, "server_time", lambda _: time.time() + 60)
    monkeypatch.setattr(host, "_checked_at", 0.0)
    fault = fault_after(snapshots, link)
    assert fault is not None
    assert "is 60 s behind Redis's" in fault.message
    assert state(docora, link) == ("pending_snapshot", 0)
    monkeypatch.undo()
    monkeypatch.setattr(host, "_checked_at", 0.0)
    assert fault_after(snapshots, link) is None
    assert state(docora, link) == ("synced", 0)


def test_a_host_without_git_refuses_to_start(snapshots: Snapshots, tmp_path: Path) -> None:
    result = snapshots.work(PATH=str(tmp_path)).ended(4)
    assert "can't start git: No such file or directory" in result.stderr


@with_own_mounts
def test_a_full_disk_counts_against_no_link_and_jobs_wait_until_there_is_room(
    snapshots: Snapshots, docora: Docora
) -> None:
    link, _ = snapshots.add_link({"a": "1\n"})
    with worker_on_disk(snapshots, CIRCUIT_BREAKER_THRESHOLD="1") as (disk, worker):
        disk.fill()
        snapshots.queue(link)
        worker.await_line("takes no job: ")
        assert UNCOUNTED in worker.log
        assert state(docora, link) == ("pending_snapshot", 0)
        assert docora.waiting() == [link.job_id]
        assert docora.one("SELECT consecutive_failures FROM repositories") == 0
        disk.free()
        worker.await_line("takes jobs again")
        await_status(docora, link, "synced")
    assert state(docora, link) == ("synced", 0)


@with_own_mounts
def test_a_repository_that_is_too_large_for_the_disk_counts_as_the_links_own_fault(
    snapshots: Snapshots, docora: Docora
) -> None:
    link, _ = snapshots.add_link({f"{number}": os.urandom(6 << 20) for number in range(3)})
    with worker_on_disk(snapshots, mebibytes=12, MAX_RETRY_ATTEMPTS="1") as (_, worker):
        snapshots.queue(link)
        await_status(docora, link, "failed")
        assert "takes no job" not in worker.log
    assert "No space left on device" in docora.row(link)["last_error"]


@pytest.mark.parametrize("name", ["DATABASE_URL", "REDIS_URL"])
def test_a_server_that_goes_away_in_the_middle_of_a_job_fails_no_link(
    snapshots: Snapshots, docora: Docora, name: str
) -> None:
    link, upstream = snapshots.add_queued(FILES)
    connect = Proxy.before_postgres if name == "DATABASE_URL" else Proxy.before_redis
    url = docora.database_url if name == "DATABASE_URL" else docora.redis_url
    with connect(url) as proxy, held_worker(snapshots, **{name: proxy.url}) as (gate, worker):
        proxy.go_away()
        gate.release()
        worker.await_line(UNCOUNTED if name == "DATABASE_URL" else "waits until it answers")
        time.sleep(2)
        assert docora.status(link) == "scanning"
        proxy.come_back()
        await_status(docora, link, "synced")
        worker.stop()
    assert state(docora, link) == ("synced", 0)
    assert "failed" not in worker.log
    assert snapshots.received().files == upstream.contents()
    docora.assert_sound()


def test_servers_that_are_away_while_no_job_runs_are_waited_for(
    snapshots: Snapshots, docora: Docora
) -> None:
    with (
        Proxy.before_postgres(docora.database_url) as postgres,
        Proxy.before_redis(docora.redis_url) as redis,
        running(snapshots, DATABASE_URL=postgres.url, REDIS_URL=redis.url) as worker,
    ):
        link, _ = snapshots.add_link(FILES)
        worker.await_ready()
        for proxy in (postgres, redis):
            await_waiting_worker(docora)
            proxy.go_away()
            if proxy is postgres:
                snapshots.queue(link)
            time.sleep(4)
            proxy.come_back()
            snapshots.queue(link)
            await_status(docora, link, "synced")
            assert state(docora, link) == ("synced", 0)
        worker.stop()
    assert "failed" not in worker.log
    assert "Traceback" not in worker.log


@pytest.mark.skipif(PROGRAM is None, reason="PgBouncer is not installed")
def test_jobs_and_kills_behind_a_pgbouncer_that_pools_transactions(
    snapshots: Snapshots, docora: Docora
) -> None:
    link, upstream = snapshots.add_queued(FILES)
    with pgbouncer(docora.database_url, 2) as url:
        with held_worker(snapshots, DATABASE_URL=url) as (_, worker):
            worker.signal_all(SIGKILL)
        expire(docora)
        with running(snapshots, "--concurrency", "3", DATABASE_URL=url) as worker:
            await_status(docora, link, "synced")
            worker.stop()
    assert snapshots.received().files == upstream.contents()


def test_a_row_that_cannot_be_written_holds_up_no_other_job(
    snapshots: Snapshots, docora: Docora
) -> None:
    bad, good = snapshots.add_links(["Bad", "Good"]).values()
    snapshots.queue(bad)
    snapshots.queue(good)
    docora.add_trigger("RAISE EXCEPTION 'poison'", when=f"old.app_id = '{bad.app_id}'")
    with running(snapshots) as worker:
        await_status(docora, good, "synced")
        worker.stop()
    assert "refuses: poison" in worker.log
    assert "takes no job" not in worker.log
    docora.assert_sound()


def test_a_link_whose_row_is_locked_waits_without_a_failure(
    snapshots: Snapshots, docora: Docora
) -> None:
    link, _ = snapshots.add_link(FILES)
    with psycopg.connect(docora.database_url) as other:
        other.execute("SELECT FROM app_repositories FOR UPDATE")
        run_job(snapshots, link)
    assert state(docora, link) == ("failed", docora.row(link)["retry_count"])
    run_job(snapshots, link)
    assert state(docora, link) == ("synced", 0)


def lease(client: Redis, give_back: Callable[[], None] = lambda: None) -> Lease:
    return Lease(client, "a-b", give_back)


def test_a_lease_belongs_to_one_and_tells_whether_the_last_try_was_given_back(
    docora: Docora,
) -> None:
    first, second = lease(docora.redis), lease(docora.redis)
    assert first.acquire()
    assert not second.acquire()
    second.look()  # whoever has none has nothing to lose
    second.release()
    first.look()
    first.mark_given_back()
    first.release()
    assert second.acquire()
    assert second.was_given_back
    second.release()
    assert first.acquire()
    assert not first.was_given_back
    docora.redis.pexpire("docora-ops:lease:a-b", 1000)
    beats: list[int] = []
    first.renew(lambda: beats.append(1))
    assert beats == [1]
    assert docora.redis.ttl("docora-ops:lease:a-b") > 80


def test_a_lease_is_taken_and_given_up_although_the_reply_of_redis_was_lost(
    docora: Docora, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose_reply(command: Callable[[Any], Any]) -> Callable[[Any], Any]:
        replies = iter([TimeoutError])

        def run(client: Any) -> Any:
            reply = command(client)
            for error in replies:
                raise error
            return reply

        return run

    monkeypatch.setattr(Pipeline, "execute", lose_reply(Pipeline.execute))
    monkeypatch.setattr(Lock, "release", lose_reply(Lock.release))
    calls: list[int] = []
    ours, other = lease(docora.redis, lambda: calls.append(1)), lease(docora.redis)
    assert ours.acquire()
    assert not other.acquire()
    ours.look()
    ours.release()
    assert calls == []
    assert other.acquire()


@pytest.mark.parametrize(("owner", "given_back"), [("other", 0), (None, 1)])
@pytest.mark.parametrize("what", ["look", "release", "renew"])
def test_a_process_that_has_lost_its_lease_ends_at_once(
    docora: Docora, monkeypatch: pytest.MonkeyPatch, what: str, owner: str | None, given_back: int
) -> None:
    def leave(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr("os._exit", leave)
    calls: list[int] = []
    ours = lease(docora.redis, lambda: calls.append(1))
    assert ours.acquire()
    docora.redis.delete("docora-ops:lease:a-b")
    if owner:
        docora.redis.set("docora-ops:lease:a-b", owner)
    with pytest.raises(SystemExit, match="75"):
        getattr(ours, what)(*([lambda: calls.append(2)] if what == "renew" else []))
    assert calls == [1] * given_back
    assert docora.redis.get("docora-ops:lease:a-b") == (owner and owner.encode())
