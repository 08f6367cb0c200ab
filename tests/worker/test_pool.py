"""`docora-ops worker`: its processes, from start to end, and jobs that are killed or paused."""

import os
import time
from signal import SIGCONT, SIGKILL, SIGSTOP, SIGTERM
from threading import Event

import pytest

from tests.support.docora import Docora
from tests.support.proxy import eventually
from tests.support.receiver import Request
from tests.support.running_commands import await_locks, row_locks
from tests.support.snapshots import FILES, Files, Snapshots
from tests.support.worker_processes import (
    await_status,
    await_waiting_worker,
    expire,
    held_worker,
    make_delayed_jobs_due,
    running,
    state,
)

THREE: Files = {"a": "1\n", "b": "2\n", "c": "3\n"}


def test_a_burst_syncs_the_queued_links_and_ends(snapshots: Snapshots) -> None:
    link, upstream = snapshots.add_queued(FILES)
    result = snapshots.work().ended(0)
    assert state(snapshots.docora, link) == ("synced", 0)
    assert snapshots.received().files == upstream.contents()
    assert "Acme ← octo/api: synced, 2 files sent in " in result.stderr


def test_sigterm_lets_the_job_finish_and_ends_within_2_s_after_it(snapshots: Snapshots) -> None:
    link, upstream = snapshots.add_queued(THREE)
    with held_worker(snapshots, "--concurrency", "2") as (gate, worker):
        worker.signal(SIGTERM)
        time.sleep(1.2)
        gate.release()
        await_status(snapshots.docora, link, "synced")
        before = time.monotonic()
        assert worker.end() == 0
        assert time.monotonic() - before < 2.5
    assert snapshots.received().files == upstream.contents()
    snapshots.docora.assert_sound()


def test_status_and_show_tell_which_job_a_worker_runs_since_when(snapshots: Snapshots) -> None:
    def jobs() -> list[str | None]:
        return [worker["job_id"] for worker in docora.run("status", "--json").data["workers"]]

    docora = snapshots.docora
    link, _ = snapshots.add_queued(FILES)
    with held_worker(snapshots) as (gate, worker):
        assert jobs() == [link.job_id]
        assert "\nJob started at\t20" in docora.run("show", *link.ids).stdout
        gate.release()
        await_status(docora, link, "synced")
        await_waiting_worker(docora)
        assert jobs() == [None]
        assert "Job started at" not in docora.run("show", *link.ids).stdout
        worker.stop()


@pytest.mark.slow
def test_sigterm_ends_an_idle_worker_twenty_times_in_a_row(snapshots: Snapshots) -> None:
    for _ in range(20):
        with running(snapshots) as worker:
            await_waiting_worker(snapshots.docora)
            before = time.monotonic()
            worker.stop()
            assert time.monotonic() - before < 2.5


def test_a_second_signal_stops_the_job_and_counts_no_failure(snapshots: Snapshots) -> None:
    link, _ = snapshots.add_queued(FILES)
    with held_worker(snapshots) as (_, worker):
        worker.signal(SIGTERM)
        time.sleep(1.5)
        worker.signal(SIGTERM)
        assert worker.end() == 0
        assert "queued again, no failure is counted: the worker was told to end" in worker.log
    assert state(snapshots.docora, link) == ("pending_snapshot", 0)
    assert snapshots.docora.waiting() == [link.job_id]


def test_the_job_of_a_killed_worker_counts_as_one_try_and_is_run_again(
    snapshots: Snapshots,
) -> None:
    docora = snapshots.docora
    link, upstream = snapshots.add_queued(FILES)
    with held_worker(snapshots) as (_, worker):
        worker.kill()
    assert docora.status(link) == "scanning"
    expire(docora)
    snapshots.receiver.answer = lambda _: 500
    with running(snapshots) as worker:
        worker.await_line("failed after")
        assert "try 2 of 5: HTTP 500 on created b" in worker.log
        assert state(docora, link) == ("pending_snapshot", 2)
        snapshots.receiver.answer = lambda _: 200
        make_delayed_jobs_due(docora)
        await_status(docora, link, "synced")
    assert snapshots.received().files == upstream.contents()


