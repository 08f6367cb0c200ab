"""What the workers manage per minute, and what is due: `status` and `doctor`."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from docora_ops.actions.capacity import capacity
from docora_ops.actions.docora import Docora as Opened
from docora_ops.actions.status import read_status
from docora_ops.jobs import JobEnd
from docora_ops.queue.outcomes import ALL_APPS, STREAM, read_counts
from tests.support.bullmq import WORKER_NAME
from tests.support.diagnoses import ONE_LOOK, check, examine, make_healthy, scan_links
from tests.support.docora import Docora

NAME = "capacity"


def ended(docora: Docora, by_minutes: dict[int, int], end: JobEnd = JobEnd.SYNCED) -> None:
    """So many snapshots ended in the 10 minutes in which those minutes ago lie."""
    now, _ = docora.redis.time()
    for minutes, count in by_minutes.items():
        period = (int(now) - minutes * 60) // 600 * 600
        docora.redis.hset(f"{STREAM}:{period}", f"{ALL_APPS}:{end}", count)


def wait_for(docora: Docora, seconds: int) -> None:
    """One waiting job, which was queued so long ago."""
    docora.redis.delete("rq:queue:snapshot-queue")
    link = docora.add_link("pending_snapshot")
    job = docora.queue_job(link)
    job.enqueued_at = datetime.now(UTC) - timedelta(seconds=seconds)
    job.save()


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


def test_it_is_the_best_ten_minutes_of_the_last_hour_against_the_links_to_scan(
    busy: Docora,
) -> None:
    data = busy.run("status", "--json", env=ONE_LOOK).data
    # 60 links in the 5 minutes of an interval and the minute until the next pass
    assert data[NAME] == {
        "managed_per_minute": 5.0,
        "due_per_minute": 10.0,
        "slots": 2,
        "missing_slots": 0,  # no job waits for long
    }
    assert "5 snapshots a minute, 10 due\n" in busy.run("status", env=ONE_LOOK).stdout
    found = check(examine(busy), NAME)
    assert (found["state"], found["finding"]) == ("ok", "5 snapshots a minute, 10 due")


def test_the_age_of_a_record_is_measured_by_the_clock_of_redis(busy: Docora) -> None:
    with Opened(busy.settings) as opened:
        status, _ = read_status(opened)
    assert status.freshness
    assert status.queue
    record = read_counts(busy.redis, datetime.now(UTC) - timedelta(hours=2))
    for minutes in (-30, 30):  # the clock of Postgres
        read_at = status.freshness.read_at + timedelta(minutes=minutes)
        fresh = replace(status.freshness, read_at=read_at)
        assert capacity(record, fresh, status.queue, busy.settings) == status.capacity


@pytest.mark.parametrize(
    ("waited", "best", "missing"),
    [(130, 50, 2), (130, 99, 1), (130, 9, 21), (130, 101, 0), (100, 50, 0)],
)
def test_slots_are_missing_where_less_is_managed_than_is_due_and_jobs_wait(
    busy: Docora, waited: int, best: int, missing: int
) -> None:
    ended(busy, {15: 0, 25: best, 35: 0})
    ended(busy, {35: 0}, JobEnd.TRIED_AGAIN)
    busy.connection.execute("DELETE FROM app_repositories WHERE status <> 'synced'")
    wait_for(busy, waited)
    scan_links(busy, *[10.0] * 59)
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


def test_nothing_is_said_of_what_is_not_recorded(docora: Docora) -> None:
    make_healthy(docora)
    ended(docora, {0: 100, 80: 100})
    assert docora.run("status", "--json", env=ONE_LOOK).data[NAME] is None
    assert check(examine(docora), NAME)["finding"] == "not known yet"
    docora.redis.flushdb()
    docora.redis.client_setname(WORKER_NAME)
    beside = examine(docora, DOCORA_OPS_BACKEND="bullmq")
    assert check(beside, NAME)["finding"] == "not known: Docora's workers keep no record"


def test_status_has_one_row_of_the_failures_of_a_day(docora: Docora) -> None:
    make_healthy(docora)
    ended(docora, {1_430: 1})
    assert "Failures" not in docora.run("status", env=ONE_LOOK).stdout
    ended(docora, {1_250: 2, 900: 5, 720: 20, 540: 10, 75: 3, 45: 40, 5: 3}, JobEnd.FAILED)
    ended(docora, {500: 9}, JobEnd.FAILED_AGAIN)
    for encoding in ("utf-8", "ascii"):
        result = docora.run("status", env={**ONE_LOOK, "PYTHONIOENCODING": encoding})
        [row] = [row for row in result.stdout.splitlines() if row.startswith("Failures\t")]
        assert row.isascii() is (encoding == "ascii")
        assert row.endswith("/h, falling (24 h): docora-ops trend"), row
    periods = docora.run("status", "--json", env=ONE_LOOK).data["failures"]["periods"]
    failed = sum(period["failed"] + period["failed_again"] for period in periods)
    assert (len(periods), failed) == (8, 92)
