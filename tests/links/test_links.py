"""`links`, `failed` and `apps`: which ones, in which words, and that looking changes nothing."""

from datetime import UTC, timedelta

import pytest
from rq.job import JobStatus

from tests.support.docora import Docora
from tests.support.proxy import Proxy
from tests.support.read_only import frozen, read_only
from tests.support.rows import AUTH_KEY, GITHUB_TOKEN, TestLink

TOKEN = "ghp_0123456789abcdefABCD"


def test_each_failed_link_is_there_with_the_state_of_its_job(docora: Docora) -> None:
    app = docora.add_app("Acme Search")
    links: dict[str, TestLink] = {}
    for name in ("none", "stale", "waiting", "held", "doubtful", "unreadable"):
        links[name] = docora.link(app, docora.add_repository(f"octo/{name}"))
    docora.leave_job(links["stale"].job_id, JobStatus.FAILED)
    docora.enqueue(links["waiting"].job_id)
    docora.hold_lock(links["held"].job_id)
    docora.leave_job(links["doubtful"].job_id, JobStatus.QUEUED)
    docora.redis.set(f"rq:job:{links['unreadable'].job_id}", "not a hash")
    for status in ("synced", "scanning", "pending_snapshot"):
        docora.add_link(status)
    with frozen(docora):
        result = docora.run("failed", "--json", env=read_only(docora)).ended(0)
    assert result.json["pagination"] == {"page": 1, "limit": 50, "total": 6, "total_pages": 1}
    # The doubtful one is lost: doctor and repair look for it.
    jobs = {name: name for name in links} | {"held": "running", "doubtful": "waiting"}
    assert [(row["repository_name"], row["job"]) for row in result.data] == [
        (f"octo/{name}", job) for name, job in jobs.items()
    ]


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
    assert first.pop("last_scanned_at").startswith(f"{scanned:%Y-%m-%dT%H:%M:%S.}")
    assert first.pop("circuit_open_until")
    assert 86_400 <= first.pop("last_scanned_seconds") < 86_500
    assert first == {
        "app_id": app,
        "app_name": "Acme Search",
        "repository_id": repository,
        "repository_name": "octo/api",
        "github_url": "https://***@github.com/octo/api?***",
        "status": "failed",
        "error_message": "fatal: unable to access 'https://***@github.com/octo/api'",
        "error_message_cut": False,
        "retry_count": 3,
        "circuit_is_open": True,
        "job": "none",
        "failed_at": None,
    }
    assert (second["repository_id"], second["circuit_is_open"]) == (never.repository_id, False)
    for name in ("error_message", "last_scanned_at", "last_scanned_seconds", "circuit_open_until"):
        assert second[name] is None
    for text in (result.stdout, table.stdout):
        for secret in (TOKEN, "hush", GITHUB_TOKEN, AUTH_KEY):
            assert secret not in text


CHOICES: tuple[tuple[str, ...], ...] = (
    (),
    ("--error", "%_"),
    ("--error", "CREATED", "--error", "not found"),
    ("--error", "http*done"),
    ("--error", "*\\*\nline 2"),
    ("--error", "'gRÖße' 1 \\", "--error", "\\n", "--error", "💥"),
    ("--exclude-error", "http", "--exclude-error", "line"),
    ("--error", "*", "--exclude-error", "*done"),
    ("--no-error",),
    ("--no-error", "--error", "not found"),
    ("--repo", "octo/repo2", "--repo", "repo_other", "--app", "app_other", "--app", "app 1"),
    ("--repo", "https://github.com/octo/other", "--circuit", "open"),
    ("--repo", "*/repo1", "--repo", "repo_other", "--exclude-app", "App 1"),
)


@pytest.fixture
def various(docora: Docora) -> Docora:
    """Eight failed links of three apps, and one of each other status."""
    docora.add_links(4, apps=2, last_error="HTTP 502 on created 100%_done")
    app = docora.add_app("Other", "app_other")
    for number, error in enumerate(("Not Found", "", None)):
        repository = docora.add_repository(f"octo/{number}", f"repo_{number}")
        docora.link(app, repository, last_error=error)
    repository = docora.add_repository(
        "octo/other",
        "repo_other",
        url="https://github.com/octo/other",
        circuit_open_for=timedelta(hours=1),
    )
    docora.link(app, repository, last_error="'Größe' 1 \\\nline 2")
    for status in ("synced", "scanning", "pending_snapshot"):
        repository = docora.add_repository(f"octo/{status}", f"repo_{status}")
        docora.link(app, repository, status, last_error=None)
    return docora