def test_a_link_whose_job_kills_its_worker_ends_as_failed_and_takes_no_other_with_it(
    snapshots: Snapshots,
) -> None:
    docora = snapshots.docora
    links = snapshots.add_links(["Deadly", "Good"])
    deadly, good = links["Deadly"], links["Good"]

    def answer(request: Request) -> int:
        if request.app == "Deadly":
            for child in worker.children:
                os.kill(child, SIGKILL)
        return 200

    snapshots.receiver.answer = answer
    docora.queue_job(deadly)
    docora.redis.hset(f"rq:job:{deadly.job_id}", "retries_left", 1)  # of two tries in all
    with running(snapshots, MAX_RETRY_ATTEMPTS="2") as worker:
        worker.await_line("was killed by signal 9")
        docora.queue_job(good)
        await_status(docora, good, "synced")
        expire(docora)
        worker.signal(SIGTERM)
    with running(snapshots, MAX_RETRY_ATTEMPTS="2") as worker:
        worker.await_line("was killed by signal 9")
        assert state(docora, deadly) == ("scanning", 1)
        expire(docora)
        worker.signal(SIGTERM)
    assert snapshots.work(MAX_RETRY_ATTEMPTS="2").code == 0
    assert state(docora, deadly) == ("failed", 2)
    assert state(docora, good) == ("synced", 0)
    docora.assert_sound()


def test_a_worker_killed_while_it_cleaned_does_not_keep_others_from_cleaning(
    snapshots: Snapshots,
) -> None:
    docora = snapshots.docora
    link = snapshots.add_queued(FILES)[0]
    docora.start_job(link.job_id, is_abandoned=True)
    docora.redis.set(docora.queue.registry_cleaning_key, 1, ex=899)
    assert snapshots.work().code == 0
    assert "wip" not in docora.registries(link.job_id)


def test_a_job_that_was_once_seen_just_taken_does_not_count_as_stuck_the_next_time(
    snapshots: Snapshots,
) -> None:
    docora, link = snapshots.docora, snapshots.add_queued(FILES)[0]
    just_taken = docora.queue.intermediate_queue
    docora.redis.set(just_taken.get_first_seen_key(link.job_id), 0)
    assert just_taken.should_be_cleaned_up(link.job_id)
    snapshots.work().ended(0)
    assert not just_taken.should_be_cleaned_up(link.job_id)


def test_a_job_that_a_worker_is_about_to_queue_again_is_not_queued_a_second_time(
    snapshots: Snapshots,
) -> None:
    docora, link = snapshots.docora, snapshots.add_queued(FILES)[0]
    with held_worker(snapshots) as (_, worker):
        worker.kill()
    expire(docora)
    other = docora.add_link("scanning")  # RQ comes to its job later, and has no further try for it
    docora.start_job(other.job_id, is_abandoned=True)
    with running(snapshots) as worker:
        with row_locks(docora, other):
            await_locks(docora)
            docora.run("repair", *link.ids, env={"DOCORA_OPS_DRIFT_GRACE": "0"}).ended(0)
            assert docora.waiting() == []
        await_status(docora, link, "synced")
        worker.stop()


