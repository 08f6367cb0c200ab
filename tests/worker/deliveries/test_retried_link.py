"""What a snapshot sends and records."""

from __future__ import annotations

import hashlib

from tests.support.snapshots import Snapshots


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_a_retried_link_really_gets_its_files(snapshots: Snapshots) -> None:
    link, upstream = snapshots.add_link({"README.md": "hello\n", "src/a.py": "x = 1\n"})
    assert snapshots.docora.run("retry", link.app_id, link.repository_id).code == 0
    assert snapshots.work().code == 0
    assert snapshots.docora.status(link) == "synced"
    assert snapshots.received().files == upstream.contents()
    expected = {path: sha(content) for path, content in upstream.contents().items()}
    assert snapshots.deliveries(link) == expected
    assert snapshots.snapshot_files(link.repository_id) == expected
