"""`repair` and workers: what a killed one has left, and beside one that is at work."""

from signal import SIGKILL

from docora_ops.drift import DriftKind
from tests.support.git_over_http import gate_at
from tests.support.proxy import eventually
from tests.support.snapshots import Snapshots
from tests.support.worker_processes import expire_heartbeats, running


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
    # Postgres may take a moment to notice that the worker is gone, and to end its lock.
    eventually(lambda: actions.drift().found[DriftKind.STUCK] == 1, "a stuck link")
    result = docora.run("repair", *link.ids, "--json", env={"DOCORA_OPS_DRIFT_GRACE": "0"})
    assert (result.code, result.data["stuck"], result.data["queued"]) == (0, 1, 1), result
    assert docora.waiting() == [link.job_id]
    assert docora.registries(link.job_id) == set()
    assert not actions.drift().total

    assert snapshots.work().code == 0
    assert docora.status(link) == "synced"
    assert sorted(snapshots.received().files) == ["a", "b"]
    assert not actions.drift().total