@pytest.mark.slow
def test_what_is_shown_is_what_is_retried(various: Docora) -> None:
    sizes = []
    for options in CHOICES:
        shown = various.run("failed", *options, "--json")
        planned = various.run("retry-all-failed", *options, "--dry-run", "--json")
        assert shown.code == planned.code == 0, (options, shown, planned)
        assert [(row["app_id"], row["repository_id"]) for row in shown.data] == sorted(
            (row["app_id"], row["repository_id"]) for row in planned.data["planned_links"]
        )
        sizes.append(len(shown.data))
    assert sizes == [8, 4, 5, 4, 1, 1, 3, 3, 2, 3, 2, 1, 2]


def test_links_of_any_status_are_listed_and_counted(various: Docora) -> None:
    env = read_only(various)
    with frozen(various):
        every = various.run("links", "--json", env=env)
        some = various.run("links", "--status", "synced", "--status", "scanning", "--json", env=env)
        by_status = various.run("links", "--group-by", "status", "--json", env=env)
        by_repository = various.run("links", "--group-by", "repository", "--limit", "2", env=env)
        table = various.run("links", "--status", "scanning", "--status", "synced", env=env)
    assert every.json["pagination"]["total"] == 11
    assert [row["status"] for row in some.data] == ["scanning", "synced"]
    assert by_status.data == [
        {"status": "failed", "links": 8},
        {"status": "pending_snapshot", "links": 1},
        {"status": "scanning", "links": 1},
        {"status": "synced", "links": 1},
    ]
    assert by_repository.stdout.splitlines()[1:] == [
        f"2\tocto/repo{number}\trepo_{number:024x}" for number in (1, 2)
    ]
    assert "9 groups, page 1 of 5." in by_repository.stderr
    heading, first, *_ = (line.split("\t") for line in table.stdout.splitlines())
    assert first[heading.index("Status")] == "scanning"


@pytest.mark.slow
def test_links_are_sorted(docora: Docora) -> None:
    links = (("A", "x", 1, 1), ("B", "x", 0, None), ("C", None, 5, 2), ("D", "a", 5, 3))
    for name, error, retry_count, hours in links:
        scanned = None if hours is None else timedelta(hours=hours)
        repository = docora.add_repository(f"octo/{name}")
        link = docora.link(docora.add_app(name), repository, "synced", scanned=scanned)
        docora.set_link(link, last_error=error, retry_count=retry_count)
    for sort, first, second in (
        *(("app", "ABC", "D"), ("error", "DAB", "C"), ("retries", "CDA", "B")),
        ("last-scan", "BDC", "A"),
    ):
        for page, expected in (("1", first), ("2", second), ("3", "")):
            result = docora.run("links", "--sort", sort, "--limit=3", "--page", page, "--json")
            assert "".join(row["app_name"] for row in result.data) == expected, sort
    assert result.json["pagination"] == {"page": 3, "limit": 3, "total": 4, "total_pages": 2}
    beyond = docora.run("links", "--limit=3", "--page", "3")
    assert (beyond.code, beyond.stdout.count("\n")) == (0, 1)
    assert beyond.stderr.endswith(": there is no page 3: 4 links, 2 pages.\n")


def test_a_repository_that_no_chosen_app_has_is_an_error(docora: Docora) -> None:
    docora.add_links(4, apps=2)
    unlinked = docora.add_repository("octo/lonely", "repo_lonely")
    app = docora.add_app("Other", "app_other")
    docora.link(app, docora.add_repository("octo/other", "repo_other"))
    for options, message, hint in (
        (["--repo", unlinked], "'octo/lonely' is not linked to any app", "octo/"),
        (
            ["--app", "App 1", "--app", "App 2", "--repo", "octo/other"],
            "'octo/other' is not linked to app 'App 1' or 'App 2'",
            "octo/repo1",
        ),
        (
            ["--app", "Other", "--repo", "octo/lonely"],
            "'octo/lonely' is not linked to app 'Other'",
            "Hint: docora-ops links --app app_other lists the repositories that are\n",
        ),
        (["--app", "Other", "--repo", "octo/repo1*"], "no repository matches 'octo/repo1*'", ""),
    ):
        assert hint in docora.run("links", *options).ended(3, says=message).stderr


