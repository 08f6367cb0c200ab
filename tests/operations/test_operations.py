"""`operations` and `cancel`: what goes on, what went on, and what is left undone."""

import os
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from docora_ops.queue.operation_records import write_messages
from tests.support.docora import Docora, finish
from tests.support.proxy import eventually
from tests.support.read_only import frozen
from tests.support.running_commands import age_operation
from tests.support.terminal import on_terminal, plain_talk

OPERATION = "bulk_0123456789abcdef"
KEY = f"docora:bulk:{OPERATION}"
NO_DATABASE = {"DATABASE_URL": None}
HOSTILE = "\x1b[31m[bold]red"


def write(
    docora: Docora, operation_id: str = OPERATION, *, left: int = 3_600_000, **changed: str
) -> str:
    """The hash as Docora's dashboard makes it, and a record of what only docora-ops writes.

    left: the rest of the life of the hash, in ms.
    """
    fields = {"total": "9", "completed": "4", "succeeded": "3", "failed": "0", "cancelled": "false"}
    fields |= {name: changed.pop(name) for name in fields if name in changed}
    key = f"docora:bulk:{operation_id}"
    docora.redis.hset(key, items=[text for item in fields.items() for text in item])
    docora.redis.pexpire(key, left)
    if changed:
        items = [text for item in {**fields, **changed}.items() for text in item]
        docora.redis.hset(f"docora-ops:operation:{operation_id}:record", items=items)
    return key


def test_one_operation_of_the_dashboard_is_shown_and_needs_only_redis(docora: Docora) -> None:
    write(docora, failed="1")
    with frozen(docora):
        document, table = docora.run_together(
            ("operations", OPERATION, "--json"), ("operations", OPERATION), env=NO_DATABASE
        )
    assert document.code == 0, document
    assert document.stderr == ""
    expected: dict[str, object] = {
        "total": 9,
        "completed": 4,
        "put_to_work": 3,
        "not_queued": 1,
        "cancelled": False,
    }
    expected |= {"operation_id": OPERATION, "state": "running", "who": None, "failures": []}
    assert document.data.items() >= expected.items()
    assert document.data["last_step_seconds"] < 60
    assert table.code == 0, table
    assert [line.split("\t") for line in table.stdout.splitlines()] == [
        ["Operation", OPERATION],
        ["Completed", "4 of 9"],
        ["Put to work", "3"],
        ["Not queued", "1"],
        ["State", "running"],
        ["and 1 more, which are not kept"],
    ]


def test_cancel_sets_the_field_that_ends_a_run_and_needs_only_redis(docora: Docora) -> None:
    write(docora)
    before, left = docora.redis.hgetall(KEY), docora.redis.pttl(KEY)
    result = docora.run("cancel", OPERATION, "--json", env=NO_DATABASE).ended(0)
    data = {"message": "Cancellation requested", "operation_id": OPERATION}
    assert result.json == {"data": data | {"already_cancelled": False}}
    after = cast("dict[bytes, bytes]", docora.redis.hgetall(KEY))
    after_by = after.pop(b"cancelled_by")
    assert after_by.decode().endswith(f"@{os.uname().nodename}")
    assert after == {**before, b"cancelled": b"true"}
    assert docora.redis.pttl(KEY) > left - 60_000
    again = docora.run("cancel", OPERATION, env=NO_DATABASE)
    by = after_by.decode()
    assert (again.code, again.stdout) == (0, f"Already stopped (cancelled by {by}): {OPERATION}\n")
    write(docora, "bulk_late", cancelled="true", stopped_by="timeout")
    late = docora.run("cancel", "bulk_late", env=NO_DATABASE)
    assert (late.code, late.stdout) == (0, "Already stopped (timeout): bulk_late\n")
    write(docora, completed="9")
    ended = docora.run("cancel", OPERATION, "--json", env=NO_DATABASE)
    assert (ended.code, ended.json["code"]) == (4, "operation_finished")


