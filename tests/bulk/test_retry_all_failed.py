"""`docora-ops retry-all-failed`."""

import re

from psycopg.conninfo import conninfo_to_dict
from rq.job import JobStatus

from docora_ops.queue.redis_client import describe
from tests.support.bulk_actions import OPERATION_ID, bulk_document
from tests.support.docora import Docora, Result
from tests.support.rows import TestLink
from tests.support.terminal import on_terminal

ESCAPE = "\x1b"
ANIMATION = re.compile(r"\x1b\[\?25l|\x1b\[2K")


def database_name(docora: Docora) -> str:
    return str(conninfo_to_dict(docora.database_url)["dbname"])


def assert_without_escapes(result: Result) -> None:
    assert ESCAPE not in result.stdout + result.stderr
    assert "\r" not in result.stdout + result.stderr
    assert "[y/N]" not in result.stdout + result.stderr


def test_the_json_has_the_fields_of_the_contract_and_their_sums(docora: Docora) -> None:
    docora.add_worker()
    app = docora.add_app("Acme Search")
    fresh, fresh_too, stale, waiting, running = (
        docora.link(app, docora.add_repository()) for _ in range(5)
    )
    docora.leave_job(stale.job_id, JobStatus.FAILED)
    docora.enqueue(waiting.job_id)
    docora.start_job(running.job_id)
    untouched = [docora.add_link(status) for status in ("synced", "scanning", "pending_snapshot")]
    rows_before = [docora.row(link) for link in [running, *untouched]]

    result = docora.run("retry-all-failed", "--json")

    assert result.code == 0, result
    operation_id = result.data["operation_id"]
    assert OPERATION_ID.fullmatch(operation_id)
    assert result.json == bulk_document(
        "Bulk retry started",
        operation_id,
        queued=2,
        replaced_stale=1,
        already_queued=1,
        already_running=1,
    )
    assert docora.waiting() == [link.job_id for link in (waiting, fresh, fresh_too, stale)]
    assert all(docora.was_reset(link) for link in (fresh, fresh_too, stale, waiting))
    assert 3500 < docora.redis.ttl(f"docora:bulk:{operation_id}") <= 3600
    assert [docora.row(link) for link in [running, *untouched]] == rows_before
    assert_without_escapes(result)


def test_the_summary_counts_by_app_and_stderr_names_the_operation_and_the_database(
    docora: Docora,
) -> None:
    docora.add_links(5, apps=2)
    docora.leave_job(f"app_{1:024x}-repo_{1:024x}", JobStatus.FAILED)
    docora.start_job(f"app_{2:024x}-repo_{2:024x}")
    result = docora.run("retry-all-failed")
    assert result.code == 0, result
    assert_without_escapes(result)

    assert [line.split("\t") for line in result.stdout.splitlines()] == [
        ["App", "App id", "queued", "replaced stale", "already running", "total"],
        ["all", "", "3", "1", "1", "5"],
        ["App 1", f"app_{1:024x}", "2", "1", "0", "3"],
        ["App 2", f"app_{2:024x}", "1", "0", "1", "2"],
    ]

    [operation_id] = OPERATION_ID.findall(result.stderr)
    assert docora.redis.exists(f"docora:bulk:{operation_id}")
    [line] = [line for line in result.stderr.splitlines() if operation_id in line]
    assert f"{database_name(docora)} on " in line
    assert "5 links" in line
    assert "no worker listens" in result.stderr


def test_nothing_failed_is_no_error_and_no_operation(docora: Docora) -> None:
    docora.add_link("synced")
    before = docora.dump()
    document = docora.run("retry-all-failed", "--json")
    assert document.code == 0, document
    assert document.json == bulk_document("No failed notifications found")
    assert docora.dump() == before


def job_ids(result: Result) -> list[str]:
    assert result.code == 0, result
    return [link["job_id"] for link in result.data["planned_links"]]


ERRORS = ["HTTP 500 on created README.md", "100% full", "file_name", "C:\\temp\\new", "%_\\"]
ERRORS += ["falsche Größe", 'it\'s "quoted"', "💥 boom", "two\nlines"]
CHOSEN_BY = {
    "Http 500": [0],
    "%": [1, 4],
    "_": [2, 4],
    "\\": [3, 4],
    "%_\\": [4],
    "\\n": [3],
    "größe": [5],
    "it's": [6],
    '"quoted"': [6],
    "💥": [7],
    "two\nlines": [8],
    "no such text": [],
}


def test_an_error_is_chosen_by_any_part_of_its_text_taken_literally_in_whatever_case(
    docora: Docora,
) -> None:
    links = [docora.add_link(last_error=error) for error in (*ERRORS, None)]
    dry = ("retry-all-failed", "--dry-run", "--json")
    everything, *results = docora.run_together(
        dry, *((*dry, "--error", text) for text in CHOSEN_BY)
    )
    assert job_ids(everything) == [link.job_id for link in links]
    for (text, chosen), result in zip(CHOSEN_BY.items(), results, strict=True):
        assert job_ids(result) == [links[number].job_id for number in chosen], text