def test_without_redis_the_links_are_listed_and_without_postgres_nothing(docora: Docora) -> None:
    docora.add_links(2, last_error="HTTP 502")
    env = {"REDIS_URL": "redis://127.0.0.1:1"}
    result, table = docora.run("failed", "--json", env=env), docora.run("failed", env=env)
    assert result.code == table.code == 5
    assert (result.json["code"], result.json["pagination"]["total"]) == ("redis", 2)
    assert [row["job"] for row in result.data] == [None, None]
    assert table.stdout.count("\tunknown\n") == 2
    assert "Hint: " in table.stderr
    lost = docora.run("failed", "--json", env={"DATABASE_URL": "postgres://127.0.0.1:1/docora"})
    assert (lost.code, lost.json["code"]) == (5, "postgres"), lost


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
    assert by_error.code == by_app.code == 0, by_error
    both = ["Acme Search", "Tin Robot"]
    never = dict.fromkeys(("good_until_at", "good_until_seconds", "oldest_scan_seconds"))
    assert by_error.data == [
        {
            "error_message": "HTTP 500",
            "links": 4,
            "apps": 2,
            "files": 4,
            "app_names": both,
            **never,
        },
        {"error_message": None, "links": 1, "apps": 1, "files": 0, "app_names": both[:1], **never},
        {"error_message": "HTTP 502", "links": 1, "apps": 1, "files": 1, "app_names": both[:1]}
        | never,
    ]
    assert by_app.data == [
        {"app_id": acme, "app_name": "Acme Search", "links": 5},
        {"app_id": robot, "app_name": "Tin Robot", "links": 1},
    ]
    assert table.stdout.splitlines() == [
        "Links\tFiles\tApps\tApp names\tGood until\tError",
        "3\t3\t2\tAcme Search, Tin Robot\tnever good\tHTTP 500",
        "1\t1\t1\tAcme Search\tnever good\tHTTP 502",
    ]
    assert table.stderr.endswith(": 2 groups, page 1 of 1.\n")
    none = docora.run("links", "--group-by", "error", "--no-error", env=env)
    assert "1\t\t1\tAcme Search\t(no error recorded: --no-error)\n" in none.stdout


@pytest.mark.slow
def test_a_long_error_is_cut_where_it_is_read_and_no_secret_with_it(docora: Docora) -> None:
    head = "x" * 1880
    long = f"{head} https://user:5ecr3t-password@h.example/octo/api" + "y" * 3_000_000
    link = docora.add_link(last_error=long)
    with Proxy.before_postgres(docora.database_url) as proxy:
        listed = docora.run("failed", "--json", env={"DATABASE_URL": proxy.url}).ended(0)
        assert proxy.received < 200_000
    [row] = listed.data
    assert (row["error_message"], row["error_message_cut"]) == (head, True)
    shown = docora.run("failed")
    assert head in shown.stdout
    assert "5ecr3t" not in shown.stdout
    assert len(docora.run("show", *link.ids, "--json").data["error_message"]) > 3_000_000
    docora.set_link(link, last_error="x" * 285 + " ghp_0123456789abcdefABCD")
    assert "ghp_" not in docora.run("failed", "--group-by", "error").stdout


def test_each_app_has_its_links_by_status_most_failed_first(docora: Docora) -> None:
    well, ill, new = (docora.add_app(name) for name in ("Acme", "Tin Robot", "Quiet Harbor"))
    docora.connection.execute(
        "UPDATE apps SET base_url = 'https://u:hush@acme.example/a?key=hush' WHERE app_id = %s",
        (well,),
    )
    for app, status, days in (
        (well, "synced", 2),
        (well, "synced", 1),
        (well, "scanning", None),
        (ill, "failed", None),
        (ill, "failed", None),
        (ill, "pending_snapshot", None),
    ):
        scanned = None if days is None else timedelta(days=days)
        docora.link(app, docora.add_repository(), status, scanned=scanned)
    env = {**read_only(docora), "REDIS_URL": "redis://127.0.0.1:1"}
    with frozen(docora):
        result = docora.run("apps", "--json", env=env).ended(0)
        second = docora.run("apps", "--limit", "1", "--page", "2", "--json", env=env)
        table = docora.run("apps", env=env)
    assert result.json["pagination"] == {"page": 1, "limit": 50, "total": 3, "total_pages": 1}
    [_, latest] = docora.run("links", "--status", "synced", "--sort", "last-scan", "--json").data
    url, last = "https://acme.example/docora", latest["last_scanned_at"]
    assert [tuple(app.values()) for app in result.data] == [
        (ill, "Tin Robot", url, 3, 2, 1, 0, 0, *[None] * 6),
        (well, "Acme", "https://***@acme.example/a?***", *(3, 0, 0, 1, 2), last, *[None] * 5),
        (new, "Quiet Harbor", url, 0, 0, 0, 0, 0, *[None] * 6),
    ]
    assert list(result.data[0]) == [
        *("app_id", "app_name", "base_url", "links", "failed", "pending_snapshot", "scanning"),
        *("synced", "last_scanned_at", "good_until_at", "good_until_seconds"),
        *("oldest_scan_seconds", "email", "held"),
    ]
    assert [app["app_id"] for app in second.data] == [well]
    assert second.json["pagination"]["total_pages"] == 3
    assert "hush" not in result.stdout + table.stdout
    assert f"\nTin Robot\t{ill}\t3\t2\t1\t0\tnever\tnever good\t{url}\t\t\t\n" in table.stdout
    assert table.stderr.endswith(": 3 apps, page 1 of 1.\n")
