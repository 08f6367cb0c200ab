"""What becomes of a job that fails or is killed: in RQ, in its link's row, and in the circuit."""

import json
import os
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from itertools import product
from typing import Any

import pytest
from pydantic import SecretStr
from rq import SimpleWorker
from rq.executions import Execution
from rq.job import Job, JobStatus
from rq.registry import clean_registries

from docora_ops.errors import RedisError as LostRedisError
from docora_ops.errors import SnapshotRunningError
from docora_ops.links import Outcome
from docora_ops.queue import connect
from docora_ops.queue.redis_client import redis_errors
from docora_ops.text import moment
from docora_ops.worker import deliveries, resources
from docora_ops.worker.recovery import LinkRecovery
from docora_ops.worker.rq_worker import SnapshotWorker
from tests.support.delivery_checks import assert_in_sync, events, failure, link_row, repository_row
from tests.support.docora import QUEUE, Docora
from tests.support.proxy import Fault, Proxy, patience, refused_port
from tests.support.raw_app import Talk, raw_app
from tests.support.receiver import Request
from tests.support.rows import TestLink
from tests.support.running_commands import await_locks
from tests.support.snapshots import AUTH_KEY, FILES, Snapshots, Upstream, encrypt
from tests.support.worker_processes import (
    expire_heartbeats,
    has_live_job,
    held_worker,
    make_delayed_jobs_due,
    running,
)


@pytest.mark.slow
def test_a_job_is_tried_again_later_and_later_and_given_up_in_the_end(snapshots: Snapshots) -> None:
    link, _ = snapshots.add_queued(
        {"a": "1", "src/b": "1"}, max_retry_attempts=3, retry_base_delay_ms=20_000
    )
    snapshots.receiver.answer = lambda request: 500 if request.path == "src/b" else 200
    for number, delay in enumerate((20, 40), start=1):
        begun = time.time()
        assert snapshots.work(MAX_RETRY_ATTEMPTS="3").code == 0
        error = "HTTP 500 on created src/b"
        assert link_row(snapshots, link) == ("pending_snapshot", number, error)
        assert snapshots.docora.job(link).get_status() is JobStatus.SCHEDULED
        when = snapshots.docora.redis.zscore(f"rq:scheduled:{QUEUE}", link.job_id)
        assert isinstance(when, float)
        assert begun + delay - 1 <= when <= time.time() + delay + 1
        make_delayed_jobs_due(snapshots.docora)
    assert snapshots.work(MAX_RETRY_ATTEMPTS="3").code == 0
    assert link_row(snapshots, link) == ("failed", 3, "HTTP 500 on created src/b")
    job = snapshots.docora.job(link)
    assert job.get_status() is JobStatus.FAILED
    failed = snapshots.docora.queue.failed_job_registry.key
    assert snapshots.docora.registries(link.job_id) == {failed}
    assert snapshots.docora.waiting() == []
    assert [path for _, path in events(snapshots)] == ["a", "src/b", "src/b", "src/b"]
    result = job.latest_result()
    assert result is not None
    assert result.exc_string is not None
    assert result.exc_string.rstrip().endswith("SnapshotError: HTTP 500 on created src/b")


def test_a_job_without_tries_left_makes_its_link_failed_at_once(snapshots: Snapshots) -> None:
    link, _ = snapshots.add_queued({"a": "1"}, max_retry_attempts=1)
    snapshots.receiver.answer = lambda _: 500
    snapshots.work_here()
    assert link_row(snapshots, link) == ("failed", 1, "HTTP 500 on created a")
    assert snapshots.docora.job(link).get_status() is JobStatus.FAILED


def test_without_settings_jobs_stay(snapshots: Snapshots, monkeypatch: pytest.MonkeyPatch) -> None:
    link, _ = snapshots.add_queued({"a": "1"}, max_retry_attempts=1)
    monkeypatch.setattr(resources, "_resources", None)
    monkeypatch.delenv("DATABASE_URL", raising=False)
    SimpleWorker([snapshots.docora.queue], connection=snapshots.docora.redis).work(burst=True)
    assert link_row(snapshots, link)[0] == "pending_snapshot"
    assert snapshots.docora.job(link).get_status() is JobStatus.SCHEDULED


