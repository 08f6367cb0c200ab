"""What the workers manage per minute, and what is due: `status` and `doctor`."""

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from docora_ops.actions.capacity import capacity
from docora_ops.actions.status import read_status
from docora_ops.jobs import JobEnd
from docora_ops.queue.outcomes import ALL_APPS, STREAM, read_counts
from tests.support.bullmq import WORKER_NAME
from tests.support.diagnoses import ONE_LOOK, check, examine, make_healthy, scan_links
from tests.support.docora import Docora
from tests.support.terminal import on_terminal

NAME = "capacity"


def ended(docora: Docora, by_minutes: dict[int, int], end: JobEnd = JobEnd.SYNCED) -> None:
    """So many snapshots ended in the 10 minutes in which those minutes ago lie."""
    now, _ = docora.redis.time()
    for minutes, count in by_minutes.items():
        period = (int(now) - minutes * 60) // 600 * 600
        docora.redis.hset(f"{STREAM}:{period}", f"{ALL_APPS}:{end}", count)


def wait_for(docora: Docora, seconds: int, jobs: int) -> None:
    """Waiting jobs, the first of which was queued so long ago."""
    docora.redis.delete("rq:queue:snapshot-queue")
    for _ in range(jobs):
        job = docora.enqueue(docora.add_link("pending_snapshot").job_id)
        job.enqueued_at = datetime.now(UTC) - timedelta(seconds=seconds)
        job.save()


def run_on(docora: Docora, *workers: str) -> None:
    for worker in workers:
        docora.start_job(docora.add_link("scanning").job_id, worker=worker)


@pytest.fixture
def busy(docora: Docora) -> Docora:
    """60 links to scan in 5 minutes, two workers, and the last hour of their work."""
    make_healthy(docora)
    docora.add_worker("worker-2")
    scan_links(docora, *[10.0] * 58)
    ended(docora, {0: 9_999, 15: 30, 25: 50, 35: 20, 80: 9_999})
    ended(docora, {35: 10, 15: 9_999}, JobEnd.NOTHING_TO_DO)
    ended(docora, {35: 5}, JobEnd.TRIED_AGAIN)
    return docora


def test_it_is_the_best_ten_minutes_of_an_hour_against_the_links_to_scan(busy: Docora) -> None:
    data = busy.run("status", "--json", env=ONE_LOOK).data
    # 60 links in the 5 minutes of an interval and the minute until the next pass
    assert data[NAME] == {
        "managed_per_minute": 5.0,
        "due_per_minute": 10.0,
        "slots": 2,
        "missing_slots": 0,  # no job waits for long
    }
    assert (
        "5 snapshots a minute, 10 due: enough slots, no job waits long for one\n"
        in busy.run("status", env=ONE_LOOK).stdout
    )
    found = check(examine(busy), NAME)
    assert (found["state"], found["finding"]) == (
        "ok",
        "5 snapshots a minute, 10 due: enough slots, no job waits long for one",
    )


def test_the_age_of_a_record_is_measured_by_the_clock_of_redis(busy: Docora) -> None:
    status, _ = read_status(busy.actions(drift_grace=0).docora)
    assert status.freshness
    assert status.queue
    now = datetime.now(UTC)
    record = read_counts(busy.redis, now - timedelta(hours=2), now)
    for minutes in (-30, 30):  # the clock of Postgres
        read_at = status.freshness.read_at + timedelta(minutes=minutes)
        fresh = replace(status.freshness, read_at=read_at)
        assert capacity(record, fresh, status.queue, busy.settings) == status.capacity