def test_cancel_without_an_id_names_whose_operation_it_ends_and_asks(docora: Docora) -> None:
    write(docora, who="kim@ops1", command="retry-all-failed", selection='{"app": ["Acme"]}')
    write(docora, "bulk_done", completed="9")
    code, shown = on_terminal(docora, ["cancel"], answer=b"n\n")
    assert code == 130
    question = f"cancel operation {OPERATION} (kim@ops1, retry-all-failed --app Acme, 4 of 9)?"
    assert question in " ".join(shown.split()), shown
    assert docora.redis.hget(KEY, "cancelled") == b"false"
    code, shown = on_terminal(docora, ["cancel"], answer=b"y\n")
    assert (code, f"Cancellation requested: {OPERATION}" in shown) == (0, True), shown
    assert docora.redis.hget(KEY, "cancelled") == b"true"


def test_cancel_without_an_id_is_refused_where_nobody_can_answer(docora: Docora) -> None:
    write(docora)
    docora.run("cancel", "--json", env=NO_DATABASE).ended(2, "usage")
    assert docora.redis.hget(KEY, "cancelled") == b"false"


def test_without_an_id_none_or_several_running_operations_are_an_error(docora: Docora) -> None:
    write(docora, "bulk_done", completed="9")
    docora.run("wait", "--json").ended(3, "not_found")
    assert on_terminal(docora, ["cancel"], env=NO_DATABASE)[0] == 3
    write(docora, "bulk_one", who="kim@ops1")
    write(docora, "bulk_two", left=3_590_000)
    several = docora.run("wait", "--json").ended(2, "ambiguous")
    assert several.json["operation_ids"] == ["bulk_one", "bulk_two"]
    listed = "2 bulk operations are running: bulk_one of kim@ops1, bulk_two of Docora's dashboard"
    assert f"Error: {listed}\n" in several.stderr
    assert on_terminal(docora, ["cancel"], env=NO_DATABASE)[0] == 2


def test_what_applies_to_one_operation_and_to_the_list_is_not_mixed(docora: Docora) -> None:
    write(docora)
    for words in (("--follow",), (OPERATION, "--page", "2"), (OPERATION, "--limit", "3")):
        docora.run("operations", *words, "--json", env=NO_DATABASE).ended(2, "usage")


def test_an_operation_that_is_unknown_or_expired_is_not_found(docora: Docora) -> None:
    write(docora)
    docora.redis.delete(KEY)
    for result in docora.run_together(
        ("operations", OPERATION, "--json"),
        ("operations", OPERATION, "--follow", "--json"),
        ("cancel", OPERATION, "--json"),
        env=NO_DATABASE,
    ):
        assert result.code == 3, result
        assert result.json["code"] == "not_found"
        assert f"Operation not found or expired: {OPERATION!r}" in result.json["error"]
    assert docora.redis.keys() == []


def test_follow_ends_with_the_operation(docora: Docora) -> None:
    write(docora)
    with docora.start("operations", OPERATION, "--follow", "--json", env=NO_DATABASE) as process:
        eventually(
            lambda: any(
                client["name"] == "docora-ops" and client["cmd"] == "hmget"
                for client in docora.redis.client_list()
            ),
            "a first look",
        )
        assert process.poll() is None
        write(docora, completed="9", succeeded="9")
        result = finish(process)
    assert (result.code, result.stderr) == (0, "")
    assert (result.data["completed"], result.data["put_to_work"]) == (9, 9)


@pytest.mark.parametrize(
    ("changed", "silent", "said"),
    [
        ({"cancelled": "true"}, 0, ""),
        ({}, 130, "The command that runs the operation has been silent for two minutes"),
    ],
    ids=["cancelled", "silent"],
)
def test_follow_ends_with_a_code_of_its_own_unless_all_is_well(
    docora: Docora, changed: dict[str, Any], silent: int, said: str
) -> None:
    write(docora, **changed)
    docora.redis.expire(KEY, 3600 - silent)
    result = docora.run("operations", OPERATION, "--follow", "--json", env=NO_DATABASE).ended(6)
    assert result.data["completed"] == int(changed.get("completed", "4"))
    assert said in result.stderr
    assert docora.run("operations", OPERATION, env=NO_DATABASE).code == 0


