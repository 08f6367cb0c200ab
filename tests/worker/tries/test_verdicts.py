"""What a failure makes of a link, and what must not disturb that."""

from __future__ import annotations

import threading
from contextlib import closing

import psycopg
import pytest
from rq.job import JobStatus

from docora_ops.database import Database, Session
from docora_ops.database.link_scans import begin_scan
from docora_ops.database.pooling import session_id
from docora_ops.database.snapshots import store_snapshot
from docora_ops.worker.webhook import Webhook
from tests.support.delivery_checks import link_row
from tests.support.proxy import eventually
from tests.support.snapshots import Snapshots

FILES = [(f"file{number}", "a" * 64, 1) for number in range(3)]


@pytest.mark.parametrize("base_url", ["http://exa mple.com", "http://[::1", "ftp://x", "nonsense"])
def test_an_app_that_can_not_be_told_of_a_circuit_does_not_change_the_verdict(
    snapshots: Snapshots, base_url: str
) -> None:
    """One git failure opens the circuit and ends the job's last try."""
    snapshots.settings_changes = {"circuit_breaker_threshold": 1, "max_retry_attempts": 1}
    link, upstream = snapshots.add_link({"a": "1"})
    snapshots.link(snapshots.add_app("Broken", base_url=base_url), link.repository_id)
    upstream.path.rename(upstream.path.with_suffix(".away"))
    snapshots.queue(link)
    snapshots.work_here()
    status, retries, error = link_row(snapshots, link)
    assert (status, retries) == ("failed", 1)
    assert error is not None
    assert snapshots.docora.job(link).get_status() is JobStatus.FAILED
    assert [request.event for request in snapshots.received().requests] == ["sync_failed"]


def test_the_session_that_holds_a_link_is_the_one_that_postgres_knows(
    snapshots: Snapshots,
) -> None:
    """Behind a proxy the driver's own idea of it is another one."""
    link, _ = snapshots.add_link({"a": "1"})
    with closing(Session(snapshots.settings)) as session:
        assert begin_scan(session, link.app_id, link.repository_id)
        row = snapshots.docora.connection.execute(
            "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted"
        ).fetchone()
        assert row == {"pid": session_id(session)}


def test_of_two_snapshots_of_one_repository_the_last_is_stored_with_its_own_files(
    snapshots: Snapshots,
) -> None:
    """The first has as many files, and is stored while the second waits for its row."""
    link, _ = snapshots.add_link({"a": "1"})
    repository_id = link.repository_id
    first, second = "1" * 40, "2" * 40
    other_files = [(f"other{number}", "b" * 64, 1) for number in range(3)]
    with closing(Database(snapshots.settings)) as database:
        store_snapshot(database, repository_id, second, "main", other_files)
    with psycopg.connect(snapshots.docora.database_access.owner) as blocker:
        blocker.execute("SELECT FROM repository_snapshots FOR UPDATE")
        blocker.execute("UPDATE repository_snapshots SET commit_sha = %s", (first,))
        blocker.execute("UPDATE snapshot_files SET path = 'of the first ' || path")

        def store() -> None:
            with closing(Database(snapshots.settings)) as database:
                store_snapshot(database, repository_id, second, "main", other_files)

        thread = threading.Thread(target=store)
        thread.start()
        eventually(lambda: is_waiting(snapshots), "the second that waits")
        blocker.commit()
        thread.join()
    assert snapshots.snapshot_files(repository_id) == {path: sha for path, sha, _ in other_files}


def is_waiting(snapshots: Snapshots) -> bool:
    row = snapshots.docora.connection.execute(
        "SELECT count(*) AS waiting FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    ).fetchone()
    return row == {"waiting": 1}


@pytest.mark.parametrize("variable", ["DATABASE_URL", "REDIS_URL"])
def test_a_job_without_settings_is_kept(
    snapshots: Snapshots, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """A worker of RQ itself, started in the wrong environment, must not lose links."""
    from docora_ops.worker import snapshot_job as job_module

    link, _ = snapshots.add_link({"a": "1"})
    snapshots.queue(link, max_retry_attempts=1)
    monkeypatch.setattr(job_module, "_settings", None)
    monkeypatch.delenv("DATABASE_URL", raising=False)
    if variable == "REDIS_URL":
        monkeypatch.setenv("REDIS_URL", "nonsense")
    from rq import SimpleWorker

    SimpleWorker([snapshots.docora.queue], connection=snapshots.docora.redis).work(burst=True)
    assert link_row(snapshots, link)[0] == "pending_snapshot"
    assert snapshots.docora.job(link).get_status() is JobStatus.SCHEDULED


@pytest.mark.parametrize(
    ("base_url", "expected"),
    [
        ("http://[::1]/x", ("::1", 80)),
        ("https://[::1]/x", ("::1", 443)),
        ("http://[::1]:8080/x", ("::1", 8080)),
        ("https://app.example", ("app.example", 443)),
    ],
)
def test_a_base_url_without_a_port_means_that_of_its_scheme(
    base_url: str, expected: tuple[str, int]
) -> None:
    with Webhook(base_url, "app", "key", timeout=1) as webhook:
        connection = webhook._connection._http
        assert (connection.host, connection.port) == expected