@pytest.mark.parametrize("still_at_work", [True, False])
def test_a_worker_that_wakes_up_after_another_took_over_sends_and_writes_nothing(
    snapshots: Snapshots, *, still_at_work: bool
) -> None:
    docora = snapshots.docora
    link, upstream = snapshots.add_queued(THREE)
    reached, released = [Event(), Event()], [Event(), Event()]

    def answer(request: Request) -> int:
        if request.path == "b":
            number = 1 if reached[0].is_set() else 0
            reached[number].set()
            released[number].wait(60)
        return 200

    snapshots.receiver.answer = answer
    with running(snapshots) as paused:
        assert reached[0].wait(60)
        paused.signal_all(SIGSTOP)
        expire(docora)
        with running(snapshots) as other:
            assert reached[1].wait(60)
            if not still_at_work:
                released[1].set()
                await_status(docora, link, "synced")
                time.sleep(0.5)
            released[0].set()
            before = docora.row(link)
            paused.signal_all(SIGCONT)
            paused.await_line("another worker" if still_at_work else "the lease is gone")
            paused.await_line("ended with code 75")
            assert docora.row(link) == before
            released[1].set()
            await_status(docora, link, "synced")
            other.stop()
        paused.stop()
    paths = [request.path for request in snapshots.received().requests]
    assert sorted(paths) == ["a", "b", "b", "c"]
    assert snapshots.received().files == upstream.contents()
    docora.assert_sound()


def test_a_lease_that_is_gone_with_all_of_redis_gives_the_try_back(snapshots: Snapshots) -> None:
    link, _ = snapshots.add_queued(FILES)
    with held_worker(snapshots) as (gate, worker):
        snapshots.docora.redis.flushdb()
        gate.release()
        worker.await_line("ended with code 75")
        assert state(snapshots.docora, link) == ("pending_snapshot", 0)
        # The next process is registered in the empty Redis, and works.
        snapshots.queue(link)
        await_status(snapshots.docora, link, "synced")


def test_workers_whose_pool_is_killed_end_after_their_jobs(snapshots: Snapshots) -> None:
    link, _ = snapshots.add_queued(FILES)
    with held_worker(snapshots) as (gate, worker):
        os.kill(worker.pid, SIGKILL)
        gate.release()
        await_status(snapshots.docora, link, "synced")
        eventually(lambda: not worker.processes, "the end of the processes")


def test_suspended_workers_take_no_job_and_stay_registered(
    snapshots: Snapshots, docora: Docora
) -> None:
    docora.redis.set("rq:suspended", 1)
    link, _ = snapshots.add_queued(FILES)
    with running(snapshots) as worker:
        eventually(lambda: docora.redis.keys("rq:worker:*"), "a worker")
        [key] = docora.redis.keys("rq:worker:*")
        docora.redis.expire(key, 10)
        eventually(lambda: docora.redis.ttl(key) > 60, "a heartbeat")
        assert docora.waiting() == [link.job_id]
        docora.redis.delete("rq:suspended")
        await_status(docora, link, "synced")
        worker.stop()


def test_a_job_that_takes_too_long_fails_in_words(snapshots: Snapshots) -> None:
    link, _ = snapshots.add_link(FILES)
    docora = snapshots.docora
    docora.queue_job(link)
    docora.redis.hset(f"rq:job:{link.job_id}", "timeout", 1)
    with held_worker(snapshots, DOCORA_OPS_JOB_TIMEOUT="1") as (gate, worker):
        worker.await_line("failed after")
        gate.release()
        assert "try 1 of 5: the snapshot took longer than 1 s; tried again in 1 s" in worker.log
        await_status(docora, link, "synced")


def test_a_worker_needs_its_settings_rq_and_the_extra(snapshots: Snapshots) -> None:
    assert "ENCRYPTION_KEY is not set" in snapshots.work(ENCRYPTION_KEY=None).ended(2).stderr
    assert "DATABASE_URL is not set" in snapshots.work(DATABASE_URL=None).ended(2).stderr
    beside_bullmq = snapshots.work(DOCORA_OPS_BACKEND="bullmq").ended(4)
    assert "Docora's own workers run" in beside_bullmq.stderr
    (snapshots.folder / "urllib3.py").write_text("raise ModuleNotFoundError(name='urllib3')")
    bare = snapshots.work(PYTHONPATH=str(snapshots.folder)).ended(2)
    assert "the worker's packages are not installed (urllib3 is missing)" in bare.stderr
