"""`retry-all-failed` and `resync --all`: order, selection, poison rows, cancellation, kills."""

import json
import os
import signal
import time
from datetime import timedelta

import psycopg
import pytest
from rq.job import JobStatus

from tests.support.docora import Docora, finish
from tests.support.proxy import eventually, refused_port
from tests.support.rows import in_turns
from tests.support.running_commands import row_locks
from tests.support.terminal import TerminalSession

RETRY_ALL = ("retry-all-failed", "--yes", "--json")


def test_all_failed_links_are_queued_round_robin_across_apps(docora: Docora) -> None:
    docora.add_links(2_500, apps=3)
    other = docora.link(
        docora.add_app("Other", "app_other"),
        docora.add_repository("hill/docs", "repo_other"),
        "synced",
    )
    result = docora.run(*RETRY_ALL).ended(0)
    data = result.data
    assert data["message"] == "Bulk retry started"
    assert (data["total"], data["completed"], data["succeeded"]) == (2_500, 2_500, 2_500)
    assert data["states"] == {"queued": 2_500}
    assert docora.statuses() == {"pending_snapshot": 2_500, "synced": 1}
    links = [link for link in docora.links() if link != other]
    turns = in_turns(link.job_id for link in links)
    first, second = turns[:1_000], turns[1_000:2_000]
    waiting = docora.waiting()  # two batches run at the same time
    assert waiting in (turns, [*second, *first, *turns[2_000:]])
    docora.assert_sound()
    progress = docora.redis.hgetall(f"docora:bulk:{data['operation_id']}")
    assert progress == {
        b"total": b"2500",
        b"completed": b"2500",
        b"succeeded": b"2500",
        b"failed": b"0",
        b"cancelled": b"false",
    }
    assert 0 < docora.redis.ttl(f"docora:bulk:{data['operation_id']}") <= 3600


def test_nothing_to_do_is_no_error(docora: Docora) -> None:
    docora.add_link("synced")
    before = docora.dump()
    assert docora.run(*RETRY_ALL).ended(0).data["message"] == "Nothing to retry"
    assert docora.dump() == before


@pytest.mark.parametrize(
    ("options", "chosen"),
    [
        (["--app", "app one"], {"api", "web"}),
        (["--exclude-app", "App One"], {"docs"}),
        (["--repo", "octo/api"], {"api"}),
        (["--repo", "octo/*"], {"api", "web"}),
        (["--error", "http 502"], {"api"}),
        (["--error", "*502*"], {"api"}),
        (["--error", "502"], {"api"}),
        (["--exclude-error", "502"], {"web", "docs"}),
        (["--circuit", "open"], {"docs"}),
        (["--circuit", "closed"], {"api", "web"}),
        (["--error", "502", "--circuit", "open"], set()),
    ],
)
def test_options_choose_links(docora: Docora, options: list[str], chosen: set[str]) -> None:
    one, two = docora.add_app("App One"), docora.add_app("App Two")
    open_for = timedelta(hours=1)
    links = {
        "api": docora.link(one, docora.add_repository("octo/api"), last_error="HTTP 502 on x"),
        "web": docora.link(one, docora.add_repository("octo/web"), last_error=None),
        "docs": docora.link(
            two, docora.add_repository("hill/docs", circuit_open_for=open_for), last_error="git 1%"
        ),
    }
    docora.run(*RETRY_ALL, *options).ended(0)
    assert {name for name, link in links.items() if docora.was_reset(link)} == chosen
    assert len(docora.waiting()) == len(chosen)


def test_limit_takes_the_first_links_of_each_app(docora: Docora) -> None:
    docora.add_links(40, apps=4)
    docora.run(*RETRY_ALL, "--limit", "6").ended(0)
    assert docora.waiting() == in_turns(link.job_id for link in docora.links())[:6]


