"""Which files a snapshot sends, in which order, and what it records of them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import pytest
from rq.job import JobStatus

from docora_ops.demo.receiver import Request
from docora_ops.worker import snapshot_job as job
from docora_ops.worker.clone import Clone, Commit
from docora_ops.worker.scan import File, scan
from tests.support.delivery_checks import (
    assert_in_sync,
    events,
    last,
    scanned_ago,
    sha,
    snapshot_row,
)
from tests.support.snapshots import Snapshots


def test_a_first_snapshot_creates_every_file(snapshots: Snapshots) -> None:
    link, upstream = snapshots.add_link({"b.txt": "b", "a/z.txt": "z", "a.txt": "a", "a/b/c": "c"})
    snapshots.run_job(link)
    assert_in_sync(snapshots, link, upstream)
    assert events(snapshots) == [
        ("create", "a.txt"),
        ("create", "a/b/c"),
        ("create", "a/z.txt"),
        ("create", "b.txt"),
    ]
    stored = snapshot_row(snapshots, link.repository_id)
    assert stored is not None
    assert stored["branch"] == "main"
    sizes = snapshots.docora.connection.execute(
        'SELECT path, size FROM snapshot_files ORDER BY path COLLATE "C"'
    ).fetchall()
    assert [(row["path"], row["size"]) for row in sizes] == [
        ("a.txt", 1),
        ("a/b/c", 1),
        ("a/z.txt", 1),
        ("b.txt", 1),
    ]


def test_all_that_is_sent_goes_over_one_connection(snapshots: Snapshots) -> None:
    link, upstream = snapshots.add_link({f"{i}.txt": f"{i}" for i in range(30)})
    snapshots.run_job(link)
    assert snapshots.receiver.connections == 1
    assert_in_sync(snapshots, link, upstream)


def test_deletions_come_before_creations_and_these_before_updates(snapshots: Snapshots) -> None:
    link, upstream = snapshots.add_link({"a": "1", "b": "1", "y": "1", "z": "1", "same": "1"})
    snapshots.run_job(link)
    snapshots.received().requests.clear()
    upstream.commit({"a": "2", "b": None, "c": "new", "y": None, "z": "2", "zz": "new"})
    snapshots.run_job(link)
    assert events(snapshots) == [
        ("delete", "b"),
        ("delete", "y"),
        ("create", "c"),
        ("create", "zz"),
        ("update", "a"),
        ("update", "z"),
    ]
    assert_in_sync(snapshots, link, upstream)


def test_nothing_is_sent_when_nothing_has_changed(snapshots: Snapshots) -> None:
    link, upstream = snapshots.add_link({"a": "1"})
    snapshots.run_job(link)
    snapshots.docora.connection.execute(
        "UPDATE app_repositories SET last_scanned_at = now() - interval '1 day'"
    )
    snapshots.run_job(link)
    assert events(snapshots) == [("create", "a")]
    assert snapshots.receiver.connections == 1
    assert scanned_ago(snapshots, link) < timedelta(minutes=1)
    assert_in_sync(snapshots, link, upstream)


def test_an_update_tells_what_was_delivered_last_and_not_what_was_committed_last(
    snapshots: Snapshots,
) -> None:
    link, upstream = snapshots.add_link({"a": "1", "b": "1"})
    snapshots.docora.connection.execute(
        "INSERT INTO app_delivered_files (app_id, repository_id, file_path, file_sha)"
        " SELECT app_id, repository_id, unnest(ARRAY['a', 'gone']), repeat('e', 64)"
        " FROM app_repositories"
    )
    snapshots.run_job(link)
    delete, create, update = (request.json for request in snapshots.received().requests)
    assert delete["file"] == {"path": "gone", "sha": "e" * 64}
    assert "previous_sha" not in delete
    assert create["file"]["path"] == "b"
    assert "previous_sha" not in create
    assert (update["previous_sha"], update["file"]["sha"]) == ("e" * 64, sha("1"))
    assert_in_sync(snapshots, link, upstream)


def test_a_delivery_bears_the_moment_of_its_last_change(snapshots: Snapshots) -> None:
    link, upstream = snapshots.add_link({"a": "1", "b": "1"})
    snapshots.run_job(link)
    connection = snapshots.docora.connection
    connection.execute("UPDATE app_delivered_files SET delivered_at = now() - interval '1 day'")
    upstream.commit({"a": "2"})
    snapshots.run_job(link)
    fresh = connection.execute(
        "SELECT file_path FROM app_delivered_files WHERE delivered_at > now() - interval '1 minute'"
    ).fetchall()
    assert fresh == [{"file_path": "a"}]


def test_a_renamed_file_is_deleted_and_created(snapshots: Snapshots) -> None:
    link, upstream = snapshots.add_link({"old": "the same"})
    snapshots.run_job(link)
    upstream.commit({"old": None, "sub/new": "the same"})
    snapshots.run_job(link)
    assert events(snapshots)[1:] == [("delete", "old"), ("create", "sub/new")]
    assert_in_sync(snapshots, link, upstream)


def test_a_new_mode_alone_sends_nothing(snapshots: Snapshots) -> None:
    link, upstream = snapshots.add_link({"run.sh": "echo\n"})
    snapshots.run_job(link)
    (upstream.path / "run.sh").chmod(0o755)
    before = upstream.head
    assert upstream.commit() != before
    assert "100755" in upstream.git("ls-tree", "HEAD")
    snapshots.run_job(link)
    assert events(snapshots) == [("create", "run.sh")]
    assert_in_sync(snapshots, link, upstream)


def test_links_and_submodules_are_no_files(snapshots: Snapshots) -> None:
    link, upstream = snapshots.add_link({"a": "1"})
    (upstream.path / "link").symlink_to("a")
    (upstream.path / "folder").symlink_to("/etc")
    upstream.git("add", "--all")
    upstream.git("update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},module")
    upstream.git("commit", "--quiet", "--message=links")
    tree = upstream.git("ls-tree", "HEAD")
    assert tree.count("120000 ") == 2
    assert "160000 " in tree
    snapshots.run_job(link)
    assert events(snapshots) == [("create", "a")]
    assert_in_sync(snapshots, link, upstream)


def test_a_file_that_becomes_a_link_is_deleted_and_comes_back_as_a_new_one(
    snapshots: Snapshots,
) -> None:
    link, upstream = snapshots.add_link({"a": "1", "b": "1"})
    snapshots.run_job(link)
    upstream.write({"b": None})
    (upstream.path / "b").symlink_to("a")
    upstream.commit()
    snapshots.run_job(link)
    assert_in_sync(snapshots, link, upstream)
    upstream.commit({"b": None})
    upstream.commit({"b": "1"})
    snapshots.run_job(link)
    assert events(snapshots)[2:] == [("delete", "b"), ("create", "b")]
    assert_in_sync(snapshots, link, upstream)


def test_a_file_may_become_a_folder_and_a_folder_a_file(snapshots: Snapshots) -> None:
    link, upstream = snapshots.add_link({"a": "1", "b/c": "1"})
    snapshots.run_job(link)
    upstream.write({"a": None, "b/c": None})
    (upstream.path / "b").rmdir()
    upstream.commit({"a/x": "1", "b": "1"})
    snapshots.run_job(link)
    assert events(snapshots)[2:] == [
        ("delete", "a"),
        ("delete", "b/c"),
        ("create", "a/x"),
        ("create", "b"),
    ]
    assert_in_sync(snapshots, link, upstream)


def test_each_app_gets_what_it_lacks_itself(snapshots: Snapshots) -> None:
    link, upstream = snapshots.add_link({"a": "1"})
    other = snapshots.link(snapshots.add_app("Beta"), link.repository_id)
    snapshots.run_job(link)
    upstream.commit({"a": "2"})
    snapshots.run_job(other)
    assert events(snapshots) == [("create", "a")]
    assert events(snapshots, "Beta") == [("create", "a")]
    assert snapshots.deliveries(link) == {"a": sha("1")}
    assert_in_sync(snapshots, other, upstream, "Beta")
    snapshots.run_job(link)
    assert last(snapshots).event == "update"
    assert_in_sync(snapshots, link, upstream)


def test_a_commit_without_files_takes_everything_back(snapshots: Snapshots) -> None:
    link, upstream = snapshots.add_link({"a": "1", "b": "1"})
    snapshots.run_job(link)
    upstream.commit({"a": None, "b": None})
    snapshots.run_job(link)
    assert events(snapshots)[2:] == [("delete", "a"), ("delete", "b")]
    assert last(snapshots).json["commit_sha"] == upstream.head
    assert_in_sync(snapshots, link, upstream)


def test_every_2xx_is_a_success(snapshots: Snapshots) -> None:
    link, upstream = snapshots.add_link({"201": "1", "202": b"\0", "204": "1", "299": "1"})
    snapshots.receiver.answer = lambda request: int(request.path)
    snapshots.run_job(link)
    assert snapshots.receiver.connections == 1
    assert_in_sync(snapshots, link, upstream)


def delete_link(snapshots: Snapshots, *, app_too: bool) -> None:
    """As Docora does it, from a connection of its own: the receiver's threads call this."""
    snapshots.docora.connection.execute("DELETE FROM app_repositories")
    if app_too:
        snapshots.docora.connection.execute("DELETE FROM apps")