def test_the_verdict_waits_for_the_disk_though_deliveries_do_not(snapshots: Snapshots) -> None:
    link, _ = snapshots.add_link({"a": "1\n", "b": "2\n"})
    snapshots.docora.connection.execute(
        "CREATE TABLE commits (what text, waits text); GRANT INSERT ON commits TO PUBLIC"
    )
    note = "INSERT INTO public.commits VALUES (TG_NAME, current_setting('synchronous_commit'))"
    for what, event, when in (
        ("delivery", "AFTER INSERT ON app_delivered_files", "true"),
        ("verdict", "AFTER UPDATE ON app_repositories", "NEW.status = 'synced'"),
        ("snapshot", "AFTER INSERT ON repository_snapshots", "true"),
    ):
        snapshots.docora.add_trigger(note, event=event, when=when, name=what)
    snapshots.run_job(link)
    rows = snapshots.docora.connection.execute("SELECT what, waits FROM commits").fetchall()
    assert [(row["what"], row["waits"]) for row in rows] == [
        ("delivery", "off"),
        ("delivery", "off"),
        ("snapshot", "on"),
        ("verdict", "on"),
    ]


ANOTHER_KEY = "it was encrypted with another ENCRYPTION_KEY"


def take_away(upstream: Upstream) -> None:
    """From now on git fails."""
    upstream.path.rename(upstream.path.with_suffix(".away"))


def test_sync_failed_is_these_bytes(snapshots: Snapshots) -> None:
    snapshots.settings_changes = {
        "circuit_breaker_threshold": 1,
        "circuit_breaker_cooldown_ms": 60_000,
    }
    link, upstream = snapshots.add_link({"a": "1"})
    beta = snapshots.link(snapshots.add_app("Beta"), link.repository_id, "synced", retry_count=3)
    elsewhere = snapshots.add_upstream("octo/other")
    other = snapshots.link(snapshots.add_app("Other"), snapshots.add_repository(elsewhere, "o/o"))
    take_away(upstream)
    error = failure(snapshots, link)
    row = repository_row(snapshots, link.repository_id)
    assert timedelta(seconds=50) < row["open_for"] <= timedelta(seconds=60)
    for name, app_id, retry_count in (("Acme", link.app_id, 1), ("Beta", beta.app_id, 3)):
        [request] = snapshots.received(name).requests
        assert request.event == "sync_failed"
        body = request.body.decode()
        assert re.sub(r'"timestamp":"[0-9-]{10}T[0-9:]{8}\.\d{3}Z"', '"timestamp":T', body) == (
            '{"event":"sync_failed",'
            f'"repository":{{"repository_id":"{link.repository_id}","github_url":"{upstream.url}",'
            '"owner":"octo","name":"api"},'
            f'"error":{{"type":"git_failure","message":{json.dumps(error, ensure_ascii=False)}}},'
            '"circuit_breaker":{"status":"open","consecutive_failures":1,"threshold":1,'
            f'"cooldown_until":"{moment(row["circuit_open_until"])}"}},'
            f'"retry_count":{retry_count},"timestamp":T}}'
        )
        assert request.headers["X-Docora-App-Id"] == app_id
    assert link_row(snapshots, beta) == ("synced", 3, "HTTP 500 on created README.md")
    assert link_row(snapshots, other)[0] == "failed"
    assert events(snapshots, "Other") == []


