"""A rescan in which nothing has changed: what it costs Postgres, and what it still finds."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from docora_ops.database import Session, link_scans, postgres
from docora_ops.database.link_scans import end_unchanged_scan
from docora_ops.errors import SnapshotError
from docora_ops.queue import connect
from docora_ops.worker import resources
from tests.support.rows import TestLink
from tests.support.snapshots import Snapshots


@pytest.fixture
def scan(snapshots: Snapshots) -> Iterator[Callable[[TestLink], None]]:
    """Runs a job of a link, as the only process of a worker does with one after the other."""
    with connect(snapshots.settings) as client:
        resources.use_settings(snapshots.settings, client)
        yield snapshots.run_snapshot
        resources.current_resources().take_session().close()


@contextmanager
def traced(monkeypatch: pytest.MonkeyPatch, path: Path) -> Iterator[None]:
    """Has each new connection of ours write its messages to a file."""
    connect_to_postgres = postgres.Connection.connect

    def connect_and_trace(*given: Any, **options: Any) -> postgres.Connection:
        connection = connect_to_postgres(*given, **options)
        connection.pgconn.trace(file.fileno())
        return connection

    with path.open("w") as file, monkeypatch.context() as patch:
        patch.setattr(postgres.Connection, "connect", connect_and_trace)
        yield


def sent(trace: str, *names: str) -> int:
    """Returns how many messages of these names we have sent."""
    lines = (line.split("\t") for line in trace.splitlines())
    return sum(fields[1] == "F" and fields[3] in names for fields in lines if len(fields) > 3)


def test_a_rescan_without_changes_takes_9_statements_in_4_round_trips(
    snapshots: Snapshots,
    scan: Callable[[TestLink], None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    link, _ = snapshots.add_link({"a": "1", "b": "2"})
    path = tmp_path / "trace"
    with traced(monkeypatch, path):
        for _ in range(3):  # sends files, then prepares the statements of a rescan
            scan(link)
        before = len(path.read_text())
        scan(link)
    trace = path.read_text()[before:]
    assert (sent(trace, "Execute", "Query"), sent(trace, "Sync", "Query")) == (9, 4)
    assert snapshots.docora.statuses() == {"synced": 1}
    assert len(snapshots.received().requests) == 2


@pytest.mark.parametrize(
    ("damage", "sent"),
    [
        ("DELETE FROM app_delivered_files WHERE file_path = 'b'", ["create"]),
        ("UPDATE app_delivered_files SET file_sha = repeat('0', 64)", ["update", "update"]),
        (
            "UPDATE app_delivered_files SET file_path = 'c' WHERE file_path = 'b'",
            ["delete", "create"],
        ),
        ("DELETE FROM snapshot_files WHERE path = 'b'", []),
        ("UPDATE repository_snapshots SET commit_sha = repeat('0', 40)", []),
        ("DELETE FROM repository_snapshots", []),
    ],
)
def test_a_rescan_sends_what_the_app_lacks_and_stores_a_commit_that_is_not_stored_whole(
    snapshots: Snapshots, scan: Callable[[TestLink], None], damage: str, sent: list[str]
) -> None:
    link, upstream = snapshots.add_link({"a": "1", "b": "2"})
    scan(link)
    snapshots.docora.connection.execute(damage.encode())
    scan(link)
    received = snapshots.received()
    assert received.files == upstream.contents()
    assert [request.event for request in received.requests][2:] == sent
    assert set(snapshots.snapshot_files(link.repository_id)) == {"a", "b"}
    [row] = snapshots.docora.connection.execute("SELECT commit_sha FROM repository_snapshots")
    assert row["commit_sha"] == upstream.head
    assert snapshots.docora.statuses() == {"synced": 1}


def test_a_rescan_needs_no_lock(snapshots: Snapshots, scan: Callable[[TestLink], None]) -> None:
    link, _ = snapshots.add_link({"a": "1"})
    scan(link)
    snapshots.docora.redis.set("docora:repo-lock:octo/api", "another job")
    scan(link)
    assert snapshots.docora.statuses() == {"synced": 1}
    assert snapshots.docora.redis.get("docora:repo-lock:octo/api") == b"another job"


@pytest.mark.parametrize("is_deleted", [False, True])
def test_a_rescan_that_has_lost_its_lock_or_its_link_stores_nothing(
    snapshots: Snapshots,
    scan: Callable[[TestLink], None],
    monkeypatch: pytest.MonkeyPatch,
    *,
    is_deleted: bool,
) -> None:
    link, _ = snapshots.add_link({"a": "1"})
    scan(link)
    moment = "SELECT scanned_at FROM repository_snapshots"
    before = snapshots.docora.connection.execute(moment).fetchall()

    def end(session: Session, *arguments: Any) -> bool:
        if is_deleted:
            snapshots.docora.connection.execute("DELETE FROM app_repositories")
        else:
            session.release()
        return end_unchanged_scan(session, *arguments)

    monkeypatch.setattr(link_scans, "end_unchanged_scan", end)
    lost = pytest.raises(SnapshotError, match="has not got the link's lock")
    with nullcontext() if is_deleted else lost:
        scan(link)
    assert snapshots.docora.statuses().get("synced") is None
    assert snapshots.docora.connection.execute(moment).fetchall() == before
