"""The locks of links and repositories, and jobs that lose Postgres or begin too early."""

import signal
import sys
from pathlib import Path

import psycopg
import pytest
from pydantic import SecretStr
from rq.job import JobStatus

from docora_ops.database import Session, link_scans
from docora_ops.database.link_scans import begin_scan
from docora_ops.errors import SnapshotError
from docora_ops.worker import clone, snapshot_job
from docora_ops.worker.clone import RepositoryLock
from tests.support.delivery_checks import assert_in_sync, events, git_failures, link_row
from tests.support.diagnoses import ONE_LOOK
from tests.support.docora import Docora
from tests.support.git_over_http import Gate, GitHandler, GitSite, basic
from tests.support.pgbouncer import Neighbours, needs_pgbouncer, pgbouncer
from tests.support.proxy import Fault, Proxy, eventually
from tests.support.receiver import Request
from tests.support.rows import TestLink
from tests.support.running_commands import terminate_sessions
from tests.support.snapshots import FILES, TOKEN, Snapshots, Upstream
from tests.support.worker_processes import (
    expire_heartbeats,
    has_live_job,
    held_worker,
    make_delayed_jobs_due,
    running,
    running_program,
)

RQ = Path(sys.executable).parent / "rq"


def assert_synced(snapshots: Snapshots, link: TestLink, upstream: Upstream) -> None:
    assert_in_sync(snapshots, link, upstream)
    assert not has_live_job(snapshots.docora, link)


@pytest.mark.slow
def test_a_worker_that_was_paused_past_its_heartbeat_finishes_alone(snapshots: Snapshots) -> None:
    link, upstream = snapshots.add_queued(FILES, retry_base_delay_ms=0)
    with held_worker(snapshots, "--burst") as (gate, paused):
        paused.signal_all(signal.SIGSTOP)
        expire_heartbeats(snapshots.docora)
        with running(snapshots, "--burst", DOCORA_OPS_LOCK_TIMEOUT="1") as second:
            assert second.end() == 0
        assert (
            "its worker's heartbeat stopped; not marked: another session has held a lock"
            in second.log
        )
        assert "nothing to do: another job is at work on it" in second.log
        assert link_row(snapshots, link)[:2] == ("scanning", 0)
        paused.signal_all(signal.SIGCONT)
        gate.release()
        assert paused.end() == 0
    assert_synced(snapshots, link, upstream)
    assert events(snapshots) == [("create", "a"), ("create", "b")]


def test_a_job_that_has_lost_its_link_to_another_writes_no_verdict(
    snapshots: Snapshots, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot_job, "LOCK_TIMEOUT", 0.2)
    link, _ = snapshots.add_queued(FILES, max_retry_attempts=1)
    before = []

    def answer(request: Request) -> int:
        terminate_sessions(snapshots.docora)
        snapshots.docora.hold_lock(link.job_id)  # another job has begun
        before.append(snapshots.docora.row(link))
        return 200

    snapshots.receiver.answer = answer
    snapshots.work_here()
    assert snapshots.docora.row(link) == before[0]
    assert before[0]["status"] == "scanning"
    assert events(snapshots) == [("create", "a")]
    assert has_live_job(snapshots.docora, link)


def test_a_job_whose_link_another_job_has_brought_up_to_date_ends_quietly(
    snapshots: Snapshots,
) -> None:
    docora = snapshots.docora
    link, _ = snapshots.add_queued(FILES, max_retry_attempts=3)

    def answer(_: Request) -> int:
        terminate_sessions(docora)
        docora.set_link(link, status="synced")
        return 200

    snapshots.receiver.answer = answer
    snapshots.work_here()
    assert link_row(snapshots, link) == ("synced", 0, None)
    assert events(snapshots) == [("create", "a")]
    assert not has_live_job(docora, link)
    assert docora.job(link).get_status() is JobStatus.FINISHED


@pytest.mark.slow
def test_a_job_that_loses_postgres_keeps_a_try_until_it_is_back(snapshots: Snapshots) -> None:
    link, upstream = snapshots.add_queued(FILES, max_retry_attempts=1)
    with Proxy.before_postgres(snapshots.docora.database_access.worker) as proxy:

        def go_away(_request: Request) -> int:
            proxy.__exit__()
            return 200

        snapshots.receiver.answer = go_away
        with running(snapshots, "--burst", DATABASE_URL=proxy.url) as worker:
            assert worker.end() == 5
    assert "its link can't be marked" in worker.log
    assert snapshots.docora.status(link) == "scanning"
    assert snapshots.docora.job(link).get_status() is JobStatus.SCHEDULED
    # Still away: it is not taken.
    make_delayed_jobs_due(snapshots.docora)
    with running(snapshots, "--burst", DATABASE_URL=proxy.url) as worker:
        assert worker.end() == 5
    assert worker.log.count("Postgres") == worker.log.count("can't be reached") == 1
    assert snapshots.docora.job(link).get_status() is JobStatus.SCHEDULED
    make_delayed_jobs_due(snapshots.docora)
    snapshots.receiver.answer = lambda _: 200
    assert snapshots.work().code == 0
    assert_synced(snapshots, link, upstream)


