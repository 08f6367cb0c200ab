"""`docora-ops retry-all-failed`, and links that cost a bulk action only themselves."""

import re

import pytest
from psycopg.conninfo import conninfo_to_dict
from rq.job import Job, JobStatus

from docora_ops.errors import PostgresError
from docora_ops.links import Outcome
from docora_ops.queue.redis_client import describe
from tests.support.bulk_actions import APP, OPERATION_ID, bulk_document
from tests.support.docora import Docora
from tests.support.proxy import patience
from tests.support.rows import TestLink
from tests.support.terminal import on_terminal

ANIMATION = re.compile(r"\x1b\[\?25l|\x1b\[2K")


def database_name(docora: Docora) -> str:
    return str(conninfo_to_dict(docora.database_url)["dbname"])


def test_the_json_has_the_fields_of_the_contract_and_their_sums(docora: Docora) -> None:
    docora.add_worker()
    app = docora.add_app("Acme Search")
    fresh, stale, waiting, running = (docora.link(app, docora.add_repository()) for _ in range(4))
    docora.leave_job(stale.job_id, JobStatus.FAILED)
    docora.enqueue(waiting.job_id)
    docora.start_job(running.job_id)
    untouched = [docora.add_link(status) for status in ("synced", "scanning", "pending_snapshot")]
    rows_before = [docora.row(link) for link in [running, *untouched]]
    result = docora.run("retry-all-failed", "--json").ended(0)
    operation_id = result.data["operation_id"]
    assert OPERATION_ID.fullmatch(operation_id)
    counts = ("queued", "replaced_stale", "already_queued", "already_running")
    expected = bulk_document("Bulk retry started", operation_id, **dict.fromkeys(counts, 1))
    assert result.json == expected
    assert docora.waiting() == [link.job_id for link in (waiting, fresh, stale)]
    assert all(docora.was_reset(link) for link in (fresh, stale, waiting))
    assert 3500 < docora.redis.ttl(f"docora:bulk:{operation_id}") <= 3600
    assert [docora.row(link) for link in [running, *untouched]] == rows_before


def test_stdout_counts_by_app_and_stderr_names_operation_and_database(docora: Docora) -> None:
    docora.add_links(5, apps=2)
    docora.leave_job(f"app_{1:024x}-repo_{1:024x}", JobStatus.FAILED)
    docora.start_job(f"app_{2:024x}-repo_{2:024x}")
    result = docora.run("retry-all-failed").ended(0)
    assert [line.split("\t") for line in result.stdout.splitlines()] == [
        ["App", "App id", "queued", "replaced stale", "already running", "total"],
        ["all", "", "3", "1", "1", "5"],
        ["App 1", f"app_{1:024x}", "2", "1", "0", "3"],
        ["App 2", f"app_{2:024x}", "1", "0", "1", "2"],
    ]
    [line] = [line for line in result.stderr.splitlines() if OPERATION_ID.search(line)]
    assert f"{database_name(docora)} on " in line
    assert "5 links" in line
    assert "no worker listens" in result.stderr


def test_nothing_to_retry_is_no_error_and_no_operation_yet_no_all_clear(docora: Docora) -> None:
    docora.add_link("synced")
    before = docora.dump()
    document = docora.run("retry-all-failed", "--json")
    assert (document.code, document.json) == (0, bulk_document("Nothing to retry"))
    for option in ("--wait", "--in-flight=2"):
        waited = docora.run("retry-all-failed", option, "--json").data["waited"]
        assert (waited["synced"], waited["failed"], waited["unfinished"]) == (0, 0, 0)
    assert docora.dump() == before
    for _ in range(3):
        docora.add_link()
    result = docora.run("retry-all-failed", "--error", "no such error").ended(0)
    assert "no link matches the options, but 3 links are failed" in result.stderr
    assert docora.statuses() == {"synced": 1, "failed": 3}


def test_a_batch_is_one_transaction(docora: Docora) -> None:
    docora.add_links(10)
    docora.actions().retry_all(batch_size=4)
    rows = docora.connection.execute(
        "SELECT count(*) AS links FROM app_repositories GROUP BY xmin ORDER BY min(repository_id)"
    ).fetchall()
    assert [row["links"] for row in rows] == [4, 4, 2]


def test_links_without_a_job_id_cost_only_themselves_and_are_listed_with_reasons(
    docora: Docora,
) -> None:
    app = docora.add_app("Dotted", "app.dotted")
    bad = [docora.link(app, docora.add_repository(f"o/{each}")) for each in range(25)]
    good = [docora.add_link() for _ in range(3)]
    rows = [docora.row(link) for link in bad]
    result = docora.run("retry-all-failed", "--json")
    data = result.data
    assert (result.code, data["total"], data["completed"], data["put_to_work"]) == (6, 28, 28, 3)
    assert (data["queued"], data["not_queued"], data["cancelled"]) == (3, 25, False)
    failed = [failure["job_id"] for failure in data["failures"]]
    assert failed == sorted(link.job_id for link in bad)
    assert all("job id" in failure["error_message"] for failure in data["failures"])
    assert docora.waiting() == [link.job_id for link in good]
    assert [docora.row(link) for link in bad] == rows
    table = docora.run("retry-all-failed")
    assert re.findall(r"Dotted ← (o/\d+)", table.stdout) == [f"o/{each}" for each in range(25)]


