"""One git at a time for each repository, over the workers of all hosts; any number reads."""

import pytest

from docora_ops.errors import SnapshotError
from docora_ops.worker import clone
from docora_ops.worker.clone import RepositoryLock
from tests.support.delivery_checks import assert_in_sync, failure, git_failures
from tests.support.snapshots import Snapshots

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


def test_only_its_owner_releases_and_renews_the_lock(snapshots: Snapshots) -> None:
    redis = snapshots.docora.redis
    lock = RepositoryLock(redis, "octo/api", "app_1-repo_1")
    with lock.held():
        redis.pexpire(KEY, 5000)
        lock.renew()
        assert 100_000 < int(redis.pttl(KEY)) <= 120_000
        redis.set(KEY, "somebody else", px=5000)
        with pytest.raises(SnapshotError, match="was lost while git worked"):
            lock.renew()
    assert redis.get(KEY) == b"somebody else"
    assert int(redis.pttl(KEY)) <= 5000
