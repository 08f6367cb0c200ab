"""`deliveries`: what an app was delivered and when, and the proof, which is that of `verify`."""

import re
from datetime import datetime, timedelta
from typing import Any

import pytest

from docora_ops.actions import DeliveryChoice, delivered_files
from docora_ops.database import deliveries as records
from tests.repair.test_verify import FILES, HOUR, A, C, deliver, store, without
from tests.support.diagnoses import ONE_LOOK
from tests.support.docora import Docora, Result
from tests.support.read_only import frozen, read_only
from tests.support.rows import TestLink
from tests.support.snapshots import Snapshots
from tests.support.terminal import at_terminals, plain_data

LAST_ONLY = "records only the last delivery of each file, and no deletions"


def run(docora: Docora, command: str, *arguments: str) -> Result:
    """Runs a command that needs only Postgres, and changes nothing."""
    env = ONE_LOOK | read_only(docora) | {"REDIS_URL": "redis://127.0.0.1:1"}
    with frozen(docora):
        return docora.run(command, *arguments, env=env)


def add(
    docora: Docora,
    app: str,
    name: str,
    delivered: dict[str, str],
    status: str = "synced",
    scanned: timedelta | None = HOUR,
) -> TestLink:
    """A link whose repository has a stored commit with FILES."""
    link = docora.link(app, docora.add_repository(name), status, scanned=scanned)
    store(docora, link.repository_id, FILES)
    deliver(docora, link, delivered)
    return link


def delivered_ago(docora: Docora, link: TestLink, path: str, ago: timedelta) -> None:
    docora.connection.execute(
        "UPDATE app_delivered_files SET delivered_at = now() - %s"
        " WHERE app_id = %s AND repository_id = %s AND file_path LIKE %s",
        (ago, *link.ids, path),
    )


def of_repositories(result: Result) -> dict[str, dict[str, Any]]:
    return {row["repository_name"]: row for row in result.data["repositories"]}


def test_it_says_of_each_repository_what_is_missing_and_agrees_with_verify(docora: Docora) -> None:
    app = docora.add_app("Acme Search")
    add(docora, app, "octo/proven", FILES)
    add(docora, app, "octo/missing", without("README.md") | {"src/größe.ts": C, "old": A})
    add(docora, app, "octo/unsure", without("README.md"), scanned=None)
    add(docora, app, "octo/failed", {"README.md": A}, "failed")
    add(docora, app, "octo/scanning", {"README.md": A}, "scanning")
    docora.link(app, docora.add_repository("octo/new"), "synced", scanned=HOUR)
    docora.link(app, docora.add_repository("octo/never"))
    docora.delete_link(gone := add(docora, app, "octo/gone", FILES))
    add(docora, docora.add_app("Quiet Harbor"), "octo/other", {})
    result = run(docora, "deliveries", "acme search", "--json")
    verified = run(docora, "verify", app, "--json")
    assert (result.code, verified.code) == (6, 6), result
    assert result.data["proof"] == verified.data
    rows = of_repositories(result)
    assert {
        name: (row["files"], row["result"], row["stored_files"], row["missing"], row["outdated"])
        for name, row in rows.items()
    } == {
        "octo/proven": (5, "proven", 5, 0, 0),
        "octo/missing": (5, "differing", 5, 1, 1),
        "octo/unsure": (4, "uncertain", 5, 1, 0),
        "octo/failed": (1, "failed", 5, 4, 0),
        "octo/scanning": (1, "scanning", None, None, None),
        "octo/new": (0, "not_comparable", None, None, None),
        "octo/never": (0, "failed", None, None, None),
        "octo/gone": (5, None, None, None, None),
    }
    assert rows["octo/new"]["first_at"] is None
    assert (result.data["files"], rows["octo/gone"]["repository_id"]) == (21, gone.repository_id)
    screen = run(docora, "deliveries", app)
    cells = [line.split("\t") for line in screen.stdout.splitlines()]
    assert {cell[0]: cell[-1] for cell in cells if len(cell) > 1} == {
        "Repository": "Proof",
        "octo/failed": "failed: 4 missing",
        "octo/gone": "no longer linked",
        "octo/missing": "1 missing, 1 outdated, 1 extra",
        "octo/never": "failed",
        "octo/new": "no stored commit",
        "octo/proven": "proven",
        "octo/scanning": "being scanned",
        "octo/unsure": "uncertain: 1 missing",
    }
    assert screen.stdout.endswith(
        "\nAcme Search: 21 files of 6 repositories last delivered.\n"
        "Not all files are delivered: 1 link differs, 2 links are failed, 1 link proven, "
        "1 uncertain, 1 without a stored commit, 1 skipped (1 being scanned).\n"
    )
    assert LAST_ONLY in screen.stderr
    assert all(len(line) <= 80 for line in screen.stderr.splitlines()[-2:])
    shown = plain_data(at_terminals(docora, ["deliveries", app], columns=80, env=ONE_LOOK).data)
    lines = shown.splitlines()
    assert [line.split()[0] for line in lines[2:10]] == sorted(rows), shown
    assert re.search("^octo/missing .* 1 missing, 1 outda", lines[4])
    assert max(map(len, lines)) <= 80, shown


