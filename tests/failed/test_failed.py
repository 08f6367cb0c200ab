"""`failed`: which links, in which words, and that looking changes nothing."""

import re
from datetime import UTC, timedelta
from typing import Any

from rq.job import JobStatus

from tests.support.docora import QUEUE, Docora
from tests.support.proxy import Proxy
from tests.support.read_only import frozen, read_only
from tests.support.rows import AUTH_KEY, GITHUB_TOKEN, TestLink
from tests.support.terminal import on_terminal

TOKEN = "ghp_0123456789abcdefABCD"


def names(rows: list[dict[str, Any]]) -> list[str]:
    return [row["repository_name"] for row in rows]


def test_each_failed_link_is_there_with_the_state_of_its_job(docora: Docora) -> None:
    app = docora.add_app("Acme Search")
    links: dict[str, TestLink] = {}
    for name in ("none", "stale", "waiting", "running", "held", "doubtful", "unreadable"):
        links[name] = docora.link(app, docora.add_repository(f"octo/{name}"))
    docora.leave_job(links["stale"].job_id, JobStatus.FAILED)
    docora.enqueue(links["waiting"].job_id)
    docora.start_job(links["running"].job_id)
    docora.hold_lock(links["held"].job_id)
    docora.leave_job(links["doubtful"].job_id, JobStatus.QUEUED)
    docora.redis.set(f"rq:job:{links['unreadable'].job_id}", "not a hash")
    for status in ("synced", "scanning", "pending_snapshot"):
        docora.add_link(status)
    with frozen(docora):
        result = docora.run("failed", "--json", env=read_only(docora))
    assert result.code == 0, result
    assert result.json.keys() == {"data", "pagination"}
    assert result.json["pagination"] == {"page": 1, "limit": 50, "total": 7, "total_pages": 1}
    assert names(result.data) == [f"octo/{name}" for name in links]
    assert {row["repository_name"].removeprefix("octo/"): row["job"] for row in result.data} == {
        **{name: name for name in links if name != "held"},
        "held": "running",
    }


def test_a_row_has_the_fields_of_the_dashboard_and_no_secret(docora: Docora) -> None:
    app = docora.add_app("Acme Search")
    repository = docora.add_repository(
        url=f"https://octo:{TOKEN}@github.com/octo/api?key=hush",
        circuit_open_for=timedelta(hours=1),
    )
    link = docora.link(
        app,
        repository,
        retry_count=3,
        last_error=f"fatal: unable to access 'https://{TOKEN}@github.com/octo/api'",
        scanned=timedelta(days=1),
    )
    never = docora.link(app, docora.add_repository("octo/web"), last_error=None)
    result, table = docora.run("failed", "--json"), docora.run("failed")
    first, second = result.data
    scanned = docora.row(link)["last_scanned_at"].astimezone(UTC)
    assert first.pop("timestamp") == first["last_scanned_at"]
    assert first.pop("last_scanned_at").startswith(f"{scanned:%Y-%m-%dT%H:%M:%S.}")
    assert first.pop("circuit_open_until") > second["timestamp"]
    assert first == {
        "app_id": app,
        "app_name": "Acme Search",
        "repository_id": repository,
        "repository_name": "octo/api",
        "github_url": "https://***@github.com/octo/api?***",
        "error_message": "fatal: unable to access 'https://***@github.com/octo/api'",
        "error_message_cut": False,
        "retry_count": 3,
        "job": "none",
    }
    assert (second["repository_id"], second["error_message"]) == (never.repository_id, None)
    assert second["last_scanned_at"] is second["circuit_open_until"] is None
    assert second["timestamp"]
    assert "(no error recorded)" in table.stdout
    for text in (result.stdout, table.stdout):
        for secret in (TOKEN, "hush", GITHUB_TOKEN, AUTH_KEY):
            assert secret not in text


def test_the_choice_is_that_of_a_bulk_retry_page_by_page(docora: Docora) -> None:
    docora.add_links(7, apps=2, last_error="HTTP 502 on created 100%_done")
    other = docora.link(
        docora.add_app("Other", "app_other"), docora.add_repository(repository_id="repo_other")
    )
    for options in (
        ("--error", "http 502"),
        ("--error", "%_"),
        ("--app", "app 2"),
        ("--app", other.app_id),
        ("--error", "_%"),
    ):
        shown = docora.run("failed", *options, "--json")
        planned = docora.run("retry-all-failed", *options, "--dry-run", "--json")
        assert shown.code == planned.code == 0
        assert [(row["app_id"], row["repository_id"]) for row in shown.data] == [
            (row["app_id"], row["repository_id"]) for row in planned.data["links"]
        ]
    pages = [
        docora.run("failed", "--limit", "3", "--page", str(page), "--json") for page in (1, 2, 3, 4)
    ]
    listed = [row["app_id"] + "-" + row["repository_id"] for page in pages for row in page.data]
    assert listed == [link.job_id for link in docora.links()]
    assert [len(page.data) for page in pages] == [3, 3, 2, 0]
    assert pages[3].json["pagination"] == {"page": 4, "limit": 3, "total": 8, "total_pages": 3}
    assert "8 failed links, page 4 of 3" in pages[3].stderr


