"""Workers on a host whose clock is wrong: what others do is judged, and shown, by Redis's clock."""

import time
from datetime import UTC, datetime
from typing import cast

from rq.job import JobStatus

from tests.support.clocks import clock_ahead, with_wrong_clock
from tests.support.docora import QUEUE
from tests.support.proxy import eventually
from tests.support.snapshots import Snapshots
from tests.support.worker_processes import held_worker, running


@with_wrong_clock
def test_a_worker_whose_clock_is_ahead_takes_no_running_job_for_abandoned(
    snapshots: Snapshots,
) -> None:
    docora = snapshots.docora
    busy = docora.add_link("scanning")
    docora.start_job(busy.job_id)
    link, _ = snapshots.add_queued({"a": "1"})
    with running(snapshots, "--burst", **clock_ahead(600)) as worker:
        assert worker.end() == 0
    assert worker.log.count("the clock of this host is 600 s ahead of Redis's") == 1
    assert docora.status(link) == "synced"
    assert docora.status(busy) == "scanning"
    assert docora.job(busy).get_status() is JobStatus.STARTED
    assert docora.redis.zcard(f"rq:wip:{QUEUE}") == 1


@with_wrong_clock
def test_the_heartbeats_of_a_worker_whose_clock_is_ahead_are_shown_by_redis_s_clock(
    snapshots: Snapshots,
) -> None:
    def age() -> float:
        [shown] = snapshots.docora.run("queue", "--json").data["workers"]
        assert shown["silent_seconds"] is None
        at = datetime.fromisoformat(shown["last_heartbeat_at"])
        return abs((datetime.now(UTC) - at).total_seconds())

    with running(snapshots, **clock_ahead(600)) as worker:
        worker.await_line("the clock of this host is 600 s ahead of Redis's")
        eventually(lambda: age() < 60, "a heartbeat by the clock of Redis")


@with_wrong_clock
def test_the_job_of_a_worker_whose_clock_is_behind_is_not_taken_for_abandoned_by_others(
    snapshots: Snapshots,
) -> None:
    docora = snapshots.docora
    link, _ = snapshots.add_queued({"a": "1", "b": "2"})
    with held_worker(snapshots, **clock_ahead(-600)) as (gate, _):
        entries = docora.redis.zrange(f"rq:wip:{QUEUE}", 0, -1, withscores=True)
        [(_, expires_at)] = cast("list[tuple[bytes, float]]", entries)
        assert expires_at > time.time()
        with running(snapshots, "--burst") as other:
            assert other.end() == 0
        assert docora.job(link).get_status() is JobStatus.STARTED
        gate.release()
        eventually(lambda: docora.status(link) == "synced", "the end of the job")
    assert docora.row(link)["retry_count"] == 0
