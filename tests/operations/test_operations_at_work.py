"""What others are told of an operation at work, and what it says of links that they took over."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.support.bulk_actions import APP, RETRY
from tests.support.docora import Docora, Process, finish
from tests.support.other_worker import other_worker
from tests.support.proxy import PUSH, Fault, Proxy, eventually
from tests.support.running_commands import only_operation
from tests.support.terminal import on_terminal, plain_talk

COMMAND = ("retry-all-failed", "--in-flight", "1", "--json")


@contextmanager
def at_work(docora: Docora, links: int) -> Iterator[tuple[Process, str]]:
    """A retry with one link in flight, and its operation id."""
    docora.add_links(links)
    process = docora.start(*COMMAND)
    eventually(lambda: len(docora.waiting()) == 1, "a link in flight")
    operation_id = only_operation(docora)
    key = f"docora:bulk:{operation_id}"
    eventually(lambda: docora.redis.hget(key, "completed") == b"1", "its count")
    yield process, operation_id


def stores(docora: Docora, operation_id: str) -> Any:
    """Both stores, without the moment that an operation at work writes again and again."""
    tables, keys = docora.dump()
    record: Any = keys[f"docora-ops:operation:{operation_id}:record".encode()]
    del record[0][b"stepped_at"]
    return tables, keys


@pytest.mark.slow
def test_a_question_a_dry_run_and_json_name_an_operation_at_work_on_the_same_links(
    docora: Docora,
) -> None:
    with at_work(docora, 4) as (process, operation_id):
        said = rf"Operation {operation_id} is at work on 3 of these links: "
        said += rf"\S+@{re.escape(os.uname().nodename)}, retry-all-failed --in-flight 1, 1 of 4, "
        said += r"since [0-9-]+T[0-9:.]+Z\."
        before = stores(docora, operation_id)
        code, asked = on_terminal(docora, ["retry-all-failed"], answer=b"n\n")
        assert code == 130, asked
        question = asked[: asked.index("reset 3 links")]
        assert re.search(said, " ".join(plain_talk(question).split())), asked
        shown = docora.run("retry-all-failed", "--dry-run")
        assert re.search(said, shown.stdout), shown
        dry = docora.run("retry-all-failed", "--dry-run", "--json").data["running_operations"]
        [named] = dry
        expected = {
            "operation_id": operation_id,
            "command": "retry-all-failed",
            "selection": {"in_flight": 1},
            "total": 4,
            "completed": 1,
            "links": 3,
        }
        assert named.items() >= expected.items()
        assert named["started_at"] is not None
        # A resync is about the link in flight, too.
        resync = docora.run("resync", APP, "--all", "--dry-run", "--json").data
        assert [each["links"] for each in resync["running_operations"]] == [4]
        schedule = docora.run("schedule", "--dry-run", "--json").data
        assert [each["links"] for each in schedule["running_operations"]] == [4]
        assert stores(docora, operation_id) == before
        other = docora.add_app(app_id="app_other")
        docora.link(other, docora.add_repository("octo/other", "repo_other"), "failed")
        elsewhere = docora.run("retry-all-failed", "--app", other, "--yes", "--json")
        assert elsewhere.data["running_operations"] == []
        result = docora.run("retry-all-failed", "--yes")
        assert re.search(said, result.stderr), result
        with other_worker(docora):
            ended = finish(process).ended(0)
    assert ended.data["running_operations"] == []
    last = docora.run("resync", APP, "--all", "--dry-run", "--json").data
    assert last["running_operations"] == [], "it has ended"


def test_links_that_others_retried_are_taken_over_not_done(docora: Docora) -> None:
    with at_work(docora, 5) as (process, operation_id):
        assert docora.run("retry-all-failed", "--yes").code == 0
        with other_worker(docora):
            result = finish(process)
    assert (result.code, result.data["taken_over"]) == (0, 4), result
    progress = docora.run("operations", operation_id, "--json").data
    # The dashboard takes an operation for done once all links are completed.
    assert (progress["completed"], progress["taken_over"]) == (5, 4)
    for screen in docora.run_together(("operations", operation_id), ("operations",), ("status",)):
        assert "1 of 5, 4 taken over" in screen.stdout, screen
    report = docora.run("report", "--operation", operation_id).stdout
    assert "  - `done, 1 of 5, 4 taken over`, last step " in report


def test_an_operation_at_full_pace_is_named_too_and_leaves_nothing_to_it(docora: Docora) -> None:
    docora.add_links(25)
    with Proxy.before_redis(docora.redis_url) as proxy:
        push = proxy.plan(PUSH, Fault.HOLD_REQUEST, number=1)
        process = docora.start(*RETRY.command, "--json", env={"REDIS_URL": proxy.url})
        push.wait()
        planned = docora.run("schedule", "--dry-run", "--json").data
        [named] = planned["running_operations"]
        assert (named["links"], named["completed"]) == (25, 0)
        assert (planned["left_to_operations"], planned["total"]) == ([], 25)
        push.release()
        assert finish(process).code == 0
    assert docora.run("schedule", "--dry-run", "--json").data["running_operations"] == []
