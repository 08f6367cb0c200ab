"""One git at a time works on a clone, and any number of jobs read it."""

import fcntl
import re
from pathlib import Path

from tests.support.delivery_checks import assert_in_sync, events
from tests.support.git_over_http import gate_at
from tests.support.proxy import eventually
from tests.support.snapshots import Snapshots
from tests.support.worker_processes import running


def test_a_job_waits_while_another_has_git_at_work_on_the_clone(snapshots: Snapshots) -> None:
    link, upstream = snapshots.add_synced({"a": "1\n"})
    upstream.commit({"a": "2\n"})
    snapshots.queue(link)
    [lock] = (snapshots.repos / ".docora-ops").glob("*.lock")
    waiter = re.compile(rf"-> FLOCK .*:{lock.stat().st_ino} ")
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with running(snapshots, "--burst") as worker:
            eventually(lambda: waiter.search(Path("/proc/locks").read_text()), "a job that waits")
            fcntl.flock(file, fcntl.LOCK_UN)
            assert worker.end() == 0
    assert_in_sync(snapshots, link, upstream)


def test_two_workers_serve_two_apps_of_one_repository_at_a_time(snapshots: Snapshots) -> None:
    first, upstream = snapshots.add_link({"a": "1\n", "b": "2\n"})
    second = snapshots.link(snapshots.add_app("Second"), first.repository_id)
    for link in (first, second):
        snapshots.queue(link)
    with (
        gate_at(snapshots.receiver, "b") as gate,
        running(snapshots, "--burst") as one,
        running(snapshots, "--burst") as other,
    ):
        # Both have sent the first file, and neither is done.
        eventually(
            lambda: snapshots.received().requests and snapshots.received("Second").requests,
            "a POST to each",
        )
        assert snapshots.docora.statuses() == {"scanning": 2}
        gate.release()
        assert (one.end(), other.end()) == (0, 0)
    for link, name in ((first, "Acme"), (second, "Second")):
        assert_in_sync(snapshots, link, upstream, name)
        assert events(snapshots, name) == [("create", "a"), ("create", "b")]
