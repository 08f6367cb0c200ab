"""`docora-ops progress` and `docora-ops cancel`."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import pytest

from tests.support.docora import Docora, finish
from tests.support.fork_server import ForkedProcess
from tests.support.proxy import eventually
from tests.support.read_only import frozen

OPERATION = "bulk_0123456789abcdef"
KEY = f"docora:bulk:{OPERATION}"
NO_DATABASE = {"DATABASE_URL": None}


def write(docora: Docora, key: str = KEY, **changed: str) -> None:
    """The hash as Docora's dashboard makes it."""
    fields = {"total": "9", "completed": "4", "succeeded": "3", "failed": "0", "cancelled": "false"}
    for name, value in {**fields, **changed}.items():
        docora.redis.hset(key, name, value)
    docora.redis.expire(key, 3600)


def test_progress_reads_an_operation_of_the_dashboard_and_needs_only_redis(docora: Docora) -> None:
    write(docora, failed="1")
    with frozen(docora):
        document, table = docora.run_together(
            ("progress", OPERATION, "--json"), ("progress", OPERATION), env=NO_DATABASE
        )
    assert document.code == 0, document
    data = document.data
    assert data.pop("last_step_at")
    assert data.pop("last_step_seconds") < 60
    assert {"data": data} == {
        "data": {
            "operation_id": OPERATION,
            "total": 9,
            "completed": 4,
            "put_to_work": 3,
            "not_queued": 1,
            "cancelled": False,
            "state": "running",
            **dict.fromkeys(("who", "command", "stopped_by", "cancelled_by", "results")),
            "selection": {},
            "failures": [],
            "waited": None,
        }
    }
    assert document.stderr == ""
    assert table.code == 0, table
    assert [line.split("\t") for line in table.stdout.splitlines()] == [
        ["Operation", OPERATION],
        ["Completed", "4 of 9"],
        ["Put to work", "3"],
        ["Not queued", "1"],
        ["State", "running"],
        ["and 1 more, which are not kept"],
    ]


def test_cancel_sets_the_field_that_the_runner_looks_at_and_needs_only_redis(
    docora: Docora,
) -> None:
    write(docora)
    before, expiry = docora.redis.hgetall(KEY), docora.redis.pexpiretime(KEY)
    result = docora.run("cancel", OPERATION, "--json", env=NO_DATABASE)
    assert result.code == 0, result
    data = {"message": "Cancellation requested", "operation_id": OPERATION}
    assert result.json == {"data": data | {"already_cancelled": False}}
    after = cast("dict[bytes, bytes]", docora.redis.hgetall(KEY))
    assert after.pop(b"cancelled_by").decode().endswith(f"@{os.uname().nodename}")
    assert after == {**before, b"cancelled": b"true"}
    assert docora.redis.pexpiretime(KEY) == expiry
    again, document, shown = docora.run_together(
        ("cancel", OPERATION),
        ("cancel", OPERATION, "--json"),
        ("progress", OPERATION, "--json"),
        env=NO_DATABASE,
    )
    assert again.code == 0
    assert again.stdout == f"Already cancelled: {OPERATION}\n"
    assert document.data == data | {"already_cancelled": True}
    assert (shown.code, shown.data["cancelled"]) == (0, True)


def test_an_operation_that_is_unknown_or_expired_is_not_found(docora: Docora) -> None:
    write(docora)
    docora.redis.pexpire(KEY, 1)
    while docora.redis.exists(KEY):
        pass
    for result in docora.run_together(
        ("progress", OPERATION, "--json"),
        ("progress", OPERATION, "--follow", "--json"),
        ("cancel", OPERATION, "--json"),
        env=NO_DATABASE,
    ):
        assert result.code == 3, result
        assert result.json.keys() == {"error", "code", "hint"}
        assert result.json["code"] == "not_found"
        assert "Operation not found or expired" in result.json["error"]
        assert OPERATION in result.json["error"]
    assert docora.redis.keys() == []


