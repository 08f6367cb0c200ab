"""The record of outcomes: what workers write after the end of each job, and what is not written."""

import os
import shutil
from datetime import UTC, datetime, timedelta
from signal import SIGKILL

import pytest

from docora_ops.database.link_scans import Ending
from docora_ops.jobs import JobEnd
from docora_ops.queue import outcomes
from docora_ops.queue.outcomes import (
    ALL_APPS,
    STREAM,
    OutcomeFilter,
    SnapshotOutcome,
    read_counts,
    read_outcomes,
)
from docora_ops.queue.redis_client import server_time
from docora_ops.worker.tries import Tries
from tests.support.delivery_checks import link_row
from tests.support.docora import Docora
from tests.support.proxy import Fault, Proxy, eventually
from tests.support.rows import TestLink
from tests.support.snapshots import FILES, Snapshots
from tests.support.worker_processes import held_worker, make_delayed_jobs_due, running


def recorded(docora: Docora) -> list[SnapshotOutcome]:
    """The entries, oldest first."""
    return list(read_outcomes(docora.redis, OutcomeFilter()).entries[::-1])


def counted(docora: Docora, app_id: str = ALL_APPS) -> dict[str, tuple[int, int]]:
    """Ends and files by outcome, of one app or of all."""
    since = datetime.fromtimestamp(server_time(docora.redis), UTC) - timedelta(hours=1)
    counts: dict[str, tuple[int, int]] = {}
    for count in read_counts(docora.redis, since, datetime.now(UTC), app_id=app_id).counts:
        ends, files = counts.get(count.outcome, (0, 0))
        counts[str(count.outcome)] = (ends + count.count, files + count.files)
    return counts


@pytest.mark.slow
def test_tries_are_entries_and_unchanged_rescans_are_counted(snapshots: Snapshots) -> None:
    docora = snapshots.docora
    link, upstream = snapshots.add_queued(FILES, max_retry_attempts=3, retry_base_delay_ms=0)
    answers = [200, 502, 200, 200, 200]
    snapshots.receiver.answer = lambda _: answers.pop(0)
    assert snapshots.work("--name", "w1").code == 0
    commit = upstream.commit({"a": None, "b": "22\n"})
    docora.set_link(link, last_scanned_at=None)
    assert docora.run("schedule").code == 0
    assert snapshots.work().code == 0
    docora.set_link(link, last_scanned_at=None)
    assert docora.run("schedule").code == 0
    assert snapshots.work().code == 0

    failed, synced, rescanned = recorded(docora)
    assert {(end.app_id, end.repository_id) for end in recorded(docora)} == {link.ids}
    assert {end.link_id for end in recorded(docora)} == {str(docora.row(link)["id"])}
    assert (failed.outcome, failed.try_number, failed.tries) == ("tried_again", 1, 5)
    assert failed.error_message == "HTTP 502 on created b"
    assert (failed.created, failed.size, failed.worker) == (1, 2, "w1")
    assert (synced.outcome, synced.try_number, synced.created) == ("synced", 2, 1)
    assert synced.error_message is None
    assert (rescanned.created, rescanned.updated, rescanned.deleted) == (0, 1, 1)
    assert rescanned.size == len("22\n")
    assert rescanned.commit_sha == commit[:12]
    assert 0 < (rescanned.seconds or 0) < 60
    ends = {"synced": (3, 3), "tried_again": (1, 1)}
    assert counted(docora) == counted(docora, link.app_id) == ends
    assert counted(docora, "app_other") == {}


@pytest.mark.slow
@pytest.mark.parametrize("again", [["schedule"], ["retry", "acme", "octo/api"]])
def test_a_failed_link_fails_again_until_in_sync(snapshots: Snapshots, again: list[str]) -> None:
    docora = snapshots.docora
    link, upstream = snapshots.add_link({"a": "1\n"}, "pending_snapshot", retry_count=0)
    answer = 500
    snapshots.receiver.answer = lambda _: answer
    one_try = {"MAX_RETRY_ATTEMPTS": "1"}

    def work(command: list[str]) -> None:
        docora.set_link(link, last_scanned_at=None)
        assert docora.run(*command, env=one_try).code == 0
        assert snapshots.work(**one_try).code == 0

    work(["schedule"])
    # A try that does not count makes the link pending.
    lock = "docora:repo-lock:octo/api"
    docora.redis.set(lock, "another job")
    shutil.rmtree(snapshots.repos)
    work(again)
    assert docora.status(link) == "pending_snapshot"
    docora.redis.delete(lock)
    make_delayed_jobs_due(docora)
    assert snapshots.work(**one_try).code == 0
    answer = 200
    work(again)
    answer = 500
    upstream.commit({"a": "2\n"})
    work(["schedule"])
    ends = ["failed", "failed_again", "synced", "failed"]
    assert [end.outcome for end in recorded(docora)] == ends
    assert docora.status(link) == "failed"


def test_a_job_tells_whether_its_link_was_failed_until_another_comes(docora: Docora) -> None:
    def end(link: TestLink) -> JobEnd:
        failed = Ending("failed", retry_count=1, link_id="")
        return Tries(docora.job(link)).settle(failed, limit=5)

    failed, synced = docora.add_link("failed"), docora.add_link("synced")
    docora.set_link(synced, last_scanned_at=None)
    assert docora.run("schedule").code == 0
    assert (end(failed), end(synced)) == (JobEnd.FAILED_AGAIN, JobEnd.FAILED)
    # RQ's own enqueue leaves fields of an earlier job in the hash.
    docora.enqueue(failed.job_id)
    assert end(failed) is JobEnd.FAILED