@pytest.mark.slow
def test_what_a_worker_has_delivered_is_proven_to_be_all(snapshots: Snapshots) -> None:
    docora = snapshots.docora
    link, upstream = snapshots.add_link({"a.txt": "1", "größe/日本.txt": "2"})
    snapshots.run_job(link)
    upstream.commit({"new.txt": "3", "a.txt": None})
    snapshots.run_job(link)
    for arguments in ((link.app_id,), link.ids):
        result = run(docora, "deliveries", *arguments)
        assert (result.code, result.stdout.splitlines()[-1]) == (
            0,
            "All 2 files of 1 repository were delivered.",
        )
    docora.connection.execute(b"DELETE FROM app_delivered_files WHERE file_path = 'new.txt'")
    lost = run(docora, "deliveries", *link.ids)
    assert (lost.code, "\t1 missing\n" in lost.stdout) == (6, True), lost


@pytest.mark.slow
def test_period_and_path_choose_files_and_the_proof_is_of_all_matching_ones(docora: Docora) -> None:
    app = docora.add_app()
    api, web = (add(docora, app, name, FILES) for name in ("octo/api", "octo/web"))
    for ago, path in ((30, "README.md"), (20, "src/%"), (10, "docs/%"), (40, "e%"), (50, "back%")):
        delivered_ago(docora, api, path, timedelta(hours=ago))
    delivered_ago(docora, web, "%", timedelta(hours=60))
    night = ("--since", "35h", "--until", "15h")
    result = run(docora, "deliveries", app, *night, "--json")
    rows = of_repositories(result)
    assert (result.code, rows["octo/api"]["files"], rows["octo/web"]["files"]) == (0, 2, 0), result
    row = docora.one(
        "SELECT json_build_array(min(delivered_at), max(delivered_at)) FROM app_delivered_files"
        " WHERE repository_id = %s AND file_path IN ('README.md', 'src/größe.ts')",
        api.repository_id,
    )
    assert [rows["octo/api"][name][:19] for name in ("first_at", "last_at")] == [
        each[:19] for each in row
    ]
    shown = run(docora, "deliveries", app, *night).stdout
    assert "2 files of 1 repository last delivered since 20" in shown
    assert shown.endswith("All 10 files of 2 repositories were delivered.\n")
    none = run(docora, "deliveries", app, "--since", "1h").stdout
    assert ": 0 files of 2 repositories last delivered since 20" in none
    files = run(docora, "deliveries", app, *night, "--files", "--json")
    assert [file["path"] for file in files.data] == ["README.md", "src/größe.ts"]

    docora.connection.execute(b"DELETE FROM app_delivered_files WHERE file_path LIKE 'docs/%'")
    for pattern, code, counted, end in (
        ("docs/*", 6, 0, "Not all files that match 'docs/*' are delivered: 2 links differ, "),
        ("src/*", 0, 2, "All 2 files that match 'src/*' of 2 repositories were delivered.\n"),
        ("SRC/*", 0, 0, "The stored commits of 2 repositories have no files that match 'SRC/*'.\n"),
    ):
        result = run(docora, "deliveries", app, "--path", pattern)
        assert (result.code, end in result.stdout) == (code, True), result
        assert run(docora, "deliveries", app, "--path", pattern, "--json").data["files"] == counted