def test_apps_that_can_not_be_told_are_named_in_the_log_and_nothing_else(
    snapshots: Snapshots, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert deliveries._SYNC_FAILED_TIMEOUT == 10
    monkeypatch.setattr(deliveries, "_SYNC_FAILED_TIMEOUT", 0.3)
    snapshots.settings_changes = {"circuit_breaker_threshold": 1}
    link, upstream = snapshots.add_link({"a": "1"})
    take_away(upstream)
    port = refused_port()
    with raw_app(snapshots.receiver, Talk.wait_for_hangup) as silent:
        reasons = {
            "Silent": f"no answer from {silent.host} within 0.3 s",
            "Down": f"127.0.0.1:{port}: Connection refused",
            "Broken": "HTTP 500",
            "Locked": f"its auth key can't be decrypted: {ANOTHER_KEY}",
        }
        urls = {"Silent": silent.base_url, "Down": f"http://127.0.0.1:{port}"}
        apps = {name: snapshots.add_app(name, base_url=urls.get(name)) for name in reasons}
        for app_id in apps.values():
            snapshots.link(app_id, link.repository_id)
        snapshots.docora.connection.execute(
            "UPDATE apps SET client_auth_key_encrypted = %s WHERE app_name = 'Locked'",
            (encrypt(AUTH_KEY, bytes(32)),),
        )
        snapshots.receiver.answer = lambda request: 500 if request.app == "Broken" else 200
        assert "does not" in failure(snapshots, link)
    told = [("sync_failed", "")]
    assert [events(snapshots, name) for name in ("Acme", "Broken", "Locked")] == [told, told, []]
    lines = [record.getMessage() for record in caplog.records if "not told" in record.message]
    assert set(lines) == {
        f"app {apps[name]} was not told of the open circuit: {reason}"
        for name, reason in reasons.items()
    }


OK, FAIL, KILL = "o", "f", "k"


@pytest.mark.slow
def test_every_order_of_failures_and_kills_ends_well(snapshots: Snapshots, docora: Docora) -> None:
    """What befalls each try of each app: the letters of its name tell."""
    stories = [
        "".join(letters) + OK
        for length in range(4)
        for letters in product((FAIL, KILL), repeat=length)
    ]
    tries: Counter[str] = Counter()
    problems: list[str] = []

    def answer(request: Request) -> int:
        event = request.app[tries[request.app]]
        tries[request.app] += 1
        problems.extend([*docora.lost_links(), *docora.doubled_jobs()])
        if event == KILL:
            os.kill(worker.horse(), signal.SIGKILL)
        return 500 if event == FAIL else 200

    snapshots.receiver.answer = answer
    links = snapshots.add_links(stories)
    for link in links.values():
        snapshots.queue(link, max_retry_attempts=3, retry_base_delay_ms=0)
    with running(snapshots, "--burst", MAX_RETRY_ATTEMPTS="3") as worker:
        assert worker.end() == 0
    assert problems == []
    assert tries == {name: min(len(name), 3) for name in stories}
    for name, link in links.items():
        assert not has_live_job(docora, link)
        status, retry_count, error = link_row(snapshots, link)
        if len(name) <= 3:
            assert (status, retry_count, error) == ("synced", 0, None)
            assert snapshots.received(name).files == {"a": b"1\n"}
        else:
            last = "was cut off" if name[2] == KILL else "HTTP 500 on created a"
            assert (status, retry_count) == ("failed", 3)
            assert last in str(error)


def job_of(docora: Docora, link: TestLink) -> Job:
    """A job that waits, with the arguments of the link."""
    job = docora.enqueue(link.job_id)
    job.kwargs = {"app_id": link.app_id, "repository_id": link.repository_id}
    return job


@pytest.mark.parametrize(
    ("status", "tries", "counts", "tries_after", "outcome"),
    [
        ("scanning", 0, True, 0, "failed"),
        ("pending_snapshot", 2, False, 2, "tried_again"),  # its verdict: one more
        ("failed", 2, False, 0, "failed"),  # its verdict: no more
        ("synced", 2, False, 2, "tried_again"),
        ("synced", 0, False, 0, "nothing_to_do"),
    ],
)
def test_a_verdict_that_a_killed_job_has_written_stands(
    snapshots: Snapshots,
    caplog: pytest.LogCaptureFixture,
    status: str,
    tries: int,
    counts: bool,
    tries_after: int,
    outcome: str,
) -> None:
    link = snapshots.docora.add_link(status, retry_count=1, last_error="said before")
    job = job_of(snapshots.docora, link)
    job.retries_left = tries
    recovery = LinkRecovery(snapshots.settings, snapshots.docora.redis)
    recovery.count_killed_job(job, "it fell over")
    counted = ("failed", 2, "the snapshot was cut off: it fell over")
    assert link_row(snapshots, link) == (counted if counts else (status, 1, "said before"))
    assert job.retries_left == tries_after
    assert [vars(record)["outcome"] for record in caplog.records] == [outcome]
    # A link that is gone has no further tries.
    snapshots.docora.delete_link(link)
    job.retries_left = 3
    recovery.count_killed_job(job, "it fell over")
    assert job.retries_left == 0


def test_a_job_that_takes_too_long_fails_in_words_and_is_tried_again(snapshots: Snapshots) -> None:
    limit = round(patience() / 30)
    link, _ = snapshots.add_queued(
        {"a": "1\n"}, max_retry_attempts=3, retry_base_delay_ms=0, job_timeout=limit
    )
    rows: list[tuple[str, int, str | None]] = []

    def answer(_request: Request) -> int:
        rows.append(link_row(snapshots, link))
        if len(rows) == 1:
            over.wait(patience())
        over.set()
        return 200

    over = threading.Event()
    snapshots.receiver.answer = answer
    with running(snapshots, "--burst", DOCORA_OPS_JOB_TIMEOUT=f"{limit}") as worker:
        assert worker.end() == 0
    error = f"the snapshot took longer than {limit} s"
    assert rows == [("scanning", 0, None), ("scanning", 1, error)]
    assert snapshots.docora.status(link) == "synced"


def test_a_killed_job_is_judged_once_its_session_has_ended(snapshots: Snapshots) -> None:
    docora = snapshots.docora
    link = docora.add_link("scanning", retry_count=0, last_error=None)
    job = job_of(docora, link)
    job.retries_left = 2
    recovery = LinkRecovery(snapshots.settings, docora.redis)
    docora.hold_lock(link.job_id)
    with ThreadPoolExecutor(1) as thread:
        judged = thread.submit(recovery.count_killed_job, job, "it fell")
        try:
            await_locks(snapshots.docora)
            # What the job had sent before it was killed arrives now.
            docora.connection.execute("UPDATE app_repositories SET status = 'synced'")
        finally:
            docora.connection.execute("SELECT pg_advisory_unlock_all()")
        judged.result()
    assert link_row(snapshots, link) == ("synced", 0, None)


CUT_OFF = "the snapshot was cut off: its worker's heartbeat stopped"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("docora_ops.actions.repairs.SECOND_LOOK_DELAY", 0.02)


def begin(snapshots: Snapshots, link: TestLink, retry_count: int = 0) -> None:
    """What a worker has done that has just begun the link's waiting job."""
    docora = snapshots.docora
    docora.set_link(link, status="scanning", retry_count=retry_count, last_error=None)
    job = docora.job(link)
    assert docora.redis.lrem(docora.queue.key, 0, link.job_id) == 1
    job.set_status(JobStatus.STARTED)
    with docora.redis.pipeline() as pipeline:
        Execution.create(job, 90, pipeline, worker_name="killed")
        pipeline.execute()


def tidy_up(snapshots: Snapshots, stuck: int = 1) -> None:
    """What each worker does when it starts, and now and then."""
    beats: list[None] = []
    beat = partial(beats.append, None)
    LinkRecovery(snapshots.settings, snapshots.docora.redis).recover_abandoned_links(beat)
    assert len(beats) == stuck  # systemd must not take the worker for dead


def assert_given_up(snapshots: Snapshots, link: TestLink, retry_count: int) -> None:
    assert link_row(snapshots, link) == ("failed", retry_count, CUT_OFF)
    assert not has_live_job(snapshots.docora, link)


@pytest.mark.slow
def test_a_killed_workers_job_is_taken_up_after_its_heartbeat(snapshots: Snapshots) -> None:
    link, upstream = snapshots.add_queued(FILES, max_retry_attempts=3, retry_base_delay_ms=0)
    begin(snapshots, link)
    assert snapshots.work().code == 0
    assert snapshots.docora.status(link) == "scanning"
    expire_heartbeats(snapshots.docora)
    assert snapshots.work().code == 0
    assert_in_sync(snapshots, link, upstream)
    assert not has_live_job(snapshots.docora, link)


def fail_job(docora: Docora, link: TestLink) -> None:
    """As a plain worker does, that knows nothing of the link."""
    expire_heartbeats(docora)
    docora.redis.hset(f"rq:job:{link.job_id}", "retries_left", 0)
    clean_registries(docora.queue, [])
    assert docora.registries(link.job_id) == {f"rq:failed:{QUEUE}"}


LOSSES: dict[str, Callable[[Docora, TestLink], object]] = {
    "failed": fail_job,
    "all of Redis": lambda docora, _: docora.redis.flushdb(),
}


@pytest.mark.parametrize("lose", LOSSES.values(), ids=LOSSES)
def test_a_link_whose_job_was_lost_is_queued_again(
    snapshots: Snapshots, lose: Callable[[Docora, TestLink], object]
) -> None:
    link, _ = snapshots.add_queued(FILES, max_retry_attempts=3)
    begin(snapshots, link, retry_count=1)
    tidy_up(snapshots)
    assert snapshots.docora.row(link)["retry_count"] == 1  # it seems to be at work
    lose(snapshots.docora, link)
    tidy_up(snapshots)
    row = snapshots.docora.row(link)
    assert link_row(snapshots, link) == ("pending_snapshot", 2, CUT_OFF)
    assert snapshots.docora.waiting() == [link.job_id]
    assert snapshots.docora.registries(link.job_id) == set()
    assert snapshots.docora.job(link).kwargs["app_id"] == link.app_id
    tidy_up(snapshots, stuck=0)
    assert snapshots.docora.row(link) == row
    # Lost once too often, it fails.
    begin(snapshots, link, retry_count=4)
    lose(snapshots.docora, link)
    tidy_up(snapshots)
    assert_given_up(snapshots, link, 5)


def test_a_link_in_scan_is_left_alone_even_with_an_empty_redis(snapshots: Snapshots) -> None:
    link, upstream = snapshots.add_queued(FILES, max_retry_attempts=3, retry_base_delay_ms=0)
    with held_worker(snapshots, "--burst") as (gate, worker):
        before = snapshots.docora.row(link)
        snapshots.docora.redis.flushdb()
        assert "left behind" not in snapshots.work().stderr
        assert snapshots.docora.row(link) == before
        assert snapshots.docora.waiting() == []
        gate.release()
        worker.end()
    assert snapshots.docora.status(link) == "synced"
    assert snapshots.received().files == upstream.contents()
    assert len(snapshots.received().requests) == 2


def test_a_job_whose_worker_was_killed_before_it_began_is_not_lost(snapshots: Snapshots) -> None:
    link, upstream = snapshots.add_queued(FILES, max_retry_attempts=2, retry_base_delay_ms=0)
    queue = snapshots.docora.queue
    snapshots.docora.redis.lmove(queue.key, queue.intermediate_queue_key)
    key = queue.intermediate_queue.get_first_seen_key(link.job_id)
    snapshots.docora.redis.set(key, 1)  # long ago
    assert "its worker took it, but never began it; the link is pending" in snapshots.work().stderr
    assert_in_sync(snapshots, link, upstream)
    assert not has_live_job(snapshots.docora, link)


def test_a_cleaning_that_breaks_off_loses_no_job(snapshots: Snapshots, docora: Docora) -> None:
    link, _ = snapshots.add_queued({"a": "1\n"}, max_retry_attempts=3)
    begin(snapshots, link)
    expire_heartbeats(docora)

    def clean(url: str) -> None:
        settings = docora.settings.model_copy(update={"redis_url": SecretStr(url)})
        with connect(settings) as client, redis_errors(client):
            SnapshotWorker(snapshots.settings, client, "w").maintain()

    with Proxy.before_redis(docora.redis_access.worker) as proxy:
        plan = proxy.plan(f"rq:scheduled:{QUEUE}".encode(), Fault.LOSE_REQUEST)
        with pytest.raises(LostRedisError):
            clean(proxy.url)
        assert plan.reached.is_set()
    assert docora.status(link) == "pending_snapshot"
    docora.redis.delete(f"rq:clean_registries:{QUEUE}")
    clean(docora.redis_access.worker)
    assert has_live_job(docora, link)
    assert docora.row(link)["retry_count"] == 1


@pytest.mark.slow
def test_a_command_that_meets_the_recovery_of_abandoned_jobs_queues_none_of_them_again(
    snapshots: Snapshots, docora: Docora
) -> None:
    queued: list[list[str]] = []
    links = snapshots.add_links(["Acme", "Beta", "Last"])
    for app, link in links.items():
        tries = 1 if app == "Last" else 3
        snapshots.queue(link, max_retry_attempts=tries, retry_base_delay_ms=20_000)
        begin(snapshots, link)
    expire_heartbeats(docora)

    class Recovery(LinkRecovery):
        """As soon as a failure is committed, due and failed links are queued."""

        def count_killed_job(self, *arguments: Any, **options: Any) -> None:
            super().count_killed_job(*arguments, **options)
            docora.actions().schedule()
            docora.actions().retry_all()
            queued.append(docora.waiting())

    with connect(snapshots.settings) as client:
        worker = SnapshotWorker(snapshots.settings, client, "worker-1")
        worker.recovery = Recovery(snapshots.settings, client)
        worker.maintain()
    assert queued == [[], [], []]
    places = {app: docora.registries(link.job_id) for app, link in links.items()}
    scheduled, failed = {f"rq:scheduled:{QUEUE}"}, {f"rq:failed:{QUEUE}"}
    assert places == {"Acme": scheduled, "Beta": scheduled, "Last": failed}
    assert docora.redis.keys("rq:execution*") == []  # no job counts as running any longer
    make_delayed_jobs_due(docora)
    log = snapshots.work().stderr
    assert [log.count(f"{app} ← octo/api: synced") for app in links] == [1, 1, 0], log


def test_a_kill_after_the_next_try_was_queued_does_not_double_it(snapshots: Snapshots) -> None:
    docora = snapshots.docora
    with begun(snapshots) as (worker, job, execution):
        [queue] = worker.queues
        parents_copy = worker.job_class.fetch(job.id, worker.connection)
        worker.handle_job_failure(job, queue, execution=execution)
        make_delayed_jobs_due(docora)
        worker._queue_due_jobs()
        assert docora.waiting() == [job.id]
        worker.handle_job_failure(parents_copy, queue, execution=execution)
    assert docora.waiting() == [job.id]
    assert docora.registries(job.id) == set()
    assert docora.job_hash(job.id)["retries_left"] == b"1"


@contextmanager
def begun(snapshots: Snapshots) -> Iterator[tuple[SnapshotWorker, Job, Execution]]:
    """A worker, and the job that it has just begun."""
    link, _ = snapshots.add_queued({"a": "1\n"}, max_retry_attempts=3)
    with connect(snapshots.settings) as client:
        worker = SnapshotWorker(snapshots.settings, client, "worker-1")
        snapshots.docora.redis.lrem(snapshots.docora.queue.key, 0, link.job_id)
        job = worker.job_class.fetch(link.job_id, client)
        execution = worker.prepare_execution(job)
        job.set_status(JobStatus.STARTED)
        yield worker, job, execution


def test_a_job_whose_process_never_began_always_stands_somewhere(snapshots: Snapshots) -> None:
    with begun(snapshots) as (worker, job, execution):
        intermediate = f"rq:queue:{QUEUE}:intermediate"
        snapshots.docora.redis.rpush(intermediate, job.id)
        worker._work_horse_was_killed(job, None, 9, None)
        assert snapshots.docora.redis.lrange(intermediate, 0, -1) == [job.id.encode()]
        worker.handle_job_failure(job, worker.queues[0], execution=execution)
        assert snapshots.docora.redis.lrange(intermediate, 0, -1) == []
        assert snapshots.docora.registries(job.id) == {f"rq:scheduled:{QUEUE}"}


def test_a_retry_keeps_off_a_job_that_is_just_given_up(snapshots: Snapshots) -> None:
    link, _ = snapshots.add_queued({"a": "1\n"}, max_retry_attempts=1)
    docora = snapshots.docora
    intermediate = docora.queue.intermediate_queue
    docora.redis.lmove(docora.queue.key, intermediate.key)
    docora.redis.set(intermediate.get_first_seen_key(link.job_id), 1)
    outcomes = []

    class Recovery(LinkRecovery):
        """Somebody retries the link as soon as its failure is committed."""

        def count_killed_job(self, *arguments: Any, **options: Any) -> None:
            super().count_killed_job(*arguments, **options)
            assert docora.status(link) == "failed"
            try:
                outcomes.append(docora.actions().retry(link).outcome)
            except SnapshotRunningError:
                outcomes.append(Outcome.ALREADY_RUNNING)

    with connect(snapshots.settings) as client:
        worker = SnapshotWorker(snapshots.settings, client, "worker-1")
        worker.recovery = Recovery(snapshots.settings, client)
        worker.maintain()
    assert outcomes == [Outcome.ALREADY_RUNNING]
    assert docora.status(link) == "failed"
    assert docora.registries(link.job_id) == {f"rq:failed:{QUEUE}"}
    assert docora.redis.keys("rq:execution*") == []
    assert docora.redis.llen(intermediate.key) == 0