def test_what_the_dashboards_cancel_of_an_unknown_operation_leaves_is_no_operation(
    docora: Docora,
) -> None:
    docora.redis.hset(KEY, "cancelled", "true")
    progress, cancel, operations = docora.run_together(
        ("progress", OPERATION, "--json"),
        ("cancel", OPERATION, "--json"),
        ("operations", "--json"),
        env=NO_DATABASE,
    )
    for result in (progress, cancel):
        assert (result.code, result.json["code"]) == (3, "not_found"), result
    assert (operations.code, operations.data) == (0, [])
    assert docora.redis.hgetall(KEY) == {b"cancelled": b"true"}
    assert docora.audit_entries() == []


def test_an_operation_that_has_ended_cannot_be_cancelled(docora: Docora) -> None:
    write(docora, completed="9")
    with frozen(docora):
        result, document = docora.run_together(
            ("cancel", OPERATION), ("cancel", OPERATION, "--json"), env=NO_DATABASE
        )
    assert (result.code, result.stdout) == (4, "")
    assert OPERATION in result.stderr
    assert document.json["code"] == "operation_finished"


def test_a_key_that_holds_something_else_is_an_error_in_a_sentence(docora: Docora) -> None:
    docora.redis.set(KEY, "not a hash")
    for result in docora.run_together(
        ("progress", OPERATION), ("cancel", OPERATION), env=NO_DATABASE
    ):
        assert result.code == 5, result
        assert "Traceback" not in result.stderr
        assert result.stderr.startswith("Error: Redis at ")
    assert docora.redis.get(KEY) == b"not a hash"


@contextmanager
def following(docora: Docora, *options: str) -> Iterator[ForkedProcess]:
    """`progress --follow`, once it has taken its first look."""
    with docora.start("progress", OPERATION, "--follow", *options, env=NO_DATABASE) as process:
        eventually(
            lambda: any(
                client["name"] == "docora-ops" and client["cmd"] == "hmget"
                for client in docora.redis.client_list()
            ),
            "a first look",
        )
        try:
            yield process
        finally:
            process.kill()


def test_follow_shows_each_step_and_ends_with_the_operation(docora: Docora) -> None:
    write(docora, completed="0", succeeded="0")
    with following(docora, "--json") as process:
        for step in ("3", "6"):
            write(docora, completed=step, succeeded=step)
            assert process.stderr.readline() == f"{step} of 9\n"
        assert process.poll() is None
        write(docora, completed="9", succeeded="9")
        result = finish(process)
    assert result.code == 0, result
    assert result.stderr == "9 of 9\n"
    assert (result.data["completed"], result.data["put_to_work"]) == (9, 9)


@pytest.mark.parametrize(
    ("changed", "silent", "said"),
    [
        ({"cancelled": "true"}, 0, ""),
        ({"completed": "9", "failed": "1"}, 0, ""),
        ({}, 130, "The command that runs the operation has been silent for two minutes"),
    ],
    ids=["cancelled", "with failures", "silent"],
)
def test_follow_ends_with_a_code_of_its_own_unless_all_is_well(
    docora: Docora, changed: dict[str, str], silent: int, said: str
) -> None:
    write(docora, **changed)
    docora.redis.expire(KEY, 3600 - silent)
    result = docora.run("progress", OPERATION, "--follow", "--json", env=NO_DATABASE)
    assert result.code == 6, result
    assert result.data["completed"] == int(changed.get("completed", "4"))
    assert said in result.stderr
    assert docora.run("progress", OPERATION, env=NO_DATABASE).code == 0


def test_follow_ends_when_the_operation_is_forgotten_midway(docora: Docora) -> None:
    write(docora)
    with following(docora, "--json") as process:
        docora.redis.delete(KEY)
        result = finish(process)
    assert result.code == 3, result
    assert result.json["code"] == "not_found"


@pytest.mark.parametrize(
    ("number", "ends"),
    [
        (signal.SIGINT, (130, "interrupted", "Error: interrupted\n")),
        (signal.SIGTERM, (130, "interrupted", "Error: interrupted\n")),
        (signal.SIGHUP, (129, "hung_up", "Error: hung up (SIGHUP)\n")),
    ],
)
def test_follow_ends_at_a_signal_with_one_document_and_one_sentence(
    docora: Docora, number: signal.Signals, ends: tuple[int, str, str]
) -> None:
    write(docora)
    with following(docora, "--json") as process:
        process.send_signal(number)
        result = finish(process)
    assert (result.code, result.json["code"], result.stderr) == ends, result
    assert docora.redis.hget(KEY, "cancelled") == b"false"