def test_a_link_that_is_not_failed_any_more_is_skipped_and_a_locked_one_tried_again(
    docora: Docora,
) -> None:
    docora.add_links(3)
    locked, changed, plain = docora.links()
    with row_locks(docora, locked, changed) as holder:
        other = "UPDATE app_repositories SET status = 'synced' WHERE repository_id = %s"
        holder.execute(other, [changed.repository_id])
        result = docora.run(*RETRY_ALL).ended(0)
        assert result.data["states"] == {"queued": 1, "skipped": 2}
    assert docora.was_reset(plain)
    assert (docora.status(locked), docora.status(changed)) == ("failed", "synced")
    docora.assert_sound()


def test_poison_costs_only_itself(docora: Docora) -> None:
    docora.add_links(5)
    damaged, refused, *good = docora.links()
    docora.redis.set(f"rq:job:{damaged.job_id}", "not a job")
    when = f"old.repository_id = '{refused.repository_id}'"
    docora.add_trigger("RAISE EXCEPTION 'poison'", when=when)
    result = docora.run(*RETRY_ALL).ended(6)
    assert result.data["failed"] == 2
    errors = [failure["error_message"] for failure in result.data["failures"]]
    assert any("not that of a job" in error for error in errors)
    assert any("poison" in error for error in errors)
    assert all(docora.was_reset(link) for link in good)
    assert (docora.status(damaged), docora.status(refused)) == ("failed", "failed")


def test_a_locked_table_is_not_waited_for_link_by_link(docora: Docora) -> None:
    docora.add_links(100)
    limit = {"DOCORA_OPS_STATEMENT_TIMEOUT": "1"}  # the timeout of locks is shorter
    with psycopg.connect(docora.database_url) as other:
        other.execute("LOCK TABLE app_repositories IN SHARE MODE")
        begun = time.monotonic()
        data = docora.run(*RETRY_ALL, env=limit).ended(6).data
        assert time.monotonic() - begun < 30
    assert (data["completed"], data["states"]) == (100, {"not_queued": 100})
    assert "has locked" in data["failures"][99]["error_message"]
    docora.run(*RETRY_ALL).ended(0)
    docora.assert_sound()


def test_resync_all_sends_everything_of_an_app_but_reports_running_links(
    docora: Docora,
) -> None:
    docora.add_links(3, status="synced")
    running, *others = docora.links()
    for link in docora.links():
        docora.add_deliveries(link, 2)
    docora.start_job(running.job_id)
    result = docora.run("resync", "App 1", "--all", "--yes", "--json").ended(6)
    assert result.data["message"] == "Bulk re-sync started"
    assert result.data["states"] == {"not_queued": 1, "queued": 2}
    assert "a snapshot is running" in result.data["failures"][0]["error_message"]
    assert [docora.deliveries(link) for link in (running, *others)] == [2, 0, 0]


def test_resync_all_without_a_terminal_needs_yes(docora: Docora) -> None:
    docora.add_links(3, status="synced")
    before = docora.dump()
    docora.run("resync", "App 1", "--all", "--json").ended(2, "usage")
    assert docora.dump() == before


def test_a_dry_run_lists_the_links_and_writes_nothing(docora: Docora) -> None:
    docora.add_links(3)
    docora.leave_job(docora.links()[0].job_id, JobStatus.FAILED)
    before = docora.dump()
    data = docora.run("retry-all-failed", "--dry-run", "--json").ended(0).data
    assert data["states"] == {"replaced_stale": 1, "queued": 2}
    assert len(data["links"]) == 3
    assert docora.dump() == before


@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("n", 130), ("", 130)])
def test_a_terminal_is_asked_with_the_count_and_both_servers(
    docora: Docora, answer: str, code: int
) -> None:
    docora.add_links(12, apps=2)
    with TerminalSession(docora, "retry-all-failed") as terminal:
        shown, shown_code = terminal.answer(f"{answer}\r".encode())[::-1]
    words = " ".join(shown.split())
    assert "reset 12 links and queue a snapshot job for each?" in words
    assert "Redis 127.0.0.1:" in words
    assert shown_code == code
    assert len(docora.waiting()) == (12 if code == 0 else 0)


