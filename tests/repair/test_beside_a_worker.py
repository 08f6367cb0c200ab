"""`repair` and workers: what a killed one has left, and beside one that is at work."""

import os
import random
import sys
from signal import SIGKILL

from docora_ops.demo.receiver import Request
from docora_ops.drift import DriftKind
from tests.support.git_over_http import gate_at
from tests.support.snapshots import Snapshots
from tests.support.worker_processes import expire_heartbeats, running

SEED_VARIABLE = "TEST_REPAIR_SEED"
SEED = os.environ.get(SEED_VARIABLE) or str(random.SystemRandom().randrange(10**6))


def test_a_link_whose_worker_was_killed_is_stuck_and_works_again_after_a_repair(
    snapshots: Snapshots,
) -> None:
    docora = snapshots.docora
    link, _ = snapshots.add_link({"a": "1\n", "b": "2\n"})
    snapshots.queue(link)
    with gate_at(snapshots.receiver, "b") as gate, running(snapshots) as worker:
        gate.wait()
        actions = docora.actions()
        assert not actions.drift().total, "it is running"
        worker.signal_all(SIGKILL)
        worker.end()
    assert docora.status(link) == "scanning"
    assert not actions.drift().total, "its heart may still beat, as far as one can tell"
    assert len(actions.repair(app_id=link.app_id, ref=actions.ref(link)).repaired) == 0

    expire_heartbeats(docora)
    assert actions.drift().counts[DriftKind.STUCK] == 1
    result = docora.run("repair", *link.ids, "--json", env={"DOCORA_OPS_DRIFT_GRACE": "0"})
    assert (result.code, result.data["stuck"], result.data["queued"]) == (0, 1, 1), result
    assert docora.waiting() == [link.job_id]
    assert docora.registries(link.job_id) == set()
    assert not actions.drift().total

    assert snapshots.work().code == 0
    assert docora.status(link) == "synced"
    assert sorted(snapshots.received().files) == ["a", "b"]
    assert not actions.drift().total


def test_beside_a_worker_at_work_it_never_makes_a_job_twice(snapshots: Snapshots) -> None:
    sys.stdout.write(f"{SEED_VARIABLE}={SEED}\n")
    moments = random.Random(SEED)
    docora = snapshots.docora
    upstream = snapshots.add_upstream()
    upstream.commit({"a": "1\n", "b": "2\n"})
    repository = snapshots.add_repository(upstream)
    links = [snapshots.link(snapshots.add_app(f"App{number}"), repository) for number in range(8)]
    for link in links:
        snapshots.queue(link)
    docora.age_links()
    actions = docora.actions()
    problems: list[str] = []

    def answer(request: Request) -> int:
        """While a job runs, somebody spoils the queue, and a repair mends it."""
        waiting = docora.waiting()
        running_app = request.app
        if waiting:
            job_id = moments.choice(waiting)
            match moments.randrange(3):
                case 0:
                    docora.redis.lrem(docora.queue.key, 0, job_id)
                case 1:
                    docora.redis.rpush(docora.queue.key, job_id)
                case 2:
                    docora.redis.delete(docora.queue.key)
        result = actions.repair()
        problems.extend(docora.doubled_jobs())
        problems.extend(docora.lost_links())
        problems.extend(
            f"{running_app}: {item}"
            for item in result.repaired
            if item.drift.app_name == running_app
        )
        return 200

    snapshots.receiver.answer = answer
    with running(snapshots, "--burst") as worker:
        assert worker.end() == 0
    assert problems == []
    assert docora.statuses() == {"synced": len(links)}
    for number in range(len(links)):
        assert sorted(snapshots.received(f"App{number}").files) == ["a", "b"]
    assert not actions.drift().total
