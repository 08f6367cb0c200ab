"""Which files a snapshot sends, in which order, and what it records of them."""

import pytest
from rq.job import JobStatus

from docora_ops.worker import snapshot_job
from tests.support.delivery_checks import assert_in_sync, events, failure, snapshot_row
from tests.support.raw_app import Talk, raw_app
from tests.support.receiver import Request
from tests.support.snapshots import Files, Snapshots


def test_deletions_are_sent_before_creations_before_updates(snapshots: Snapshots) -> None:
    before: Files = {"a": "1", "file": "1", "folder/c": "1", "old": "1", "same": "1", "z": "1"}
    link, upstream = snapshots.add_synced(before)
    snapshots.received().requests.clear()
    upstream.git("rm", "-r", "--quiet", ".")
    upstream.commit({"a": "2", "file/x": "1", "folder": "1", "same": "1", "sub/new": "1", "z": "2"})
    snapshots.run_job(link)
    assert ", ".join(f"{event} {path}" for event, path in events(snapshots)) == (
        "delete file, delete folder/c, delete old,"
        " create file/x, create folder, create sub/new, update a, update z"
    )
    assert_in_sync(snapshots, link, upstream)
    upstream.git("rm", "-r", "--quiet", ".")
    upstream.commit()
    snapshots.run_job(link)
    assert_in_sync(snapshots, link, upstream)
    assert snapshots.received().requests[-1].json["commit_sha"] == upstream.head


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
            tables = ("app_repositories", "apps") if app_too else ("app_repositories",)
            for table in tables:
                snapshots.docora.connection.execute(f"DELETE FROM {table}".encode())
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


def test_an_app_has_30_s_to_answer(snapshots: Snapshots, monkeypatch: pytest.MonkeyPatch) -> None:
    assert snapshot_job.DELIVERY_TIMEOUT == 30
    monkeypatch.setattr(snapshot_job, "DELIVERY_TIMEOUT", 0.2)
    link, _ = snapshots.add_link({"a": "1"})
    with raw_app(snapshots.receiver, Talk.wait_for_hangup) as app:
        snapshots.set_base_url(app.base_url)
        error = failure(snapshots, link)
    assert error == f"no answer from {app.host} within 0.2 s on created a"


def test_an_app_that_was_down_gets_the_deletion_and_every_file_again(snapshots: Snapshots) -> None:
    snapshots.settings_changes |= {"binary_chunk_threshold_bytes": 20}
    link, upstream = snapshots.add_synced({"big": b"\0" * 30, "gone": "1", "kept": "1"})
    upstream.commit({"gone": None, "new": "2"})
    snapshots.receiver.answer = lambda _: 503
    assert failure(snapshots, link) == "HTTP 503 on deleted gone"
    snapshots.receiver.answer = lambda _: 200
    snapshots.received().requests.clear()
    result = snapshots.docora.run("resync", "Acme", "octo/api", "--update", "--json")
    assert (result.code, result.data["deliveries_marked"]) == (0, 3), result
    assert set(snapshots.deliveries(link).values()) == {"0" * 64}
    snapshots.work_here()
    sent = [("delete", "gone"), ("create", "new"), ("update", "big"), ("update", "kept")]
    assert events(snapshots) == sent
    deletion, creation, *updates = (request.json for request in snapshots.received().requests)
    assert deletion["file"] == {"path": "gone", "sha": "0" * 64}
    assert "previous_sha" not in deletion | creation
    assert [update["previous_sha"] for update in updates] == ["0" * 64] * 2
    assert_in_sync(snapshots, link, upstream)
