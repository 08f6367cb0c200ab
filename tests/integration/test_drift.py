"""What is out of step between database and queue: seen, mended, gone; and nothing else."""

from __future__ import annotations

from datetime import timedelta

import pytest
from rq.job import Job, JobStatus

from docora_ops.actions.drift import find_drift
from docora_ops.drift import DriftKind, DriftReport
from tests.harness import Docora, TestLink

OLD = timedelta(minutes=6)


def age(docora: Docora) -> None:
    """All links so far were made some time ago."""
    docora.connection.execute("UPDATE app_repositories SET created_at = now() - %s", (OLD,))


def look(docora: Docora, grace: float = 0, **scope: object) -> DriftReport:
    rooms = docora.rooms()
    return find_drift(rooms.database, rooms.queue, grace_seconds=grace, **scope)  # type: ignore[arg-type]


def found(report: DriftReport) -> dict[str, int]:
    return {kind.value: count for kind, count in report.counts.items() if count}


def our_job(docora: Docora, link: TestLink) -> Job:
    """A job of ours that waits for the link."""
    docora.connection.execute(
        "UPDATE app_repositories SET status = 'failed' WHERE app_id = %s AND repository_id = %s",
        (link.app_id, link.repository_id),
    )
    docora.rooms().retry(link)
    return docora.job(link)


def delete_link(docora: Docora, link: TestLink) -> None:
    docora.connection.execute(
        "DELETE FROM app_repositories WHERE app_id = %s AND repository_id = %s",
        (link.app_id, link.repository_id),
    )


def test_quick(docora: Docora) -> None:
    lost = docora.add_link("pending_snapshot")
    stuck = docora.add_link("scanning")
    orphan = docora.add_link()
    our_job(docora, orphan)
    delete_link(docora, orphan)
    twice = docora.add_link()
    our_job(docora, twice)
    docora.redis.rpush(docora.queue.key, twice.job_id)
    both = docora.add_link()
    our_job(docora, both)
    docora.redis.zadd("rq:scheduled:snapshot-queue", {both.job_id: 9e9})
    entry = docora.add_link("synced")
    docora.redis.zadd("rq:failed:snapshot-queue", {entry.job_id: 9e9})
    waits = docora.add_link()
    our_job(docora, waits)
    docora.redis.zadd("rq:failed:snapshot-queue", {waits.job_id: 9e9})
    live = docora.add_link("failed")
    docora.enqueue(live.job_id)
    age(docora)
    report = look(docora)
    for kind, items in report.examples.items():
        for item in items:
            print(kind, item)
    assert found(report) == {
        "lost": 1, "stuck": 1, "orphan": 1, "duplicate": 2, "stale_entry": 2, "failed_live": 1
    }
    assert lost and stuck
