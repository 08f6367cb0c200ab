"""One git at a time for each repository, over all workers."""

from __future__ import annotations

import threading

import pytest

from docora_ops.errors import SnapshotError
from docora_ops.worker import repository_lock
from docora_ops.worker.git import Git
from docora_ops.worker.repository_lock import RepositoryLock
from tests.support.git_over_http import gate_at
from tests.support.proxy import eventually
from tests.support.snapshots import Snapshots
from tests.support.worker_processes import running

KEY = "docora:repo-lock:octo/api"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repository_lock, "PAUSE", 0.01)


def test_the_lock_is_held_while_git_works_and_only_then(
    snapshots: Snapshots, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, _ = snapshots.add_link({"a": "1\n"})
    redis = snapshots.docora.redis
    seen: list[tuple[str, bool]] = []
    run = Git.run

    def noted(self: Git, arguments: list[str], *rest: object, **options: object) -> str:
        seen.append((arguments[0], 119_000 < int(redis.pttl(KEY)) <= 120_000))
        return run(self, arguments, *rest, **options)  # type: ignore[arg-type]

    def answer(_request: object) -> int:
        seen.append(("POST", bool(redis.exists(KEY))))
        return 200

    monkeypatch.setattr(Git, "run", noted)
    snapshots.receiver.answer = answer
    snapshots.run_job(link)
    assert ("fetch", True) in seen
    assert [held for name, held in seen if name != "POST"] == [True] * (len(seen) - 1)
    assert seen[-1] == ("POST", False)
    assert not redis.exists(KEY)


def test_a_lock_that_is_held_for_long_fails_the_job_and_not_the_repository(
    snapshots: Snapshots, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, _ = snapshots.add_link({"a": "1\n"})
    monkeypatch.setattr(repository_lock, "TIMEOUT", 0.03)
    snapshots.docora.redis.set(KEY, "somebody else")
    with pytest.raises(SnapshotError):
        snapshots.run_job(link)
    row = snapshots.docora.row(link)
    assert row["status"] == "failed"
    assert row["last_error"] == "another worker has held the lock of octo/api for over 0.03 s"
    repository = snapshots.docora.connection.execute("SELECT * FROM repositories").fetchone()
    assert repository is not None
    assert repository["consecutive_failures"] == 0
    assert snapshots.docora.redis.get(KEY) == b"somebody else"
    assert not (snapshots.repos / ".docora-ops").exists()


def test_a_lock_that_is_let_go_is_taken(
    snapshots: Snapshots, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, _ = snapshots.add_link({"a": "1\n"})
    monkeypatch.setattr(repository_lock, "TIMEOUT", 10)
    snapshots.docora.redis.set(KEY, "somebody else", px=150)
    snapshots.run_job(link)
    assert snapshots.docora.status(link) == "synced"


def test_the_lock_of_another_repository_does_not_matter(
    snapshots: Snapshots, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, _ = snapshots.add_link({"a": "1\n"})
    monkeypatch.setattr(repository_lock, "TIMEOUT", 0)
    snapshots.docora.redis.set("docora:repo-lock:octo/other", "somebody else")
    snapshots.run_job(link)
    assert snapshots.docora.status(link) == "synced"


def test_only_its_owner_releases_and_renews_the_lock(snapshots: Snapshots) -> None:
    redis = snapshots.docora.redis
    lock = RepositoryLock(redis, "octo/api")
    with lock.held():
        redis.pexpire(KEY, 5000)
        lock.renew()
        assert int(redis.pttl(KEY)) > 100_000
        redis.set(KEY, "somebody else", px=5000)
        with pytest.raises(SnapshotError, match="was lost while git worked"):
            lock.renew()
    assert redis.get(KEY) == b"somebody else"
    assert int(redis.pttl(KEY)) <= 5000


def test_one_process_at_a_time_has_the_lock(
    snapshots: Snapshots, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repository_lock, "TIMEOUT", 100)
    inside = threading.Lock()
    overlaps = []

    def take_it() -> None:
        lock = RepositoryLock(snapshots.docora.redis, "octo/api")
        for _ in range(10):
            with lock.held():
                if not inside.acquire(blocking=False):
                    overlaps.append(1)
                    continue
                snapshots.docora.redis.ping()  # long enough for the others to come in
                inside.release()

    threads = [threading.Thread(target=take_it) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert overlaps == []
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
    assert snapshots.docora.statuses() == {"synced": 2}
    for link, name in ((first, "Acme"), (second, "Second")):
        assert snapshots.received(name).files == upstream.contents()
        assert [request.path for request in snapshots.received(name).requests] == ["a", "b"]
        assert snapshots.deliveries(link) == snapshots.snapshot_files(first.repository_id)