def test_nothing_failed_is_a_sentence_and_an_unknown_app_an_error(docora: Docora) -> None:
    for options in ((), ("--group-by", "app"), ("--group-by", "error"), ("--error", "x")):
        result, table = docora.run("failed", *options, "--json"), docora.run("failed", *options)
        assert (result.code, result.data) == (0, [])
        assert result.json["pagination"]["total"] == 0
        assert (table.code, table.stdout) == (0, "")
        assert "no failed link" in table.stderr
    unknown = docora.run("failed", "--app", "Nobody", "--json")
    assert (unknown.code, unknown.json["code"]) == (3, "not_found")


def test_groups_count_links_and_apps(docora: Docora) -> None:
    acme, robot = docora.add_app("Acme Search"), docora.add_app("Tin Robot")
    errors: list[str | None] = [f"HTTP 500 on created src/{number}.ts" for number in range(3)]
    errors += ["HTTP 502 on created a", "HTTP 500 on updated b", None]
    for number, error in enumerate(errors):
        docora.link(
            acme if number else robot, docora.add_repository(f"octo/{number}"), last_error=error
        )
    env = {**read_only(docora), "REDIS_URL": "redis://127.0.0.1:1"}
    with frozen(docora):
        by_error = docora.run("failed", "--group-by", "error", "--json", env=env)
        by_app = docora.run("failed", "--group-by", "app", "--json", env=env)
        table = docora.run("failed", "--group-by", "error", "--error", "created", env=env)
        second = docora.run(
            *("failed", "--group-by", "error", "--limit", "1", "--page", "2", "--json"), env=env
        )
    assert by_error.code == by_app.code == 0, by_error
    assert by_error.data == [
        {"error_message": "HTTP 500 on created *", "links": 3, "apps": 2},
        {"error_message": None, "links": 1, "apps": 1},
        {"error_message": "HTTP 500 on updated *", "links": 1, "apps": 1},
        {"error_message": "HTTP 502 on created *", "links": 1, "apps": 1},
    ]
    assert by_app.data == [
        {"app_id": acme, "app_name": "Acme Search", "links": 5},
        {"app_id": robot, "app_name": "Tin Robot", "links": 1},
    ]
    assert table.stdout.splitlines() == [
        "3 links, 2 apps  HTTP 500 on created *",
        "1 link, 1 app    HTTP 502 on created *",
    ]
    assert second.data == by_error.data[1:2]
    assert second.json["pagination"] == {"page": 2, "limit": 1, "total": 4, "total_pages": 4}


def test_a_longer_page_reads_the_waiting_list_once(docora: Docora) -> None:
    docora.add_links(400)
    waiting = [link.job_id for link in docora.links()][::3]
    for job_id in waiting:
        docora.redis.hset(f"rq:job:{job_id}", mapping={"status": "queued", "origin": QUEUE})
    docora.redis.rpush(docora.queue.key, *waiting)
    with frozen(docora):
        result = docora.run("failed", "--limit", "400", "--json")
    found = [
        f"{row['app_id']}-{row['repository_id']}" for row in result.data if row["job"] != "none"
    ]
    assert found == waiting


def test_a_long_error_is_cut_where_it_is_read_and_no_secret_with_it(docora: Docora) -> None:
    head = "x" * 1880 + " "
    long = f"{head}https://user:5ecr3t-password@h.example/octo/api" + "y" * 3_000_000
    link = docora.add_link(last_error=long)
    with Proxy.before_postgres(docora.database_url) as proxy:
        listed = docora.run("failed", "--json", env={"DATABASE_URL": proxy.url})
        assert proxy.received < 200_000
    assert listed.code == 0, listed
    [row] = listed.data
    assert (row["error_message"], row["error_message_cut"]) == (f"{head}https://***", True)
    shown = docora.run("failed")
    more = f"… all of it: docora-ops show {link.app_id}"
    assert f"{head}https://***{more}" in shown.stdout
    assert "5ecr3t" not in shown.stdout
    whole = docora.run("show", *link.ids, "--json")
    assert len(whole.data["error_message"]) > 3_000_000
    error = "x" * 285 + " ghp_0123456789abcdefABCD"
    docora.connection.execute("UPDATE app_repositories SET last_error = %s", (error,))
    grouped = docora.run("failed", "--group-by", "error")
    assert "ghp_" not in grouped.stdout


def test_a_narrow_terminal_shows_each_link_in_four_lines(docora: Docora) -> None:
    docora.add_links(3, last_error="HTTP 502 on created README.md")
    _, shown = on_terminal(docora, ["failed"], columns=80, env={"NO_COLOR": "1"})
    *lines, _ = re.sub(r"\x1b\[[0-9;]*m", "", shown).splitlines()
    assert len(lines) == 3 * 4
    title, *details = (line.strip() for line in lines[:4])
    assert title.startswith("App 1 ← octo/")
    assert details == [
        "HTTP 502 on created README.md",
        "5 retries, last good scan: never",
        "circuit closed, job: none",
    ]
