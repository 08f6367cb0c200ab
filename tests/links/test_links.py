"""`links` and `failed`: which links, in which words, and how they are counted."""

import dataclasses
import inspect
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import typer.main

from docora_ops.actions.lookup import choose_links
from docora_ops.cli.app import app
from docora_ops.cli.options import SELECTING
from docora_ops.database.links import MATCHES
from docora_ops.links import LinkFilter
from tests.support.docora import Docora
from tests.support.rows import AUTH_KEY, GITHUB_TOKEN
from tests.support.terminal import TerminalSession, plain_data

TOKEN = "ghp_0123456789abcdefABCD"


def test_a_failed_link_has_the_fields_of_the_dashboard_and_no_secret(docora: Docora) -> None:
    app_id = docora.add_app("Acme Search")
    url = f"https://octo:{TOKEN}@github.com/octo/api?key=hush"
    repository = docora.add_repository(url=url, circuit_open_for=timedelta(hours=1))
    error = f"fatal: unable to access 'https://{TOKEN}@github.com/octo/api'"
    docora.link(app_id, repository, retry_count=3, last_error=error, scanned=timedelta(days=1))
    docora.add_link("synced")
    result, table = docora.run("failed", "--json").ended(0), docora.run("failed").ended(0)
    assert result.json["pagination"] == {"page": 1, "limit": 20, "total": 1, "total_pages": 1}
    [row] = result.data
    of_the_dashboard = {
        "app_id": app_id,
        "app_name": "Acme Search",
        "repository_id": repository,
        "repository_name": "octo/api",
        "github_url": "https://***@github.com/octo/api?***",
        "error_message": "fatal: unable to access 'https://***@github.com/octo/api'",
        "timestamp": row["last_scanned_at"],
        "retry_count": 3,
    }
    assert row | of_the_dashboard == row
    assert (row["status"], row["circuit_is_open"]) == ("failed", True)
    for secret in (TOKEN, "hush", GITHUB_TOKEN, AUTH_KEY):
        assert secret not in result.stdout + table.stdout


@pytest.fixture
def various(docora: Docora) -> Docora:
    """Eight failed links of three apps, and one of each other status."""
    docora.add_links(4, apps=2, last_error="HTTP 502 on created 100%_done")
    app = docora.add_app("Other", "app_other")
    for number, error in enumerate(("Not Found", "", None)):
        repository = docora.add_repository(f"octo/{number}", f"repo_{number}")
        docora.link(app, repository, last_error=error)
    url, hour = "https://github.com/octo/other", timedelta(hours=1)
    repository = docora.add_repository("octo/other", "repo_other", url=url, circuit_open_for=hour)
    docora.link(app, repository, last_error="'Größe' 1 \\\nline 2")
    for status in ("synced", "scanning", "pending_snapshot"):
        repository = docora.add_repository(f"octo/{status}", f"repo_{status}")
        docora.link(app, repository, status, last_error=None)
    return docora


def test_filters_choose_links_literally(various: Docora) -> None:
    for options, count in {
        (): 8,
        ("--error", "%_"): 4,
        ("--error", "CREATED", "--error", "not found"): 5,
        ("--error", "http*done"): 4,
        ("--error", "'gRÖße' 1 \\"): 1,
        ("--exclude-error", "http", "--exclude-error", "line"): 3,
        ("--error", "*", "--exclude-error", "*done"): 3,
        ("--app", "Other", "--app", "app 1", "--repo", "octo/repo2", "--repo", "repo_other"): 2,
        ("--repo", url := "https://github.com/octo/other", "--circuit", "open"): 1,
        ("--repo", url, "--circuit", "closed"): 0,
        ("--repo", "*/repo1", "--repo", "repo_other", "--exclude-app", "App 1"): 2,
    }.items():
        data = various.run("failed", *options, "--json").ended(0).data
        assert len(data) == count, options
    various.run("failed", "--repo", "octo/lonely").ended(3)
    various.run("failed", "--error", "").ended(2)


def test_links_of_any_status_are_listed_in_pages_sorted_by_ids(various: Docora) -> None:
    chosen = ("--status", "synced", "--status", "scanning")
    some = various.run("links", *chosen, "--json").ended(0).data
    assert [row["status"] for row in some] == ["scanning", "synced"]
    every = various.run("links", "--json").ended(0).data
    pages = [various.run("links", "--limit=6", f"--page={page}", "--json") for page in (1, 2, 3)]
    assert [row["id"] for page in pages for row in page.data] == [row["id"] for row in every]
    assert every == sorted(every, key=lambda row: (row["app_id"], row["repository_id"]))
    pagination = {"page": 3, "limit": 6, "total": 11, "total_pages": 2}
    assert pages[2].json == {"data": [], "pagination": pagination}


