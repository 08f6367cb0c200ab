"""Workers on a host whose clock is wrong: what others do is judged, and shown, by Redis's clock."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from rq.job import JobStatus

from tests.support.clocks import clock_ahead, clock_in, with_wrong_clock
from tests.support.docora import QUEUE
from tests.support.proxy import eventually
from tests.support.snapshots import Snapshots
from tests.support.worker_processes import held_worker, running

HOST = socket.gethostname()


@contextmanager
def moments_are_right(snapshots: Snapshots) -> Iterator[None]:
    """What the app is sent within the block bears the right time, to 5 s."""
    began = time.time()
    before = len(snapshots.received("Acme").requests)
    yield
    requests = snapshots.received("Acme").requests[before:]
    assert requests
    for request in requests:
        in_body = datetime.fromisoformat(request.json["timestamp"]).timestamp()
        for moment in (int(request.headers["X-Docora-Timestamp"]), in_body):
            assert began - 5 <= moment <= time.time() + 5


@with_wrong_clock
@pytest.mark.parametrize(
    ("seconds", "error"), [(600, "600 s ahead of Redis"), (-600, "600 s behind Redis")]
)
def test_a_worker_takes_no_job_until_its_clock_is_right(
    snapshots: Snapshots, tmp_path: Path, seconds: int, error: str
) -> None:
    docora = snapshots.docora
    clock = tmp_path / "clock"
    clock.write_text(f"{seconds:+d}")
    link, _ = snapshots.add_queued({"a": "1"})

    def shown() -> dict[str, Any]:
        [worker] = docora.run("queue", "--json").data["workers"]
        return cast("dict[str, Any]", worker)

    with running(snapshots, "--name", "w", **clock_in(clock)) as worker:
        worker.await_line(f"worker w: the clock of {HOST} is {error}'s: takes no job until ")
        eventually(lambda: shown()["state"] == "suspended", "a worker that takes no job")
        assert abs(shown()["clock_ahead_seconds"] - seconds) <= 1
        assert shown()["silent_seconds"] is None
        at = datetime.fromisoformat(shown()["last_heartbeat_at"])
        assert abs(datetime.now(UTC) - at) < timedelta(seconds=60)
        diagnosis = docora.run("doctor", "--json")
        [check] = [each for each in diagnosis.data["checks"] if each["name"] == "clocks"]
        assert (diagnosis.code, check["state"]) == (6, "critical")
        assert check["finding"] == f"{HOST} (worker w) is {error}"
        assert "NTP" in check["hint"]
        assert docora.waiting() == [link.job_id]
        assert docora.status(link) == "pending_snapshot"
        with moments_are_right(snapshots):
            clock.write_text("+0")
            eventually(lambda: docora.status(link) == "synced", "the end of the job")
    assert worker.log.count("takes no job") == 1
    assert worker.log.count("the clock of this host is right again: goes on") == 1
    assert docora.row(link)["retry_count"] == 0


@with_wrong_clock
def test_a_burst_with_a_wrong_clock_ends_with_an_error_and_touches_nothing(
    snapshots: Snapshots,
) -> None:
    docora = snapshots.docora
    busy = docora.add_link("scanning")
    docora.start_job(busy.job_id)
    link, _ = snapshots.add_queued({"a": "1"})
    with running(snapshots, "--burst", **clock_ahead(600)) as worker:
        assert worker.end() == 4
    assert f"Error: the clock of {HOST} is 600 s ahead of Redis's\n" in worker.log
    assert "NTP" in worker.log
    assert docora.waiting() == [link.job_id]
    assert (docora.status(link), docora.status(busy)) == ("pending_snapshot", "scanning")
    assert docora.job(busy).get_status() is JobStatus.STARTED
    assert docora.redis.zcard(f"rq:wip:{QUEUE}") == 1


@with_wrong_clock
@pytest.mark.parametrize("seconds", [20, -20])
def test_what_an_app_is_sent_bears_redis_s_time(snapshots: Snapshots, seconds: int) -> None:
    link, _ = snapshots.add_queued({"a": "1"})
    with moments_are_right(snapshots), running(snapshots, "--burst", **clock_ahead(seconds)) as w:
        assert w.end() == 0
    assert snapshots.docora.status(link) == "synced"


@with_wrong_clock
def test_a_clock_that_jumps_during_a_job_changes_nothing_for_the_app(
    snapshots: Snapshots, tmp_path: Path
) -> None:
    clock = tmp_path / "clock"
    clock.write_text("+0")
    link, _ = snapshots.add_queued({"a": "1", "b": "2", "c": "3"})
    with (
        moments_are_right(snapshots),
        held_worker(snapshots, **clock_in(clock)) as (gate, worker),
    ):
        clock.write_text("+600")
        gate.release()
        worker.await_line("takes no job until")
        assert snapshots.docora.status(link) == "synced"


@with_wrong_clock
def test_the_heartbeats_of_a_job_expire_by_redis_s_clock(snapshots: Snapshots) -> None:
    """The clock of its host is behind: by that, others would take the job for abandoned."""
    docora = snapshots.docora
    link, _ = snapshots.add_queued({"a": "1", "b": "2"})
    began = time.time()
    with held_worker(snapshots, **clock_ahead(-25)) as (gate, _):
        entries = docora.redis.zrange(f"rq:wip:{QUEUE}", 0, -1, withscores=True)
        [(_, expires_at)] = cast("list[tuple[bytes, float]]", entries)
        assert expires_at > began + 85
        with running(snapshots, "--burst") as other:
            assert other.end() == 0
        assert docora.job(link).get_status() is JobStatus.STARTED
        gate.release()
        eventually(lambda: docora.status(link) == "synced", "the end of the job")
    assert docora.row(link)["retry_count"] == 0


@with_wrong_clock
def test_a_delayed_try_is_due_by_redis_s_clock(snapshots: Snapshots) -> None:
    docora = snapshots.docora
    snapshots.receiver.answer = lambda _: 500
    link, _ = snapshots.add_queued({"a": "1"}, retry_base_delay_ms=20_000)
    began = time.time()
    with running(snapshots, "--burst", **clock_ahead(25)) as worker:
        assert worker.end() == 0
    score = docora.redis.zscore(f"rq:scheduled:{QUEUE}", link.job_id)
    assert score is not None
    assert began + 19 <= score <= time.time() + 21
    # A scheduler whose clock is ahead leaves it there until then.
    snapshots.receiver.answer = lambda _: 200
    docora.redis.zadd(f"rq:scheduled:{QUEUE}", {link.job_id: time.time() + 20})
    with running(snapshots, "--burst", **clock_ahead(25)) as worker:
        assert worker.end() == 0
    assert docora.status(link) == "pending_snapshot"
    assert docora.redis.zscore(f"rq:scheduled:{QUEUE}", link.job_id) is not None
