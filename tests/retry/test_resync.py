"""`docora-ops resync`."""

import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.repair.test_verify import deliver, store
from tests.support.bulk_actions import bulk_document
from tests.support.docora import Docora
from tests.support.read_only import frozen, read_only
from tests.support.rows import TestLink
from tests.support.terminal import on_terminal

APP = "app_" + "a" * 24
REPOSITORY = "repo_" + "b" * 24
KEPT = "Without --update, files that were deleted from the repository stay in the app."


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


def test_a_resync_forgets_deliveries_and_queues_the_link(docora: Docora, link: TestLink) -> None:
    result = docora.run("resync", APP, "octo/api", "--json").ended(0)
    none = ("circuit_open_until", "circuit_reset", "waited")
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
    assert KEPT not in "\n".join(table)
    assert {"Was\tpending snapshot", "Outcome\talready queued"} <= {*table}


def test_a_resync_of_a_running_or_unclear_link_is_refused(docora: Docora, link: TestLink) -> None:
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


def test_all_is_one_bulk_operation_on_the_links_of_the_app(docora: Docora, link: TestLink) -> None:
    docora.add_worker()
    second = docora.link(APP, docora.add_repository(), "failed")
    third = docora.link(APP, docora.add_repository(), "scanning")
    docora.add_deliveries(second, 5)
    docora.enqueue(third.job_id)
    result = docora.run("resync", APP, "--all", "--yes", "--json").ended(0)
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


def paths(docora: Docora, link: TestLink, sha: str) -> set[str]:
    rows = docora.connection.execute(
        "SELECT file_path FROM app_delivered_files WHERE app_id = %s AND repository_id = %s"
        " AND file_sha = %s",
        (*link.ids, sha),
    )
    return {row["file_path"] for row in rows}


def test_path_sends_only_matching_files_again(docora: Docora, link: TestLink) -> None:
    delivered, marked = "a" * 64, "0" * 64
    names = {"docs/a.md", "docs/deep/größe.md", "Docs/b.md", "docs_/c.md", "100%/d.md"}
    deliver(docora, link, dict.fromkeys(names, delivered))
    all_files = names | {f"src/file{number}" for number in (1, 2, 3)}
    command = ("resync", *link.ids, "--path")
    with frozen(docora):
        dry, none, bulk = docora.run_together(
            (*command, "docs/*", "--dry-run"),
            (*command, "DOCS/*", "--json"),
            ("resync", APP, "--all", "--yes", "--path", "docs/*", "--json"),
            env=read_only(docora),
        )
    assert (dry.code, "2 delivery records would be deleted" in dry.stdout) == (0, True), dry
    assert (none.code, none.json["code"]) == (3, "not_found")
    assert "--files" in none.json["hint"]
    assert (bulk.code, bulk.json["code"], "REPO" in bulk.json["error"]) == (2, "usage", True)

    update = docora.run(*command, "*%/d.md", "--update", "--json")
    assert (update.code, update.data["deliveries_cleared"]) == (0, 1), update
    assert paths(docora, link, marked) == {"100%/d.md"}
    result = docora.run(*command, "docs/*").ended(0)
    assert "2 delivery records deleted: these files are sent again" in result.stdout
    kept = KEPT.replace("files", "matching files")  # the snapshot deletes others
    assert (KEPT in result.stdout, kept in result.stdout) == (False, True)
    assert paths(docora, link, delivered) == all_files - {
        *("docs/a.md", "docs/deep/größe.md", "100%/d.md")
    }
    assert docora.was_reset(link)
    assert docora.waiting() == [link.job_id]
    assert deliveries_in_all(docora) == 2 + len(all_files) - 2
    selections = [entry["selection"] for entry in docora.audit_entries()]
    assert any('"path": "docs/*"' in each for each in selections), selections

    # In the stored commit, and never delivered: the snapshot sends it anyway.
    store(docora, link.repository_id, {"new/a.md": delivered, "src/file1": delivered})
    new = docora.run(*command, "new/*")
    assert (new.code, "no delivery records yet: the snapshot sends" in new.stdout) == (0, True), new
    docora.add_deliveries(docora.link(APP, docora.add_repository("octo/web"), "synced"), 4)
    with frozen(docora):
        arguments = ["resync", *link.ids, "--path", "src/*"]
        code, shown = on_terminal(docora, arguments, answer=b"n\n", columns=200)
    assert (code, "3 files" in shown, kept in shown) == (130, True, True), shown


@pytest.mark.parametrize("which", [(REPOSITORY,), ("--all", "--yes")])
def test_it_says_that_the_app_keeps_files_that_were_deleted_meanwhile(
    docora: Docora, link: TestLink, which: tuple[str, ...]
) -> None:
    options = (("--dry-run", False), ("--update", False), ("--front", True))
    for option, is_said in options:
        result = docora.run("resync", APP, *which, option)
        assert (result.code, KEPT in result.stdout) == (0, is_said), result
    assert docora.deliveries(link) == 0