def test_a_night_is_the_last_one_even_when_the_next_has_begun(docora: Docora) -> None:
    link = add(docora, docora.add_app(), "octo/api", FILES)
    delivered_ago(docora, link, "%", timedelta(hours=12))
    now: datetime = docora.one("SELECT now() AT TIME ZONE 'UTC'")
    evening, morning = (f"{now - ago:%H:%M}" for ago in (timedelta(minutes=1), timedelta(hours=8)))
    options = ("--since", evening, "--until", morning)
    night = run(docora, "deliveries", link.app_id, *options, "--json")
    assert (night.code, night.data["files"]) == (0, len(FILES)), night
    period = f"since {night.data['since_at']} before {night.data['until_at']}"
    assert f" last delivered {period}.\n" in run(docora, "deliveries", link.app_id, *options).stdout
    none = run(docora, "deliveries", link.app_id, *options, "--files", "--path", "no")
    assert f", {period}: 0 delivered files.\n" in none.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("--since", "1h", "--until", "2h"), 2, "is not before --until 20"),
        (("--since", "yesterday", "--until", "3d"), 2, "is not before --until 20"),
        (("--path", " "), 2, "the value is empty"),
        (("--page", "2"), 2, "--limit and --page need --files"),
        (("octo/nothing",), 3, "no repository 'octo/nothing'"),
    ],
)
def test_what_can_choose_nothing_is_refused(
    docora: Docora, arguments: tuple[str, ...], code: int, sentence: str
) -> None:
    app = docora.add_app()
    result = run(docora, "deliveries", app, *arguments)
    assert (result.code, sentence in result.stderr, result.stdout) == (code, True, ""), result


def test_files_are_listed_in_pages_and_a_pipe_gets_all(docora: Docora) -> None:
    app = docora.add_app("Acme Search")
    api, web = (docora.link(app, docora.add_repository(f"octo/{name}")) for name in ("api", "web"))
    docora.add_deliveries(api, 60)
    deliver(docora, web, {"x\u202e.txt": C})
    docora.add_deliveries(docora.add_link(), 2)
    command = ("deliveries", app, "--files")
    piped, first, last, one = (
        run(docora, *command, *more)
        for more in (
            (),
            ("--json",),
            ("--limit", "50", "--page", "2", "--json"),
            ("--limit", "1", "--page", "61"),
        )
    )
    assert first.json["pagination"] == {"page": 1, "limit": 50, "total": 61, "total_pages": 2}
    files = [*first.data, *last.data]
    assert len({(file["repository_name"], file["path"]) for file in files}) == 61
    lines = piped.stdout.splitlines()
    assert lines[0] == "Repository\tPath\tSHA-256\tDelivered"
    assert lines[1:-1] == ["\t".join([*file.values()][1:]) for file in files[:-1]]
    assert lines[-1].startswith("octo/web\tx\\u202e.txt\tccc")
    assert one.stdout.splitlines()[1:] == lines[-1:]
    assert "61 delivered files." in piped.stderr
    docora.connection.execute("UPDATE repositories SET name = repeat('long', 20)")
    shown = plain_data(at_terminals(docora, [*command, "--page", "2"], columns=80).data)
    assert re.search(r"\nocto/long\w+  x\\u202e.txt ", shown), shown
    docora.connection.execute("UPDATE repositories SET name = 'web'")
    [file] = run(docora, *command, web.repository_id, "--json", "--path", "*.txt").data
    assert (file["repository_id"], file["path"]) == (web.repository_id, "x\u202e.txt")


def test_a_long_list_is_read_in_pieces(docora: Docora, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "_AT_ONCE", 2)
    app = docora.add_app()
    for name, files in (("octo/a", 3), ("octo/b", 2), ("octo/c", 4)):
        docora.add_deliveries(docora.link(app, docora.add_repository(name)), files)
    _, total, files_read = delivered_files(docora.actions().docora, DeliveryChoice(app))
    found = [(file.repository_name, file.path) for file in files_read]
    assert len(found) == total == 9
    assert found == sorted(found)