@pytest.mark.slow
def test_a_plain_rq_worker_serves_the_jobs_just_as_well(
    snapshots: Snapshots, site: GitSite, link: TestLink, upstream: Upstream
) -> None:
    site.token = TOKEN
    bad = snapshots.link(snapshots.add_app("Bad"), link.repository_id)
    for each in (link, bad):
        snapshots.set_token(each, TOKEN)
        snapshots.queue(each, max_retry_attempts=2, retry_base_delay_ms=0)
    answers = [500, 200, 200]
    snapshots.receiver.answer = lambda request: answers.pop(0) if request.app == "Acme" else 500
    command = [
        str(RQ), "worker", "snapshot-queue", "--with-scheduler", "--burst",
        "--url", snapshots.docora.redis_access.worker,
    ]  # fmt: skip
    with running_program(command, snapshots) as worker:
        output = worker.process.stdout.read() if worker.process.stdout else ""
        assert worker.end() == 0
    assert_synced(snapshots, link, upstream)
    assert link_row(snapshots, bad) == ("failed", 2, "HTTP 500 on created README.md")
    assert not has_live_job(snapshots.docora, bad)
    assert basic(TOKEN) in site.logins
    assert TOKEN not in worker.log + output


def test_a_job_whose_link_is_held_by_a_session_that_outlives_its_own_job_is_tried_again(
    snapshots: Snapshots, docora: Docora, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot_job, "LOCK_TIMEOUT", 0.2)
    link, upstream = snapshots.add_queued({"a": "1\n"}, max_retry_attempts=1)
    docora.set_link(link, status="synced")
    docora.hold_lock(link.job_id)
    snapshots.work_here()
    assert docora.status(link) == "synced"
    assert docora.row(link)["retry_count"] == 0
    assert has_live_job(docora, link)
    docora.connection.execute("SELECT pg_advisory_unlock_all()")
    make_delayed_jobs_due(docora)
    assert snapshots.work().code == 0
    assert_in_sync(snapshots, link, upstream)


KEY = "docora:repo-lock:octo/api"


