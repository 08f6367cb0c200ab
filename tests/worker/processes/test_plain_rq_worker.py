"""What a job must see to itself, since a plain RQ worker may run it too."""

from __future__ import annotations

import logging

import pytest

from docora_ops.errors import SnapshotError
from tests.support.snapshots import Snapshots

HOSTILE = "evil\n2026 INFO forged\x1b]0;title\x07\u202e"


def test_each_line_that_a_job_logs_is_inert(
    snapshots: Snapshots, caplog: pytest.LogCaptureFixture
) -> None:
    link, _ = snapshots.add_link({"a": "1\n", "b" + HOSTILE: "2\n"})
    snapshots.docora.connection.execute("UPDATE apps SET app_name = %s", (HOSTILE,))
    snapshots.receiver.answer = lambda request: 200 if request.path == "a" else 500
    with caplog.at_level(logging.INFO), pytest.raises(SnapshotError):
        snapshots.run_job(link)
    messages = [record.message for record in caplog.records if "rq.worker" in record.name]
    assert any(r"evil\n2026 INFO forged\x1b]0;title\x07\u202e" in text for text in messages)
    assert any(r"on created bevil\n2026" in text for text in messages)
    assert [text for text in messages if not text.isprintable()] == []


def test_the_verdict_waits_for_the_disk_though_deliveries_do_not(snapshots: Snapshots) -> None:
    link, _ = snapshots.add_link({"a": "1\n", "b": "2\n"})
    snapshots.docora.connection.execute(
        """
        CREATE TABLE commits (what text, waits text);
        GRANT INSERT ON commits TO PUBLIC;
        CREATE FUNCTION note_it() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            INSERT INTO commits VALUES (TG_ARGV[0], current_setting('synchronous_commit'));
            RETURN NEW;
        END $$;
        CREATE TRIGGER note_it AFTER INSERT ON app_delivered_files
            FOR EACH ROW EXECUTE FUNCTION note_it('delivery');
        CREATE TRIGGER note_it AFTER UPDATE ON app_repositories
            FOR EACH ROW WHEN (NEW.status = 'synced') EXECUTE FUNCTION note_it('verdict');
        CREATE TRIGGER note_it AFTER INSERT ON repository_snapshots
            FOR EACH ROW EXECUTE FUNCTION note_it('snapshot');
        """
    )
    snapshots.run_job(link)
    rows = snapshots.docora.connection.execute("SELECT what, waits FROM commits").fetchall()
    assert [(row["what"], row["waits"]) for row in rows] == [
        ("delivery", "off"),
        ("delivery", "off"),
        ("snapshot", "on"),
        ("verdict", "on"),
    ]