@pytest.mark.parametrize("app_too", [False, True])
def test_a_link_that_is_deleted_on_the_way_ends_its_job_quietly(
    snapshots: Snapshots, *, app_too: bool
) -> None:
    link, _ = snapshots.add_link({f"{i}": "x" for i in range(9)})
    snapshots.queue(link)

    def answer(request: Request) -> int:
        if request.path == "2":
            delete_link(snapshots, app_too=app_too)
        return 200

    snapshots.receiver.answer = answer
    snapshots.work_here()
    sent = events(snapshots)
    assert sent[:3] == [("create", "0"), ("create", "1"), ("create", "2")]
    assert len(sent) <= 4  # one may be on its way while Postgres tells
    assert snapshots.docora.job(link).get_status() is JobStatus.FINISHED
    assert "2" not in snapshots.deliveries(link)
    assert snapshot_row(snapshots, link.repository_id) is None


def test_an_app_that_is_deleted_while_its_files_are_hashed_gets_nothing(
    snapshots: Snapshots, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, _ = snapshots.add_link({"a": "1"})

    def scan_and_delete(clone: Clone, commit: Commit) -> Sequence[File]:
        delete_link(snapshots, app_too=True)
        return scan(clone, commit)

    monkeypatch.setattr(job, "scan", scan_and_delete)
    snapshots.run_job(link)
    assert snapshots.receiver.connections == 0
    assert snapshot_row(snapshots, link.repository_id) is None


@pytest.mark.parametrize("app_too", [False, True])
def test_a_link_that_is_gone_before_its_job_begins_gets_nothing(
    snapshots: Snapshots, *, app_too: bool
) -> None:
    link, _ = snapshots.add_link({"a": "1"})
    snapshots.queue(link)
    delete_link(snapshots, app_too=app_too)
    snapshots.work_here()
    assert snapshots.receiver.connections == 0
    assert snapshots.docora.job(link).get_status() is JobStatus.FINISHED
    assert not snapshots.repos.exists()


def test_deletions_end_too_when_the_link_is_gone(snapshots: Snapshots) -> None:
    link, upstream = snapshots.add_link({f"file{number}": "1" for number in range(6)})
    snapshots.run_job(link)
    upstream.commit({f"file{number}": None for number in range(5)})

    def take_link_away(_: Request) -> int:
        snapshots.docora.connection.execute("DELETE FROM app_repositories")
        return 200

    snapshots.receiver.answer = take_link_away
    before = len(events(snapshots))
    snapshots.run_job(link)
    # One more may be on its way when the record of the first says so.
    assert len(events(snapshots)) - before <= 3
