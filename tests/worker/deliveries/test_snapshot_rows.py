"""What is stored of a repository's last snapshot."""

from __future__ import annotations

import pytest

from docora_ops.errors import SnapshotError
from tests.support.snapshots import Snapshots


def test_a_snapshot_that_can_not_be_stored_leaves_the_one_before(snapshots: Snapshots) -> None:
    link, upstream = snapshots.add_link({"a": "1\n", "b": "2\n"})
    snapshots.run_job(link)
    stored = snapshots.docora.dump()[0]["repository_snapshots"]
    files = snapshots.snapshot_files(link.repository_id)
    upstream.commit({"a": "3\n", "c": "4\n"})
    snapshots.docora.connection.execute(
        """
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN RAISE 'the disk is full'; END $$;
        CREATE TRIGGER refuse BEFORE INSERT ON snapshot_files
            FOR EACH ROW WHEN (NEW.path = 'c') EXECUTE FUNCTION refuse();
        """
    )
    with pytest.raises(SnapshotError, match="the disk is full"):
        snapshots.run_job(link)
    assert snapshots.docora.dump()[0]["repository_snapshots"] == stored
    assert snapshots.snapshot_files(link.repository_id) == files
    assert snapshots.docora.status(link) == "failed"
