"""One git at a time for each repository, over the workers of all hosts; any number reads."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from docora_ops.errors import SnapshotError
from docora_ops.worker import clone
from docora_ops.worker.clone import RepositoryLock
from tests.support.delivery_checks import assert_in_sync, events, failure, git_failures
from tests.support.git_over_http import gate_at
from tests.support.proxy import eventually
from tests.support.snapshots import Snapshots
from tests.support.worker_processes import running

KEY = "docora:repo-lock:octo/api"


def test_a_lock_that_is_held_for_long_fails_the_job_and_not_the_repository(
    snapshots: Snapshots, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, upstream = snapshots.add_link({"a": "1\n"})
    redis = snapshots.docora.redis
    monkeypatch.setattr(clone, "LOCK_TIMEOUT", 0.03)
    redis.set(KEY, "somebody else")
    redis.set("docora:repo-lock:octo/other", "somebody else")
    error = failure(snapshots, link)
    assert error == "another worker has held the lock of octo/api for over 0.03 s"
    assert git_failures(snapshots, link) == 0
    assert redis.get(KEY) == b"somebody else"
    assert not (snapshots.repos / ".docora-ops").exists()
    redis.delete(KEY)
    snapshots.run_job(link)
    assert_in_sync(snapshots, link, upstream)


def test_a_lock_is_asked_for_again_at_once_and_then_ever_less_often(
    snapshots: Snapshots, monkeypatch: pytest.MonkeyPatch
) -> None:
    redis = snapshots.docora.redis
    redis.set(KEY, "somebody else")
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 9:
            redis.delete(KEY)

    monkeypatch.setattr("docora_ops.worker.clone.time.sleep", pause)
    with RepositoryLock(redis, "octo/api").held():
        assert redis.get(KEY) != b"somebody else"
    assert pauses == [0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2, 2]


def test_only_its_owner_releases_and_renews_the_lock(snapshots: Snapshots) -> None:
    redis = snapshots.docora.redis
    lock = RepositoryLock(redis, "octo/api")
    with lock.held():
        redis.pexpire(KEY, 5000)
        lock.renew()
        assert 100_000 < int(redis.pttl(KEY)) <= 120_000
        redis.set(KEY, "somebody else", px=5000)
        with pytest.raises(SnapshotError, match="was lost while git worked"):
            lock.renew()
    assert redis.get(KEY) == b"somebody else"
    assert int(redis.pttl(KEY)) <= 5000


def test_one_process_at_a_time_has_the_lock(snapshots: Snapshots) -> None:
    inside = threading.Lock()
    taken = []

    def take_it() -> None:
        lock = RepositoryLock(snapshots.docora.redis, "octo/api")
        for _ in range(10):
            with lock.held():
                taken.append(inside.acquire(blocking=False))
                snapshots.docora.redis.ping()  # long enough for the others to come in
                inside.release()

    with ThreadPoolExecutor(4) as threads:
        for _ in range(4):
            threads.submit(take_it)
    assert taken == [True] * 40
    assert not snapshots.docora.redis.exists(KEY)


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