def hold_batch(docora: Docora, number: int) -> None:
    """Has Postgres wait in the update of the batch with this number, until it is told to go on."""
    docora.add_trigger(
        "PERFORM pg_advisory_xact_lock(42)",
        when=f"old.repository_id = 'repo_{number * 1000 + 500:024x}'",
    )


def test_cancelled_by_another_terminal_or_the_dashboard(docora: Docora) -> None:
    docora.add_links(2_500)
    hold_batch(docora, 1)
    docora.connection.execute("SELECT pg_advisory_lock(42)")
    process = docora.start(*RETRY_ALL)
    eventually(lambda: docora.sessions("wait_event_type = 'Lock'"), "the second batch")
    docora.run("cancel", "--reason", "the wrong app", "--json").ended(0)
    docora.connection.execute("SELECT pg_advisory_unlock(42)")
    result = finish(process).ended(6)
    assert result.data["cancelled"] is True
    assert result.data["completed"] == 2_000
    assert "the same command finishes the rest" in result.stderr
    docora.assert_sound()
    docora.run("cancel", result.data["operation_id"], "--json").ended(4, "operation_finished")
    assert docora.run(*RETRY_ALL).ended(0).data["total"] == 500


def test_a_running_operation_of_the_dashboard_is_the_first_of_the_list(docora: Docora) -> None:
    running, ended = f"bulk_{'a' * 16}", f"bulk_{'b' * 16}"
    for id_, completed in ((running, 4), (ended, 9)):
        docora.redis.hset(f"docora:bulk:{id_}", mapping={"total": 9, "completed": completed})
    own = docora.run("retry", *docora.add_link().ids, "--json").ended(0).data["operation_id"]
    listed = docora.run("operations", "--json").ended(0).data
    assert [operation["operation_id"] for operation in listed] == [running, own, ended]
    [first] = docora.run("operations", "--limit", "1", "--json").ended(0).data
    assert (first["operation_id"], first["state"]) == (running, "running")
    docora.run("cancel", "--json").ended(0)
    assert docora.redis.hget(f"docora:bulk:{running}", "cancelled") == b"true"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_signal_ends_it_after_the_batch(
    docora: Docora, number: signal.Signals, code: int
) -> None:
    docora.add_links(2_500)
    hold_batch(docora, 1)
    docora.connection.execute("SELECT pg_advisory_lock(42)")
    process = docora.start(*RETRY_ALL)
    eventually(lambda: docora.sessions("wait_event_type = 'Lock'"), "the second batch")
    process.send_signal(number)
    docora.connection.execute("SELECT pg_advisory_unlock(42)")
    result = finish(process).ended(code)
    assert result.data["completed"] == 2_000
    docora.assert_sound()
    [operation] = docora.run("operations", "--json").data
    assert (operation["state"], operation["completed"]) == ("cancelled", 2_000)


def test_killed_between_push_and_commit_the_same_command_finishes_the_rest(docora: Docora) -> None:
    docora.add_links(2_500)
    hold_batch(docora, 1)
    docora.connection.execute("SELECT pg_advisory_lock(42)")
    process = docora.start(*RETRY_ALL)
    eventually(lambda: docora.sessions("wait_event_type = 'Lock'"), "the second batch")
    eventually(lambda: docora.statuses().get("pending_snapshot") == 1_000, "the first batch")
    process.kill()
    finish(process)
    eventually(lambda: not docora.sessions("true"), "Postgres to notice")
    docora.connection.execute("SELECT pg_advisory_unlock(42)")
    assert len(docora.waiting()) == 2_000  # 1,000 of them were pushed, but not committed
    assert docora.statuses() == {"pending_snapshot": 1_000, "failed": 1_500}
    result = docora.run(*RETRY_ALL).ended(0)
    assert result.data["states"] == {"already_queued": 1_000, "queued": 500}
    assert len(docora.waiting()) == 2_500
    docora.assert_sound()