def test_limit_spreads_its_pick_over_the_apps_and_a_rerun_takes_the_next(docora: Docora) -> None:
    def link(app_id: str) -> TestLink:
        return docora.link(app_id, docora.add_repository())

    c, b, a = (docora.add_app(app_id=f"app_{letter * 24}") for letter in "cba")
    a_links, b_links = [link(a) for _ in range(4)], [link(b) for _ in range(2)]
    c_link = link(c)
    docora.link(b, docora.add_repository(), "synced")
    picks = [[a_links[0], b_links[0], c_link], [a_links[1], b_links[1], a_links[2]], [a_links[3]]]
    limited = ("retry-all-failed", "--limit", "3", "--json")
    assert job_ids(docora.run(*limited, "--dry-run")) == [link.job_id for link in picks[0]]
    done: list[str] = []
    for pick in picks:
        result = docora.run(*limited)
        assert (result.code, result.data["total"], result.data["queued"]) == (0, *[len(pick)] * 2)
        done += [link.job_id for link in pick]
        assert docora.waiting() == done
    assert docora.statuses() == {"pending_snapshot": 7, "synced": 1}


def test_links_without_a_job_id_cost_only_themselves_and_are_listed_with_reasons(
    docora: Docora,
) -> None:
    app = docora.add_app("Dotted", "app.dotted")
    bad = [docora.link(app, docora.add_repository(f"o/{each}")).job_id for each in range(25)]
    good = [docora.add_link() for _ in range(3)]
    before = docora.connection.execute(
        "SELECT * FROM app_repositories WHERE app_id = 'app.dotted' ORDER BY id"
    ).fetchall()

    result = docora.run("retry-all-failed", "--json")
    assert result.code == 6, result
    data = result.data
    assert (data["total"], data["completed"], data["put_to_work"]) == (28, 28, 3)
    assert (data["queued"], data["not_queued"], data["cancelled"]) == (3, 25, False)
    assert [failure["job_id"] for failure in data["failures"]] == sorted(bad)
    for failure in data["failures"]:
        names = {"app_id", "app_name", "repository_id", "repository_name"}
        assert failure.keys() == {"job_id", "error_message", *names}
        assert "job id" in failure["error_message"]
    assert docora.waiting() == [link.job_id for link in good]
    after = docora.connection.execute(
        "SELECT * FROM app_repositories WHERE app_id = 'app.dotted' ORDER BY id"
    ).fetchall()
    assert after == before

    table = docora.run("retry-all-failed")
    assert re.findall(r"Dotted ← (o/\d+)", table.stdout) == [f"o/{each}" for each in range(25)]


def test_a_terminal_shows_the_exact_count_by_app_and_the_database_before_it_asks(
    docora: Docora,
) -> None:
    docora.add_links(7, apps=2)
    before = docora.dump()
    code, shown = on_terminal(docora, ["retry-all-failed"], answer=b"n\n")
    assert code == 130
    assert docora.dump() == before
    question = re.sub(r"\x1b\[[0-9;]*m", "", shown[: shown.index("[y/N]")])
    assert re.search(r"\b7 links\b", question)
    assert f"{database_name(docora)} on " in question
    servers = f" (schema public), Redis {describe(docora.redis)}"
    assert f"{servers}: reset 7 links" in " ".join(question.split())
    assert re.search(rf"4 +App 1 +app_{1:024x}", question)
    assert re.search(rf"3 +App 2 +app_{2:024x}", question)
    assert "nothing was changed" in shown
    assert not ANIMATION.search(shown)
    assert not OPERATION_ID.search(shown)


def test_a_yes_runs_it_with_a_bar_that_shows_rate_and_time_left(docora: Docora) -> None:
    docora.add_links(7, apps=2)
    code, shown = on_terminal(docora, ["retry-all-failed", "--dry-run"])
    assert (code, "[y/N]" in shown, docora.statuses()) == (0, False, {"failed": 7}), shown
    code, shown = on_terminal(docora, ["retry-all-failed"], answer=b"y\n")
    assert code == 0, shown
    assert docora.statuses() == {"pending_snapshot": 7}
    assert ANIMATION.search(shown)
    after = shown[shown.index("[y/N]") :]
    assert OPERATION_ID.search(after)
    for part in ("0/7", "7/7", "/s", "0:00:00", "━"):
        assert part in after
    docora.connection.execute("UPDATE app_repositories SET status = 'failed'")
    code, shown = on_terminal(docora, ["retry-all-failed", "--yes"])
    assert (code, "[y/N]" in shown) == (0, False), shown
    assert docora.statuses() == {"pending_snapshot": 7}


def test_options_that_no_failed_link_fits_do_not_sound_like_an_all_clear(docora: Docora) -> None:
    docora.add_links(3)
    result = docora.run("retry-all-failed", "--error", "no such error")
    assert result.code == 0
    assert "no link fits the options, yet 3 links are failed" in result.stderr
    assert docora.statuses() == {"failed": 3}
