"""The links that an operation has left undone, and why, as long as it is remembered."""

import signal

import psycopg
import pytest

from docora_ops.bulk import Progress
from docora_ops.links import LinkFailure
from docora_ops.queue import progress as progress_room
from tests.support.docora import Docora
from tests.support.proxy import eventually
from tests.support.rows import TestLink
from tests.support.running_commands import await_locks, only_operation

NO_DATABASE = {"DATABASE_URL": None}
HOSTILE = "\x1b[31m[bold]red"


def add_poison(docora: Docora, number: int) -> TestLink:
    """A link whose ids can't form a job id; it comes before all others."""
    app_id = docora.add_app("Poison", f"app_!{number:03}{HOSTILE}")
    return docora.link(app_id, docora.add_repository(f"octo/poison{number}", f"repo_!{number}"))


def failures_key(operation: str) -> str:
    return f"docora-ops:operation:{operation}:failures"


def test_progress_lists_the_failures_later_and_forgets_them_with_the_operation(
    docora: Docora,
) -> None:
    docora.add_links(3)
    poison = [add_poison(docora, number) for number in range(22)]
    run = docora.run("retry-all-failed", "--json", "--batch-size", "7")
    assert (run.code, run.data["not_queued"], run.data["put_to_work"]) == (6, 22, 3)
    operation = run.data["operation_id"]
    before = docora.dump()
    document, table, followed, listed = docora.run_together(
        ("progress", operation, "--json"),
        ("progress", operation),
        ("progress", operation, "--follow", "--json"),
        ("operations", "--json"),
        env=NO_DATABASE,
    )
    assert docora.dump() == before
    assert document.code == 0, document
    assert document.data["failures"] == run.data["failures"]
    assert [each["job_id"] for each in document.data["failures"]] == [
        link.job_id for link in poison
    ]
    assert followed.code == 6
    for each in (followed, document):
        assert each.data["last_step_at"]
    moment = {"last_step_at": None}  # to a second
    assert followed.data | moment == document.data | moment
    assert table.code == 0, table
    assert "Poison ← octo/poison0\t" in table.stdout
    assert "\x1b" not in table.stdout + document.stdout
    assert "octo/poison21\t" in table.stdout
    # One operation, and one lifetime.
    assert [each["operation_id"] for each in listed.data] == [operation]
    lives = [
        docora.redis.pttl(key) for key in (f"docora:bulk:{operation}", failures_key(operation))
    ]
    assert 3_500_000 < min(lives) <= max(lives) <= min(lives) + 100


def test_each_step_renews_both_lives_and_a_killed_run_keeps_what_it_had_found(
    docora: Docora,
) -> None:
    docora.add_links(3)
    poison = add_poison(docora, 1)
    locked = docora.links()[-1]
    with psycopg.connect(docora.database_access.owner) as blocker:
        blocker.execute(
            "SELECT 1 FROM app_repositories WHERE app_id = %s AND repository_id = %s FOR UPDATE",
            locked.ids,
        )
        process = docora.start(
            *("retry-all-failed", "--batch-size", "1"), env={"DOCORA_OPS_LOCK_TIMEOUT": "60"}
        )
        with process:
            # All others are done; it waits for the last row alone.
            await_locks(docora, 1)
            operation = only_operation(docora)
            eventually(
                lambda: docora.redis.hget(f"docora:bulk:{operation}", "completed") == b"3",
                "three links",
            )
            process.send_signal(signal.SIGKILL)
    shown = docora.run("progress", operation, "--json", env=NO_DATABASE)
    assert (shown.data["completed"], shown.data["not_queued"]) == (3, 1)
    assert [each["job_id"] for each in shown.data["failures"]] == [poison.job_id]
    actions = docora.actions()
    for key in (f"docora:bulk:{operation}", failures_key(operation)):
        docora.redis.expire(key, 10)
    failure = LinkFailure("app-repo", "app", "repo", "again")
    actions.store.write(Progress(operation, 4, 3, 2, 1, False), [failure], since=1)
    for key in (f"docora:bulk:{operation}", failures_key(operation)):
        assert docora.redis.ttl(key) > 3_500


def test_only_so_many_are_kept_and_the_rest_is_counted(
    docora: Docora, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress_room, "FAILURES_KEPT", 23)
    poison = [add_poison(docora, number) for number in range(30)]
    operation = docora.actions().retry_all(batch_size=4).operation_id or ""
    document, table = docora.run_together(
        ("progress", operation, "--json"), ("progress", operation), env=NO_DATABASE
    )
    assert [each["job_id"] for each in document.data["failures"]] == [
        link.job_id for link in poison[:23]
    ]
    assert document.data["not_queued"] == 30
    assert "and 7 more, which are not kept" in table.stdout


def test_a_report_that_is_made_twice_or_spoilt_by_others_does_no_harm(docora: Docora) -> None:
    store = docora.actions().store
    failures = [
        LinkFailure(f"a-{number}", "a", str(number), "an error", "Acme", "o/a")
        for number in range(3)
    ]
    step = Progress("bulk_x", 9, 3, 0, 3, False)
    store.write(step, failures[:1])
    for _ in range(2):
        store.write(step, failures, since=1)
    assert store.read_failures("bulk_x") == (failures, 3)
    for field, value in (
        ("x", "1"),
        ("7", "not JSON"),
        ("8", "[1]"),
        ("6", '["only", "two"]'),
        ("9", "[" * 100_000),
    ):
        docora.redis.hset(failures_key("bulk_x"), field, value)
    docora.redis.hset(failures_key("bulk_x"), "total", "many")
    shown = docora.run("progress", "bulk_x", "--json", env=NO_DATABASE)
    assert shown.code == 0, shown
    assert [each["job_id"] for each in shown.data["failures"]] == [*("a-0", "a-1", "a-2")]
    docora.redis.delete(failures_key("bulk_x"))
    docora.redis.set(failures_key("bulk_x"), "something else")
    shown = docora.run("progress", "bulk_x", "--json", env=NO_DATABASE)
    assert (shown.code, shown.json["code"]) == (5, "redis")