def test_links_without_a_good_scan_for_too_long_are_overdue(docora: Docora) -> None:
    app = docora.add_app()
    ages = {"new": timedelta(minutes=1), "old": timedelta(hours=2)}
    for name, age in ages.items():
        docora.link(app, docora.add_repository(f"octo/{name}"), "synced", scanned=age)
    data = docora.run("links", "--overdue", "--json").ended(0).data
    assert [row["repository_name"] for row in data] == ["octo/old"]


def test_groups_count_links_and_say_whom_to_tell(various: Docora) -> None:
    [first, *_] = various.run("failed", "--group-by", "app", "--json").ended(0).data
    expected = {"key": "app_other", "name": "Other", "links": 4, "email": "ops@acme.example"}
    assert first | expected == first
    for field, count in {"status": 4, "repository": 9, "error": 4}.items():
        groups = various.run("links", "--group-by", field, "--json").ended(0).data
        assert (len(groups), sum(group["links"] for group in groups)) == (count, 11), field


def test_a_narrow_terminal_shows_as_much_of_an_error_as_fits(docora: Docora) -> None:
    error = "fatal: unable to access the repository: the host does not answer at all, at all"
    docora.link(docora.add_app("Acme Search"), docora.add_repository("octo/api"), last_error=error)
    for command, begin in (
        (["failed"], f"Acme Search octo/api   {5:>5} "),
        (["failed", "--group-by", "error"], f"{1:>5} {1:>4} Acme Search "),
    ):
        with TerminalSession(docora, *command) as terminal:
            code, screen = terminal.end()
        line = begin + error
        assert (code, f"{line[:79]}…" in plain_data(screen.replace("\r", ""))) == (0, True), screen


@pytest.mark.parametrize(
    ("errors", "shown"),
    [
        (["HTTP 500 on created a/b c", "Notification failed for deleted x: HTTP 500"], "HTTP 500"),
        (
            ["connect ECONNREFUSED 10.0.0.1:1 on created a", "connect ECONNREFUSED ::1/128"],
            "*connect ECONNREFUSED *",
        ),
        (["fatal: no 'a' of 12", "fatal: no 'b' of 13"], "fatal: no * of *"),
        ([f"denied: ghp_{digit * 20}" for digit in "12"], "denied: ***"),
    ],
)
def test_the_text_of_a_group_chooses_its_links(
    docora: Docora, errors: list[str], shown: str
) -> None:
    docora.add_link(last_error="something else")
    for error in errors:
        docora.add_link(last_error=error)
    [group, _] = docora.run("failed", "--group-by", "error", "--json").ended(0).data
    assert (group["error_message"], group["links"], group["apps"]) == (shown, 2, 2)
    chosen = docora.run("failed", "--error", shown, "--json").ended(0).data
    assert sorted(row["error_message"][:5] for row in chosen) == sorted(e[:5] for e in errors)


def test_every_option_of_a_list_selects_links_or_is_known_not_to() -> None:
    group: Any = typer.main.get_command(app)
    others = {"group_by", "limit", "page", "as_json", "env_file", "reset_circuit"}
    others |= {"wait", "timeout", "dry_run", "yes", "reason"}
    for name in ("links", "failed", "retry-all-failed"):
        known = {parameter.name for parameter in group.commands[name].params}
        assert known - SELECTING.keys() <= others, name
    assert set(SELECTING.values()) <= inspect.signature(choose_links).parameters.keys()
    for field in dataclasses.fields(LinkFilter):
        assert f"%({field.name})s" in MATCHES, field.name


def test_an_owner_is_told_how_to_select_all_of_its_repositories(docora: Docora) -> None:
    docora.link(docora.add_app(), docora.add_repository("octo/api"))
    docora.run("failed", "--repo", "octo").ended(3, says="--repo 'octo/*'")


def test_the_footer_comes_last_if_both_streams_lead_to_one_file(
    docora: Docora, tmp_path: Path
) -> None:
    docora.add_links(3)
    file = tmp_path / "log"
    with file.open("w") as both:
        docora.run("failed", "--page", "9", stdout=both, stderr=both)
        docora.run("failed", stdout=both, stderr=both)
    lines = file.read_text().splitlines()
    assert "3 failed links, and page 1 is the last" in lines[1]
    assert "3 failed links, page 1 of 1" in lines[-1]
