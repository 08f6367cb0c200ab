"""`resync --update`: an app that missed a deletion gets it, and every file again."""

from tests.support.delivery_checks import assert_in_sync, events, failure
from tests.support.snapshots import Snapshots


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
    deletion, _, *updates = snapshots.received().requests
    assert deletion.json["file"]["sha"] == "0" * 64
    assert [request.json["previous_sha"] for request in updates] == ["0" * 64] * 2
    assert_in_sync(snapshots, link, upstream)