@pytest.mark.slow
def test_a_failed_link_that_another_producer_queues_fails_again(snapshots: Snapshots) -> None:
    docora = snapshots.docora
    link, _ = snapshots.add_link({"a": "1\n"}, "failed", retry_count=1)
    docora.queue.enqueue(
        "docora_ops.worker.snapshot",
        kwargs={"app_id": link.app_id, "repository_id": link.repository_id},
        job_id=link.job_id,
    )
    snapshots.receiver.answer = lambda _: 500
    assert snapshots.work().code == 0
    assert [end.outcome for end in recorded(docora)] == ["failed_again"]


@pytest.mark.slow
@pytest.mark.parametrize("status", ["failed", "scanning"])
def test_a_link_healed_without_a_file_gets_an_entry(snapshots: Snapshots, status: str) -> None:
    docora = snapshots.docora
    link, _ = snapshots.add_queued({"a": "1\n"})
    assert snapshots.work().code == 0
    docora.redis.delete(STREAM)
    snapshots.queue(link)
    docora.set_link(link, status=status, retry_count=5)
    assert snapshots.work().code == 0
    [healed] = recorded(docora)
    assert (healed.outcome, healed.try_number, healed.files) == ("synced", 6, 0)


@pytest.mark.slow
def test_each_kill_is_recorded_once_and_the_last_as_failed_again(snapshots: Snapshots) -> None:
    docora = snapshots.docora
    link, _ = snapshots.add_queued(FILES, max_retry_attempts=2, retry_base_delay_ms=0)
    with held_worker(snapshots, MAX_RETRY_ATTEMPTS="2") as (_gate, worker):
        os.kill(worker.horse(), SIGKILL)
        worker.await_line("began, try 2 of 2")
        os.kill(worker.horse(), SIGKILL)
        eventually(lambda: len(recorded(docora)) == 2, "both ends")
    killed, last = recorded(docora)
    assert (killed.outcome, killed.try_number) == ("tried_again", 1)
    assert (last.outcome, last.try_number) == ("failed_again", 2)
    assert "its process was killed" in (killed.error_message or "")
    assert killed.link_id == last.link_id
    assert docora.status(link) == "failed"


@pytest.mark.slow
@pytest.mark.parametrize("answer", [200, 500])
def test_a_kill_after_the_commit_loses_one_entry_and_none_is_invented(
    snapshots: Snapshots, docora: Docora, answer: int
) -> None:
    link, _ = snapshots.add_queued({"a": "1\n"}, max_retry_attempts=1)
    snapshots.receiver.answer = lambda _: answer
    with Proxy.before_redis(docora.redis_access.worker) as proxy:
        entry = proxy.plan(f'["{link.app_id}"'.encode(), Fault.HOLD_REQUEST)
        with running(snapshots, REDIS_URL=proxy.url, MAX_RETRY_ATTEMPTS="1") as worker:
            entry.wait()
            verdict = link_row(snapshots, link)[:2]
            assert verdict[0] == ("synced" if answer == 200 else "failed")
            os.kill(worker.horse(), SIGKILL)
            worker.await_line("its process was killed")
        assert snapshots.work(MAX_RETRY_ATTEMPTS="1").code == 0  # a try that is left has no changes
    assert recorded(docora) == []
    assert counted(docora).keys().isdisjoint({"tried_again", "failed", "failed_again"})
    assert link_row(snapshots, link)[:2] == verdict


def test_a_refused_entry_changes_nothing_for_the_link(snapshots: Snapshots, docora: Docora) -> None:
    link, _ = snapshots.add_queued({"a": "1\n"})
    docora.redis.set(STREAM, "of another program")
    snapshots.work().ended(0, says="its outcome is not recorded: ")
    assert docora.status(link) == "synced"
    assert docora.job(link).get_status() == "finished"


def test_a_capped_record_names_its_start(docora: Docora, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcomes, "ENTRIES_KEPT", 100)
    client = docora.redis
    first = datetime.fromtimestamp(server_time(client), UTC)
    link = TestLink("app_a", "repo_b")
    for number in range(500):
        end = SnapshotOutcome(first, *link.ids, None, JobEnd.FAILED, error_message=f"{number} é\n")
        outcomes.record_outcome(client, end, keep_entry=True)
    whole = read_outcomes(client, OutcomeFilter(since=first - timedelta(hours=1)))
    assert 100 <= len(whole.entries) <= 300
    assert whole.entries[0].error_message == "499 é\n"
    assert whole.reaches_back_to == whole.entries[-1].ended_at
    part = read_outcomes(client, OutcomeFilter(since=whole.entries[10].ended_at))
    assert part.reaches_back_to is None
    assert len(read_outcomes(client, OutcomeFilter(app_id="app_a", limit=3)).entries) == 3
    assert read_outcomes(client, OutcomeFilter(app_id="app")).entries == []
    [count] = read_counts(client, first, datetime.now(UTC), app_id="app_a").counts
    assert count.count == 500
    [key] = client.keys(f"{STREAM}:*")
    assert 7 * 86_400 < client.ttl(key) <= 8 * 86_400