def test_each_state_is_listed_with_the_latest_step_first(docora: Docora) -> None:
    assert docora.run("operations", env=NO_DATABASE).stderr.endswith(": no operations.\n")
    write(docora, "bulk_running", left=3_590_000)
    write(docora, "bulk_gone", left=3_400_000, failed="1")
    write(docora, "bulk_cancelled", left=3_300_000, cancelled="true")
    write(docora, "bulk_done", left=1_000_000, completed="9", cancelled="true")
    docora.redis.persist(write(docora, "bulk_for_ever"))
    # Neighbours that are no operations.
    docora.redis.set("docora:bulk:text", "not a hash")
    docora.redis.hset("docora:bulk:other", "colour", "green")
    before = docora.dump()
    document, table, last = docora.run_together(
        ("operations", "--json"),
        ("operations",),
        ("operations", "--limit", "2", "--page", "3"),
        env=NO_DATABASE,
    )
    assert docora.dump() == before
    found = document.data
    assert [(each["operation_id"], each["state"]) for each in found] == [
        ("bulk_running", "running"),
        ("bulk_gone", "owner_gone"),
        ("bulk_cancelled", "cancelled"),
        ("bulk_done", "done"),
        ("bulk_for_ever", "running"),
    ]
    last_step = datetime.fromisoformat(found[0]["last_step_at"])
    assert timedelta(0) < datetime.now(UTC) - last_step < timedelta(minutes=5)
    assert found[-1]["last_step_at"] is found[-1]["last_step_seconds"] is None
    heading, *rows = [line.split("\t") for line in table.stdout.splitlines()]
    assert heading[0] == "Operation"
    assert rows[1][:5] == ["bulk_gone", "4 of 9", "3", "1", "owner gone"]
    assert rows[1][6].startswith("3m")
    assert rows[-1][6] == "unknown"
    assert last.stdout.count("bulk_") == 1
    assert last.stderr.endswith(": 5 operations, page 3 of 3.\n")


def test_the_list_shows_the_whole_selection_on_80_columns(docora: Docora) -> None:
    selection = '{"app": ["Acme Search"], "error": ["HTTP 5*"], "in_flight": 10}'
    results = '{"synced": 100, "failed": 12, "gone": 0, "unfinished": 40}'
    shared: dict[str, Any] = {"cancelled": "true", "command": "retry-all-failed", "who": "kim@ops1"}
    write(docora, **shared, cancelled_by="lee@ops2", selection=selection, results=results)
    code, shown = on_terminal(docora, ["operations"], columns=80, env=NO_DATABASE)
    lines = [line[64:] for line in plain_talk(shown).splitlines() if line[:1] in {"b", " "}]
    command = "retry-all-failed --app 'Acme Search' --error 'HTTP 5*' --in-flight 10"
    assert (code, " ".join(" ".join(lines).split())) == (0, command), shown


def test_an_operation_lists_its_failures_as_long_as_it_is_known(docora: Docora) -> None:
    docora.add_links(3)
    # Links whose ids can't form a job id; they come before all others.
    poison = [
        docora.link(
            docora.add_app("Poison", f"app_!{number:03}{HOSTILE}"),
            docora.add_repository(f"octo/poison{number}", f"repo_!{number}"),
        )
        for number in range(22)
    ]
    run = docora.run("retry-all-failed", "--json", "--batch-size", "7")
    assert (run.code, run.data["not_queued"], run.data["put_to_work"]) == (6, 22, 3)
    operation = run.data["operation_id"]
    before = docora.dump()
    document, table, followed = docora.run_together(
        ("operations", operation, "--json"),
        ("operations", operation),
        ("operations", operation, "--follow", "--json"),
        env=NO_DATABASE,
    )
    assert docora.dump() == before
    assert document.code == 0, document
    assert document.data["failures"] == run.data["failures"]
    assert [each["job_id"] for each in document.data["failures"]] == [
        link.job_id for link in poison
    ]
    assert (followed.code, followed.data["failures"]) == (6, run.data["failures"])
    assert "Poison ← octo/poison0\t" in table.stdout
    assert "\x1b" not in table.stdout + document.stdout
    assert "octo/poison21\t" in table.stdout


def test_a_message_of_a_detached_command_is_no_step(docora: Docora) -> None:
    docora.add_link()
    operation_id = docora.run("retry-all-failed", "--json").data["operation_id"]
    age_operation(docora, operation_id, 130)
    show = ("operations", operation_id, "--json")
    before = docora.run(*show, env=NO_DATABASE).data["last_step_at"]
    write_messages(docora.redis, operation_id, ["still here"])
    after = docora.run(*show, env=NO_DATABASE).data
    assert (after["last_step_at"], after["messages"]) == (before, ["still here"])
