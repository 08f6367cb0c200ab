"""`resync --update`: an app that missed a deletion gets it, and every file again."""

import pytest

from tests.support.delivery_checks import assert_in_sync, events, failure
from tests.support.rows import TestLink
from tests.support.snapshots import Snapshots, Upstream

GONE_AND_LEFT = [("delete", "gone"), ("create", "new"), ("update", "big"), ("update", "kept")]


@pytest.fixture
def link_and_upstream(snapshots: Snapshots) -> tuple[TestLink, Upstream]:
    """An app that was down while one file was deleted in its repository and one was added."""
    snapshots.settings_changes |= {"binary_chunk_threshold_bytes": 20}
    link, upstream = snapshots.add_synced({"big": b"\0" * 30, "gone": "1", "kept": "1"})
    upstream.commit({"gone": None, "new": "2"})
    snapshots.receiver.answer = lambda _: 503
    assert failure(snapshots, link) == "HTTP 503 on deleted gone"
    snapshots.receiver.answer = lambda _: 200
    snapshots.received().requests.clear()
    return link, upstream


@pytest.mark.parametrize("arguments", [("octo/api",), ("--all", "--yes")])
def test_an_app_that_was_down_gets_the_deletion_and_every_file_again(
    snapshots: Snapshots, link_and_upstream: tuple[TestLink, Upstream], arguments: tuple[str, ...]
) -> None:
    link, upstream = link_and_upstream
    result = snapshots.docora.run("resync", "Acme", *arguments, "--update", "--json")
    assert (result.code, result.data["deliveries_marked"]) == (0, 3), result
    assert set(snapshots.deliveries(link).values()) == {"0" * 64}
    snapshots.work_here()
    assert events(snapshots) == GONE_AND_LEFT
    deletion, _, *updates = snapshots.received().requests
    assert deletion.json["file"]["sha"] == "0" * 64
    assert [request.json["previous_sha"] for request in updates] == ["0" * 64] * 2
    assert_in_sync(snapshots, link, upstream)


@pytest.mark.parametrize("arguments", [("octo/api",), ("--all", "--yes")])
def test_a_resync_without_it_says_that_the_app_keeps_the_file(
    snapshots: Snapshots, link_and_upstream: tuple[TestLink, Upstream], arguments: tuple[str, ...]
) -> None:
    dry = snapshots.docora.run("resync", "Acme", *arguments, "--dry-run")
    result = snapshots.docora.run("resync", "Acme", *arguments)
    marked = snapshots.docora.run("resync", "Acme", *arguments, "--update")
    said = [" ".join((each.stdout + each.stderr).split()) for each in (dry, result, marked)]
    assert [each.code for each in (dry, result, marked)] == [0, 0, 0]
    keeps = "Files that are gone from the repository stay in the app: --update deletes them."
    assert [keeps in text for text in said] == [True, True, False]
    snapshots.work_here()
    assert "gone" in snapshots.received().files