@pytest.mark.slow
@pytest.mark.parametrize(
    ("waited", "jobs", "best", "missing"),
    [
        (130, 30, 50, 2),
        (130, 30, 99, 1),
        (130, 30, 101, 0),
        (100, 30, 50, 0),
        (130, 4, 9, 4),  # more slots than jobs that wait would help nothing
    ],
)
def test_slots_are_missing_where_less_is_managed_than_is_due_and_jobs_wait(
    busy: Docora, waited: int, jobs: int, best: int, missing: int
) -> None:
    ended(busy, {15: 0, 25: best, 35: 1})
    ended(busy, {35: 0}, JobEnd.TRIED_AGAIN)
    busy.connection.execute("DELETE FROM app_repositories WHERE status <> 'synced'")
    wait_for(busy, waited, jobs)
    run_on(busy, "worker-1", "worker-2")
    scan_links(busy, *[10.0] * (60 - jobs - 2))
    found = busy.run("status", "--json", env=ONE_LOOK).data[NAME]
    assert (found["due_per_minute"], found["missing_slots"]) == (10.0, missing)
    diagnosis = examine(busy)
    seen = check(diagnosis, NAME)
    assert seen["state"] == ("warning" if missing else "ok")
    if missing == 1:
        assert seen["finding"].endswith("10 due: 1 more slot is needed")
    elif missing:
        assert seen["finding"].endswith(f"10 due: {missing} more slots are needed")
        assert seen["hint"].startswith("docora-ops worker --concurrency N")


def test_no_slot_is_missing_while_shares_keep_a_worker_idle(busy: Docora) -> None:
    ended(busy, {15: 3, 25: 1, 35: 0})
    wait_for(busy, 130, 4)
    run_on(busy, "worker-1")
    found = busy.run("status", "--json", env=ONE_LOOK).data[NAME]
    assert found["managed_per_minute"] < found["due_per_minute"]
    assert (found["slots"], found["missing_slots"]) == (2, 0)
    assert check(examine(busy), NAME)["state"] == "ok"


@pytest.mark.slow
def test_what_is_due_is_said_before_ten_minutes_of_the_workers_are_recorded(docora: Docora) -> None:
    make_healthy(docora)
    scan_links(docora, *[10.0] * 58)
    unknown = {"managed_per_minute": None, "due_per_minute": 10.0, "slots": 1, "missing_slots": 0}
    assert docora.run("status", "--json", env=ONE_LOOK).data[NAME] == unknown
    ended(docora, {15: 35, 45: 90})
    assert docora.run("status", "--json", env=ONE_LOOK).data[NAME] == unknown
    ended(docora, {0: 100, 15: 0, 45: 0, 80: 100})
    said = "10 snapshots a minute due; the pace is not known"
    assert f"{said}\n" in docora.run("status", env=ONE_LOOK).stdout
    assert check(examine(docora), NAME)["finding"] == said
    docora.redis.flushdb()
    docora.redis.client_setname(WORKER_NAME)
    beside = examine(docora, DOCORA_OPS_BACKEND="bullmq")
    assert check(beside, NAME)["finding"] == "not known: Docora's workers keep no record"


@pytest.mark.slow
def test_status_has_one_row_of_the_failures_of_a_day(docora: Docora) -> None:
    make_healthy(docora)
    ended(docora, {1_430: 1})
    assert "Failures" not in docora.run("status", env=ONE_LOOK).stdout
    ended(docora, {1_250: 2, 900: 5, 720: 20, 540: 10, 75: 3, 45: 40, 5: 3}, JobEnd.FAILED)
    ended(docora, {500: 9}, JobEnd.FAILED_AGAIN)
    result = docora.run("status", env=ONE_LOOK)
    [row] = [row for row in result.stdout.splitlines() if row.startswith("Failures\t")]
    assert re.fullmatch(r"Failures\t\d+/h in the last 20 to 30m, falling: docora-ops trend", row), (
        row
    )
    assert f"- Failures: `{row[9:]}`\n" in docora.run("report", env=ONE_LOOK).stdout
    for terminal, bars in (("xterm-256color", r"\S*█\S*"), ("linux", r"\S*#\S*")):
        _, screen = on_terminal(docora, ["status"], env={**ONE_LOOK, "TERM": terminal})
        assert re.search(rf"{bars} \(24 h\)  \d+/h in the last 20 to 30m, falling", screen), screen
    periods = docora.run("status", "--json", env=ONE_LOOK).data["failures"]["periods"]
    failed = sum(period["failed"] + period["failed_again"] for period in periods)
    assert (len(periods), failed) == (8, 92)