def test_four_bulk_commands_at_once_queue_each_link_once(docora: Docora) -> None:
    docora.add_links(3_000, apps=7)
    results = docora.run_together(*[RETRY_ALL] * 4)
    assert {result.code for result in results} == {0}
    assert docora.statuses() == {"pending_snapshot": 3_000}
    assert len(docora.waiting()) == 3_000
    docora.assert_sound()


def test_an_operation_that_cannot_be_recorded_goes_on_and_says_so(docora: Docora) -> None:
    docora.add_links(3)
    docora.redis.set("docora-ops:operations", "of another program")
    result = docora.run(*RETRY_ALL).ended(0, says="The operation is not recorded")
    assert result.data["states"] == {"queued": 3}


@pytest.mark.parametrize(
    "damage", [{"started_at": "1796641687.95"}, {"states": "{"}, {"failures": '[{"job": "x"}]'}]
)
def test_a_record_that_cannot_be_read_costs_only_itself(
    docora: Docora, damage: dict[str, str]
) -> None:
    ids = [
        docora.run("retry", *docora.add_link().ids, "--json").ended(0).data["operation_id"]
        for _ in range(2)
    ]
    docora.redis.hset(
        f"docora-ops:operation:{ids[0]}", items=[i for p in damage.items() for i in p]
    )
    [listed] = docora.run("operations", "--json").ended(0).data
    assert listed["operation_id"] == ids[1]
    docora.run("operations", ids[0], "--json").ended(3, "not_found")
    docora.run("status", "--json").ended(0)


def test_a_server_that_is_lost_ends_it_and_says_how_far_it_came(docora: Docora) -> None:
    docora.add_links(3_500)
    docora.add_trigger(
        "PERFORM pg_terminate_backend(pg_backend_pid())",
        when=f"old.repository_id = 'repo_{2_500:024x}'",
    )
    result = docora.run(*RETRY_ALL).ended(5, "postgres")
    document = json.loads(result.stdout)
    # The batch beside the lost one counts, too.
    assert document["completed"] == 2_500
    assert "stopped after 2,500 of 3,500 links" in document["hint"]
    assert docora.statuses() == {"pending_snapshot": 2_500, "failed": 1_000}
    id_ = document["operation_id"]
    assert docora.redis.llen(f"docora-ops:operation:{id_}:links") == 2_500
    recorded = docora.run("operations", id_, "--json").ended(0).data
    assert (recorded["completed"], recorded["state"]) == (2_500, "cancelled")
    assert document["state"] == "cancelled"


def test_the_wrong_redis_is_refused(docora: Docora) -> None:
    docora.add_links(3)
    docora.enqueue("app_of_another-repo_of_another")
    before = docora.dump()
    docora.run(*RETRY_ALL).ended(4, "wrong_pair")
    docora.run("retry", *docora.links()[0].ids, "--json").ended(4, "wrong_pair")
    assert docora.dump() == before


@pytest.mark.skipif("TEST_REDIS_URL" in os.environ, reason="other tests use the same Redis")
@pytest.mark.parametrize("reason", ["out of memory", "a replica"])
def test_a_redis_that_takes_no_writes_is_named_and_nothing_is_changed(
    docora: Docora, reason: str
) -> None:
    docora.add_links(3)
    try:
        if reason == "a replica":
            docora.redis.replicaof("127.0.0.1", str(refused_port()))
        else:
            docora.redis.config_set("maxmemory", "1")
        docora.run(*RETRY_ALL).ended(5, "redis", says=reason)
    finally:
        docora.redis.replicaof("NO", "ONE")
        docora.redis.config_set("maxmemory", "0")
    assert docora.statuses() == {"failed": 3}
    assert docora.waiting() == []
