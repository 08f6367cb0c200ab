"""A worker is counted as long as it lives, whatever Redis has lost."""

import json
import re
from datetime import timedelta
from signal import SIGALRM, SIGSTOP

from rq.utils import now, utcformat

from tests.support.docora import Docora
from tests.support.proxy import eventually
from tests.support.snapshots import Snapshots
from tests.support.worker_processes import held_worker, running


def counted(docora: Docora) -> tuple[int, int]:
    """How many workers there are, and how many of them are busy."""
    queue = docora.run("status", "--json").data["queue"]
    return len(queue["workers"]), sum(each["state"] == "busy" for each in queue["workers"])


def test_a_busy_worker_registers_again_when_redis_has_lost_its_registration(
    snapshots: Snapshots,
) -> None:
    snapshots.add_queued({"a": "1\n", "b": "2\n"})
    docora = snapshots.docora
    with held_worker(snapshots, "--name", "w") as (gate, worker):
        assert counted(docora) == (1, 1)
        docora.redis.flushdb()
        assert counted(docora) == (0, 0)
        worker.signal(SIGALRM)  # RQ's alarm for the next heartbeat
        eventually(lambda: counted(docora) == (1, 1), "a worker that has registered again")
        assert docora.redis.smembers("rq:workers") == {b"rq:worker:w"}
        [shown] = docora.run("queue", "--json").data["workers"]
        assert (shown["name"], shown["state"], shown["pid"]) == ("w", "busy", worker.pid)
        gate.release()


def test_a_worker_that_hangs_counts_with_the_moment_of_its_last_heartbeat(
    snapshots: Snapshots,
) -> None:
    snapshots.add_queued({"a": "1\n", "b": "2\n"})
    docora = snapshots.docora

    def let_time_go_by(seconds: int) -> None:
        """Since the last heartbeat: a busy worker's key lives for 90 s."""
        heartbeat = utcformat(now() - timedelta(seconds=seconds))
        docora.redis.hset("rq:worker:w", "last_heartbeat", heartbeat)
        docora.redis.expire("rq:worker:w", 90 - seconds)

    def output(*command: str) -> str:
        """What a command prints, in the first seconds of a minute and a quarter."""
        return re.sub(r"1 min \d+ s", "1 min 15 s", docora.run(*command).stdout)

    def said(silence: str, count: str) -> None:
        assert f"Workers\t{count}, 1 busy{silence}\n" in output("status")
        assert f"Workers\t{count}{silence}\n" in output("queue")
        checks = json.loads(output("doctor", "--json"))["data"]["checks"]
        [check] = [check for check in checks if check["name"] == "workers"]
        assert check["finding"] == f"{count} on snapshot-queue{silence}"
        assert (check["state"] == "warning") is bool(silence)
        workers = docora.run("status", "--json").data["queue"]["workers"]
        assert any(each["silent_seconds"] is not None for each in workers) is bool(silence)
        states = docora.run("metrics", "--json").data["workers_by_state"]
        assert (states["silent"], states["busy"]) == ((1, 0) if silence else (0, 1))

    with held_worker(snapshots, "--name", "w") as (gate, worker):
        worker.signal(SIGSTOP)
        let_time_go_by(35)
        said("", "1")
        let_time_go_by(75)
        said(" (last heartbeat 1 min 15 s ago)", "1")
        assert "busy, silent" in output("queue")
        with running(snapshots) as other:
            other.await_ready()
            said(" (1 of them: last heartbeat 1 min 15 s ago)", "2")
        gate.release()
