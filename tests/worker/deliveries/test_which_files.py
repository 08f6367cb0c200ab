"""Which files a snapshot sends, in which order, and what it records of them."""

import pytest
from rq.job import JobStatus

from tests.support.delivery_checks import assert_in_sync, events, failure, last, sha, snapshot_row
from tests.support.receiver import Request
from tests.support.snapshots import Files, Snapshots


@pytest.mark.parametrize(
    ("before", "after", "sent"),
    [
        pytest.param(
            {"a": "1", "b": "1", "y": "1", "z": "1", "same": "1"},
            {"a": "2", "c": "new", "z": "2", "zz": "new", "same": "1"},
            "delete b, delete y, create c, create zz, update a, update z",
            id="deletions before creations before updates",
        ),
        pytest.param({"old": "1"}, {"sub/new": "1"}, "delete old, create sub/new", id="rename"),
        pytest.param(
            {"a": "1", "b/c": "1"},
            {"a/x": "1", "b": "1"},
            "delete a, delete b/c, create a/x, create b",
            id="file to folder and folder to file",
        ),
        pytest.param({"a": "1", "b": "1"}, {}, "delete a, delete b", id="no files"),
    ],
)
def test_what_a_commit_changes_is_sent_in_order(
    snapshots: Snapshots, before: Files, after: Files, sent: str
) -> None:
    link, upstream = snapshots.add_synced(before)
    snapshots.received().requests.clear()
    upstream.git("rm", "-r", "--quiet", ".")
    upstream.commit(after)
    snapshots.run_job(link)
    assert ", ".join(f"{event} {path}" for event, path in events(snapshots)) == sent
    assert last(snapshots).json["commit_sha"] == upstream.head
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


def delete_link(snapshots: Snapshots, *, app_too: bool) -> None:
    """As Docora does it, from a connection of its own: the receiver's threads call this."""
    snapshots.docora.connection.execute("DELETE FROM app_repositories")
    if app_too:
        snapshots.docora.connection.execute("DELETE FROM apps")


@pytest.mark.parametrize(("event", "app_too"), [("create", True), ("delete", False)])
def test_a_link_that_is_deleted_on_the_way_ends_its_job_quietly(
    snapshots: Snapshots, event: str, *, app_too: bool
) -> None:
    link, upstream = snapshots.add_link({f"{i}": "x" for i in range(9)})
    if event == "delete":
        snapshots.run_job(link)
        upstream.commit({f"{i}": None for i in range(9)})
    stored = snapshot_row(snapshots, link.repository_id)
    sent = len(events(snapshots))
    snapshots.queue(link)

    def answer(request: Request) -> int:
        if request.path == "2":
            delete_link(snapshots, app_too=app_too)
        return 200

    snapshots.receiver.answer = answer
    snapshots.work_here()
    new = events(snapshots)[sent:]
    assert new[:3] == [(event, "0"), (event, "1"), (event, "2")]
    assert len(new) <= 4  # one may be on its way while Postgres tells
    assert snapshots.docora.job(link).get_status() is JobStatus.FINISHED
    assert event == "delete" or "2" not in snapshots.deliveries(link)
    now = snapshot_row(snapshots, link.repository_id)
    assert (now and now["id"]) == (stored and stored["id"])


def test_a_snapshot_that_can_not_be_stored_leaves_the_one_before(snapshots: Snapshots) -> None:
    link, upstream = snapshots.add_synced({"a": "1\n", "b": "2\n"})
    stored = snapshots.docora.dump()[0]["repository_snapshots"]
    files = snapshots.snapshot_files(link.repository_id)
    upstream.commit({"a": "3\n", "c": "4\n"})
    snapshots.docora.add_trigger(
        "RAISE 'the disk is full'", when="NEW.path = 'c'", event="BEFORE INSERT ON snapshot_files"
    )
    assert "the disk is full" in failure(snapshots, link)
    assert snapshots.docora.dump()[0]["repository_snapshots"] == stored
    assert snapshots.snapshot_files(link.repository_id) == files
