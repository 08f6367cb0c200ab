"""`docora-ops progress` and `docora-ops cancel`."""

import os
from typing import cast

import pytest

from tests.support.docora import Docora, finish
from tests.support.proxy import eventually
from tests.support.read_only import frozen

OPERATION = "bulk_0123456789abcdef"
KEY = f"docora:bulk:{OPERATION}"
NO_DATABASE = {"DATABASE_URL": None}


def write(docora: Docora, key: str = KEY, **changed: str) -> None:
    """The hash as Docora's dashboard makes it."""
    fields = {"total": "9", "completed": "4", "succeeded": "3", "failed": "0", "cancelled": "false"}
    docora.redis.hset(key, items=[x for each in {**fields, **changed}.items() for x in each])
    docora.redis.expire(key, 3600)


def test_progress_reads_an_operation_of_the_dashboard_and_needs_only_redis(docora: Docora) -> None:
    write(docora, failed="1")
    with frozen(docora):
        document, table = docora.run_together(
            ("progress", OPERATION, "--json"), ("progress", OPERATION), env=NO_DATABASE
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
    assert docora.redis.pexpiretime(KEY) >= expiry
    again = docora.run("cancel", OPERATION, env=NO_DATABASE)
    assert (again.code, again.stdout) == (0, f"Already cancelled: {OPERATION}\n")
    write(docora, completed="9")
    ended = docora.run("cancel", OPERATION, "--json", env=NO_DATABASE)
    assert (ended.code, ended.json["code"]) == (4, "operation_finished")


def test_an_operation_that_is_unknown_or_expired_is_not_found(docora: Docora) -> None:
    write(docora)
    docora.redis.delete(KEY)
    for result in docora.run_together(
        ("progress", OPERATION, "--json"),
        ("progress", OPERATION, "--follow", "--json"),
        ("cancel", OPERATION, "--json"),
        env=NO_DATABASE,
    ):
        assert result.code == 3, result
        assert result.json["code"] == "not_found"
        assert f"Operation not found or expired: {OPERATION!r}" in result.json["error"]
    assert docora.redis.keys() == []


def test_follow_ends_with_the_operation(docora: Docora) -> None:
    write(docora)
    with docora.start("progress", OPERATION, "--follow", "--json", env=NO_DATABASE) as process:
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
    docora: Docora, changed: dict[str, str], silent: int, said: str
) -> None:
    write(docora, **changed)
    docora.redis.expire(KEY, 3600 - silent)
    result = docora.run("progress", OPERATION, "--follow", "--json", env=NO_DATABASE)
    assert result.code == 6, result
    assert result.data["completed"] == int(changed.get("completed", "4"))
    assert said in result.stderr
    assert docora.run("progress", OPERATION, env=NO_DATABASE).code == 0
