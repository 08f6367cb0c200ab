"""`docora-ops resync`."""

import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.support.bulk_actions import bulk_document
from tests.support.docora import Docora
from tests.support.read_only import frozen
from tests.support.rows import TestLink
from tests.support.terminal import on_terminal

APP = "app_" + "a" * 24
REPOSITORY = "repo_" + "b" * 24


@pytest.fixture
def link(docora: Docora) -> TestLink:
    """A synced link with three delivered files, and another app's two of the same repository."""
    docora.add_app("Acme Search", APP)
    docora.add_repository("octo/api", REPOSITORY)
    link = docora.link(APP, REPOSITORY, "synced", retry_count=0, last_error=None)
    docora.add_deliveries(link, 3)
    other = docora.link(docora.add_app("Zebra"), REPOSITORY, "synced")
    docora.add_deliveries(other, 2)
    return link


def deliveries_in_all(docora: Docora) -> int:
    return docora.connection.execute("SELECT FROM app_delivered_files").rowcount


def test_a_resync_forgets_the_deliveries_resets_the_link_and_queues_it(
    docora: Docora, link: TestLink
) -> None:
    result = docora.run("resync", APP, "octo/api", "--json")
    assert result.code == 0, result
    none = ("circuit_open_until", "circuit_reset", "deliveries_marked", "waited")
    assert result.json == {
        "data": {
            **dict.fromkeys(none),
            "message": "Re-sync queued",
            "job_id": f"{APP}-{REPOSITORY}",
            "outcome": "queued",
            "app_id": APP,
            "app_name": "Acme Search",
            "repository_id": REPOSITORY,
            "repository_name": "octo/api",
            "previous": {"status": "synced", "retry_count": 0, "error_message": None},
            "worker_count": 0,
            "dry_run": False,
            "deliveries_cleared": 3,
        }
    }
    assert docora.was_reset(link)
    assert docora.deliveries(link) == 0
    assert deliveries_in_all(docora) == 2
    assert docora.waiting() == [link.job_id]
    assert docora.job(link).kwargs["is_rescan"] is False
    assert "no worker listens" in result.stderr
    table = docora.run("resync", "acme search", "octo/api").stdout.splitlines()
    assert "Files\t0 delivery records deleted: every file is sent again" in table
    assert {"Was\tpending_snapshot, 0 tries failed", "Outcome\talready queued"} <= {*table}


def test_a_resync_of_a_running_snapshot_or_without_a_clear_target_is_refused(
    docora: Docora, link: TestLink
) -> None:
    docora.start_job(link.job_id)
    with frozen(docora):
        running, alone, both, unconfirmed, unknown = docora.run_together(
            ("resync", APP, REPOSITORY, "--json"),
            ("resync", APP, "--json"),
            ("resync", APP, REPOSITORY, "--all", "--yes", "--json"),
            ("resync", APP, "--all", "--json"),
            ("resync", "Acme Serch", "--all", "--yes", "--json"),
        )
    assert (running.code, running.json["code"]) == (4, "snapshot_running")
    assert (running.json["status"], running.json["job"]) == ("synced", "running")
    assert "octo/api" in running.json["error"]
    for result in (alone, both, unconfirmed):
        assert (result.code, result.json["code"]) == (2, "usage"), result
    assert "REPO or --all" in alone.json["error"]
    assert "--all" in alone.json["hint"]
    assert "not both" in both.json["error"]
    assert "--yes" in unconfirmed.json["hint"]
    assert (unknown.code, unknown.json["code"]) == (3, "not_found")


def test_all_is_one_bulk_operation_over_the_links_of_the_app(
    docora: Docora, link: TestLink
) -> None:
    docora.add_worker()
    second = docora.link(APP, docora.add_repository(), "failed")
    third = docora.link(APP, docora.add_repository(), "scanning")
    docora.add_deliveries(second, 5)
    docora.enqueue(third.job_id)
    result = docora.run("resync", APP, "--all", "--yes", "--json")
    assert result.code == 0, result
    operation_id = result.data["operation_id"]
    assert result.json == bulk_document(
        "Bulk re-sync started", operation_id, queued=2, already_queued=1, deliveries_cleared=8
    )
    assert all(docora.was_reset(one) for one in (link, second, third))
    assert deliveries_in_all(docora) == 2
    assert docora.job(second).kwargs["is_rescan"] is False
    assert operation_id in result.stderr


def test_a_terminal_is_asked_with_the_number_of_files(docora: Docora, link: TestLink) -> None:
    database = str(conninfo_to_dict(docora.database_url)["dbname"])
    docora.add_deliveries(docora.link(APP, docora.add_repository("octo/web"), "synced"), 4)
    for which, parts in {
        "octo/api": ("3 files", "octo/api"),
        "--all": ("7 files", "2 links"),
    }.items():
        with frozen(docora):
            code, shown = on_terminal(docora, ["resync", APP, which], answer=b"n\n", columns=200)
        assert code == 130, shown
        question = shown[: shown.index("[y/N]")]
        for part in (*parts, "Acme Search", f"{database} on "):
            assert part in question
        assert "nothing was changed" in shown
    for options in ([REPOSITORY], ["--all"], [REPOSITORY, "--yes"]):
        code, shown = on_terminal(docora, ["resync", APP, *options], answer=b"y\n")
        asked = "--yes" not in options
        assert (code, "[y/N]" in shown, docora.deliveries(link)) == (0, asked, 0), shown
        docora.add_deliveries(link, 2)