def forbid(docora: Docora, link: TestLink, sqlstate: str) -> None:
    docora.add_trigger(
        f"RAISE EXCEPTION 'the row is cursed' USING ERRCODE = '{sqlstate}'",
        when=f"old.repository_id = '{link.repository_id}'",
    )


@pytest.mark.parametrize("sqlstate", ["P0001", "40P01"])
def test_a_row_that_postgres_refuses_to_change_fails_alone(docora: Docora, sqlstate: str) -> None:
    docora.add_links(8)
    links = docora.links()
    forbid(docora, links[4], sqlstate)
    result = docora.actions().retry_all(batch_size=5)
    assert result.counts == {Outcome.QUEUED: 7, Outcome.NOT_QUEUED: 1}
    assert [failure.job_id for failure in result.failures] == [links[4].job_id]
    assert "the row is cursed" in result.failures[0].error_message
    assert docora.status(links[4]) == "failed"
    assert links[4].job_id not in docora.waiting()
    assert not docora.redis.exists(Job.key_for(links[4].job_id))
    docora.assert_sound()


def test_a_resync_that_is_undone_forgets_no_delivery(docora: Docora) -> None:
    docora.add_links(4, status="synced")
    links = docora.links()
    for link in links:
        docora.add_deliveries(link, 5)
    forbid(docora, links[1], "P0001")
    docora.start_job(links[2].job_id)
    result = docora.actions().resync_all(APP)
    assert result.counts == {Outcome.QUEUED: 2, Outcome.NOT_QUEUED: 2}
    assert result.deliveries_cleared == 10
    assert [docora.deliveries(link) for link in links] == [0, 5, 5, 0]
    assert {failure.job_id for failure in result.failures} == {links[1].job_id, links[2].job_id}


def test_one_slow_link_is_left_and_slow_links_in_a_row_end_the_run(docora: Docora) -> None:
    docora.add_links(5, status="synced")
    links = docora.links()
    for link in (links[1], links[3], links[4]):
        docora.add_deliveries(link, 1)
    docora.add_trigger("PERFORM pg_sleep(90)", event="BEFORE DELETE ON app_delivered_files")
    limit = round(patience() / 100, 1)
    with pytest.raises(PostgresError, match=f"within {limit} s"):
        docora.actions(statement_timeout=limit).resync_all(APP)
    assert [docora.status(link) for link in links] == [
        *("pending_snapshot", "synced", "pending_snapshot", "synced", "synced")
    ]
    docora.assert_sound()


def test_slow_links_with_a_refused_one_between_them_do_not_end_the_run(docora: Docora) -> None:
    docora.add_links(3, status="synced")
    links = docora.links()
    for link in (links[0], links[2]):
        docora.add_deliveries(link, 1)
    event = "BEFORE DELETE ON app_delivered_files"
    docora.add_trigger("PERFORM pg_sleep(90)", event=event, name="sleep")
    forbid(docora, links[1], "P0001")
    result = docora.actions(statement_timeout=round(patience() / 100, 1)).resync_all(APP)
    assert result.counts == {Outcome.NOT_QUEUED: 3}


def test_a_terminal_shows_what_it_is_about_and_asks_and_a_yes_runs_it_with_a_bar(
    docora: Docora,
) -> None:
    docora.add_links(7, apps=2)
    before = docora.dump()
    code, shown = on_terminal(docora, ["retry-all-failed"], answer=b"n\n")
    assert (code, docora.dump()) == (130, before)
    question = re.sub(r"\x1b\[[0-9;]*m", "", shown[: shown.index("[y/N]")])
    words = " ".join(question.split())
    assert f"{database_name(docora)} on " in question
    assert f" (schema public), Redis {describe(docora.redis)}: reset 7 links" in words
    assert f"4 App 1 app_{1:024x}" in words
    assert f"3 App 2 app_{2:024x}" in words
    assert "nothing was changed" in shown
    assert not ANIMATION.search(shown)
    assert not OPERATION_ID.search(shown)

    code, shown = on_terminal(docora, ["retry-all-failed"], answer=b"y\n")
    assert (code, docora.statuses()) == (0, {"pending_snapshot": 7}), shown
    after = shown[shown.index("[y/N]") :]
    assert ANIMATION.search(after)
    assert OPERATION_ID.search(after)
    for part in ("0/7", "7/7", "0:00:00", "━"):
        assert part in after
    for options in (["--yes"], ["--dry-run"]):
        docora.connection.execute("UPDATE app_repositories SET status = 'failed'")
        code, shown = on_terminal(docora, ["retry-all-failed", *options])
        assert (code, "[y/N]" in shown) == (0, False), shown


def test_a_link_that_a_resync_has_missed_counts_as_not_queued_everywhere(docora: Docora) -> None:
    docora.add_links(2, status="synced")
    docora.start_job(docora.links()[0].job_id)
    plan = docora.run("resync", APP, "--all", "--dry-run", "--json").data
    result = docora.run("resync", APP, "--all", "--yes", "--json").data
    for found in (plan, result):
        assert (found["not_queued"], found["already_running"], found["queued"]) == (1, 0, 1)
    missed = [each["error_message"] for each in plan["planned_links"]]
    assert missed == [result["failures"][0]["error_message"], None]
    report = docora.run("report", "--operation", result["operation_id"]).stdout
    assert "`1 not queued, 1 queued`" in report, report
    assert "1 not queued" in docora.run("history").stdout
