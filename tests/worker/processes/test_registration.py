"""A worker is counted as long as it lives, whatever Redis has lost."""

from signal import SIGALRM, SIGTERM

import pytest

from tests.support.docora import Docora
from tests.support.proxy import eventually
from tests.support.snapshots import Snapshots
from tests.support.worker_processes import await_waiting_worker, held_worker, running


def counted(docora: Docora) -> tuple[int, int]:
    """How many workers there are, and how many of them are busy."""
    queue = docora.run("status", "--json").data["queue"]
    return queue["workers"], queue["workers_busy"]


@pytest.mark.parametrize("lost", ["everything", "the sets of workers", "the worker's own key"])
def test_a_busy_worker_registers_again_when_redis_has_lost_its_registration(
    snapshots: Snapshots, lost: str
) -> None:
    snapshots.add_queued({"a": "1\n", "b": "2\n"})
    docora = snapshots.docora
    with held_worker(snapshots, "--name", "w") as (gate, worker):
        assert counted(docora) == (1, 1)
        if lost == "everything":
            docora.redis.flushdb()
        else:
            pattern = "rq:workers*" if lost == "the sets of workers" else "rq:worker:w"
            docora.redis.delete(*docora.redis.keys(pattern))
        assert counted(docora) == (0, 0)
        worker.signal(SIGALRM)  # RQ's alarm for the next heartbeat
        eventually(lambda: counted(docora) == (1, 1), "a worker that has registered again")
        assert docora.redis.smembers("rq:workers") == {b"rq:worker:w"}
        [shown] = docora.run("queue", "--json").data["workers"]
        assert (shown["name"], shown["state"], shown["pid"]) == ("w", "busy", worker.pid)
        gate.release()


def test_an_idle_worker_registers_again_when_redis_was_emptied_and_goes_with_its_end(
    snapshots: Snapshots,
) -> None:
    docora = snapshots.docora
    with running(snapshots) as worker:
        worker.await_ready()
        await_waiting_worker(docora)
        docora.redis.flushdb()
        assert counted(docora) == (0, 0)
        eventually(lambda: counted(docora) == (1, 0), "a worker that has registered again")
        worker.signal(SIGTERM)
        assert worker.end() == 0
    assert counted(docora) == (0, 0)
    assert docora.redis.smembers("rq:workers") == set()