def test_a_lock_that_is_held_for_long_fails_neither_the_job_nor_the_repository(
    snapshots: Snapshots, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, upstream = snapshots.add_link({"a": "1\n"}, status="synced", retry_count=0)
    redis = snapshots.docora.redis
    monkeypatch.setattr(clone, "LOCK_TIMEOUT", 0.03)
    redis.set(KEY, "somebody else")
    redis.set("docora:repo-lock:octo/other", "somebody else")
    with pytest.raises(SnapshotError, match="another job has the lock of octo/api"):
        snapshots.run_job(link)
    assert snapshots.docora.status(link) == "pending_snapshot"
    assert snapshots.docora.row(link)["retry_count"] == 0
    assert git_failures(snapshots, link) == 0
    assert redis.get(KEY) == b"somebody else"
    assert not (snapshots.repos / ".docora-ops").exists()
    redis.delete(KEY)
    snapshots.run_job(link)
    assert_in_sync(snapshots, link, upstream)


@pytest.mark.slow
def test_the_lock_of_a_killed_host_takes_no_slot_and_no_try_of_another_apps_job(
    snapshots: Snapshots, docora: Docora, site: GitSite, link: TestLink, upstream: Upstream
) -> None:
    other = snapshots.link(snapshots.add_app("Other"), link.repository_id)
    web = snapshots.add_upstream("octo/web")
    web.commit(FILES)
    elsewhere = snapshots.link(snapshots.add_app("Web"), snapshots.add_repository(web, "octo/web"))
    gate = Gate()

    def hold(_handler: GitHandler) -> bool:
        if not gate.released.is_set() and docora.redis.exists(KEY):  # of the fetch
            gate.hold()
        return True

    site.intercept = hold
    snapshots.queue(link)
    with running(snapshots) as killed:
        gate.wait()
        killed.signal_all(signal.SIGKILL)
        killed.end()
    gate.release()
    for each in (other, elsewhere):
        snapshots.queue(each, max_retry_attempts=1)
    with running(snapshots) as worker:
        eventually(lambda: docora.status(elsewhere) == "synced", "the job behind it")
        assert docora.redis.get(KEY) == link.job_id.encode()
        assert link_row(snapshots, other) == ("pending_snapshot", 0, None)
        worker.await_line("in 10 s; no failure is counted: another job has the lock of octo/api")
        worker.stop()
    job = docora.job(other)
    assert (job.get_status(), job.retries_left) == (JobStatus.SCHEDULED, 0)
    shown = docora.run("show", *other.ids).stdout + docora.run("status").stdout
    assert "Last tries" not in shown
    assert "tried again" not in shown
    queue = docora.run("queue", "--json").data
    assert [job["error_message"] for job in queue["jobs"] if job["status"] == "delayed"] == [None]
    assert docora.run("doctor", "--json", env=ONE_LOOK).data["drift"]["total"] == 0
    docora.redis.delete(KEY)  # it has expired
    make_delayed_jobs_due(docora)
    assert snapshots.work().code == 0
    assert_in_sync(snapshots, other, upstream, "Other")
    assert not has_live_job(docora, other)


@pytest.mark.slow
def test_a_job_cut_off_while_it_gives_its_slot_back_is_not_lost(snapshots: Snapshots) -> None:
    link, upstream = snapshots.add_queued({"a": "1\n"}, max_retry_attempts=3)
    docora = snapshots.docora
    docora.redis.set(KEY, "another job")
    with Proxy.before_redis(docora.redis_access.worker) as proxy:
        plan = proxy.plan(b"failed_job_count", Fault.LOSE_REQUEST)
        with running(snapshots, "--burst", REDIS_URL=proxy.url) as worker:
            worker.end()
        assert plan.reached.is_set()
    assert "another job has the lock of octo/api" in worker.log
    assert link_row(snapshots, link)[:2] == ("pending_snapshot", 0)
    assert has_live_job(docora, link)  # which looks as if it still ran
    docora.redis.delete(KEY)
    expire_heartbeats(docora)
    for _ in range(2):
        assert snapshots.work().code == 0
        make_delayed_jobs_due(docora)
    assert_synced(snapshots, link, upstream)
    assert len(snapshots.received().requests) == 1


def test_only_its_owner_releases_and_renews_the_lock(snapshots: Snapshots) -> None:
    redis = snapshots.docora.redis
    lock = RepositoryLock(redis, "octo/api", "app_1-repo_1")
    with lock.held():
        redis.pexpire(KEY, 5000)
        lock.renew()
        assert 100_000 < int(redis.pttl(KEY)) <= 120_000
        redis.set(KEY, "somebody else", px=5000)
        with pytest.raises(SnapshotError, match="was lost while git worked"):
            lock.renew()
    assert redis.get(KEY) == b"somebody else"
    assert int(redis.pttl(KEY)) <= 5000


@needs_pgbouncer
def test_a_worker_refuses_to_start_where_transactions_are_pooled(snapshots: Snapshots) -> None:
    link, _ = snapshots.add_queued({"a": "1\n"})
    database = snapshots.docora.database_access
    with (
        pgbouncer(database, "transaction", 3) as access,
        Neighbours(database, access.worker).at_work(),
    ):
        result = snapshots.work("--concurrency", "2", DATABASE_URL=access.worker)
    assert (result.code, result.stdout) == (5, ""), result
    error, hint = result.stderr.splitlines()
    assert error.startswith("Error: ")
    assert "leads to a proxy that pools transactions" in error
    assert hint.startswith("Hint: ")
    assert "pool_mode" in hint
    assert snapshots.docora.waiting() == [link.job_id]
    assert snapshots.docora.redis.keys("rq:worker*") == []


@pytest.mark.slow
@needs_pgbouncer
def test_a_worker_works_where_sessions_are_pooled(snapshots: Snapshots) -> None:
    link, upstream = snapshots.add_queued({"a": "1\n"})
    database = snapshots.docora.database_access
    with pgbouncer(database, "session", 8) as access, Neighbours(database, access.worker).at_work():
        snapshots.work(DATABASE_URL=access.worker).ended(0)
    assert_in_sync(snapshots, link, upstream)


@needs_pgbouncer
def test_a_job_that_loses_its_lock_sends_nothing(
    snapshots: Snapshots, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, _ = snapshots.add_link({"a": "1\n"})
    with (
        pgbouncer(snapshots.docora.database_access, "transaction", 2) as access,
        psycopg.connect(access.worker) as other,
    ):

        def begin(session: Session, *ids: str) -> object:
            assert session.id  # connects
            other.execute("SELECT 1")  # in the session that the job has had so far
            return begin_scan(session, *ids)

        monkeypatch.setattr(link_scans, "begin_scan", begin)
        snapshots.settings_changes = {"database_url": SecretStr(access.worker)}
        with pytest.raises(SnapshotError, match="has not got the link's lock"):
            snapshots.run_job(link)
    assert snapshots.received().requests == []
    assert "a proxy that pools sessions" in snapshots.docora.row(link)["last_error"]
