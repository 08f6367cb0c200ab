"""The log: one inert line per event, or one object with the same names in each."""

import json
import logging
import re
import sys
from typing import Any

import pytest
import redis

from docora_ops.worker.log import OneLineHandler
from tests.support.rows import TestLink
from tests.support.snapshots import Snapshots

INERT = r"evil\n2026 INFO forged\x1b]0;title\x07\u202e"
HOSTILE = "evil\n2026 INFO forged\x1b]0;title\x07\u202e"
NAMES = {
    *("logged_at", "level", "message"),
    *("app_id", "app_name", "repository_id", "repository_name", "job_id"),
    *("outcome", "seconds", "files", "error_message"),
}


def queue_links(snapshots: Snapshots, app_name: str, **options: int) -> tuple[TestLink, TestLink]:
    """Queues a link with a hostile path, and one that is deleted before its job is taken."""
    app_id, connection = snapshots.add_app("Acme"), snapshots.docora.connection
    upstream = snapshots.add_upstream()
    upstream.commit({"a": "1\n", "b" + HOSTILE: "2\n"})
    good = snapshots.link(app_id, snapshots.add_repository(upstream))
    gone = snapshots.link(app_id, snapshots.docora.add_repository("octo/old"))
    connection.execute("UPDATE apps SET app_name = %s", (app_name,))
    for link in (good, gone):
        snapshots.queue(link, **options)
    connection.execute(
        "DELETE FROM app_repositories WHERE repository_id = %s", (gone.repository_id,)
    )
    return good, gone


def test_a_worker_logs_each_event_in_one_inert_line(snapshots: Snapshots) -> None:
    later = {"retry_base_delay_ms": 60_000}
    good, _ = queue_links(snapshots, f"A{HOSTILE}", **later)
    nowhere = snapshots.docora.add_repository("octo/web", url="file:///nowhere")
    snapshots.queue(snapshots.link(good.app_id, nowhere), **later)
    snapshots.receiver.answer = lambda request: 200 if request.path == "a" else 500
    worked = snapshots.work("--name", "one").ended(0)
    said = [line.split(" ", 1)[1] for line in worked.stderr.splitlines()]
    app = re.escape(f"A{INERT} ← octo/")
    expected = [
        r"INFO worker one: listening on snapshot-queue, Redis \S+",
        rf"INFO {app}api: began, try 1 of 5",
        rf"INFO {app}api: main at \w{{12}}: 0 to delete, 2 to create, 0 to update",
        rf"WARNING {app}api: failed after [\d.]+ s, try 1 of 5: HTTP 500 on created "
        rf"b{re.escape(INERT)}; tried again in \d+ s",
        rf"INFO {app}old: nothing to do: the link or its app is gone, [\d.]+ s",
        rf"INFO {app}web: began, try 1 of 5",
        rf"WARNING {app}web: failed after [\d.]+ s, try 1 of 5: .+; tried again in \d+ s",
        r"INFO worker one: ended, since the queue is empty",
    ]
    assert len(said) == len(expected), said
    for line, pattern in zip(said, expected, strict=True):
        assert re.fullmatch(pattern, line), line
        assert line.isprintable()


@pytest.mark.parametrize(
    ("error", "pattern"),
    [
        (ValueError("a\nb"), r".* ERROR job\\nx\\nTraceback.*\n"),
        (
            redis.ConnectionError("Connection closed by server."),
            r".*Z ERROR job\\nx \(Redis broke the connection\)\n",
        ),
    ],
)
def test_a_traceback_is_one_line_of_the_log_and_an_outage_a_sentence(
    capfd: pytest.CaptureFixture[str], error: Exception, pattern: str
) -> None:
    try:
        raise error
    except type(error):
        record = logging.LogRecord("rq", logging.ERROR, "", 0, "job\n%s", ("x",), sys.exc_info())
    OneLineHandler().emit(record)
    line = capfd.readouterr().err
    assert re.fullmatch(pattern, line), line


# As JSON


def events_in(log: str) -> list[dict[str, Any]]:
    events = []
    for line in log.splitlines():
        assert line.isascii()
        assert line.isprintable()
        events.append(json.loads(line))
        assert set(events[-1]) == NAMES
    return events


@pytest.mark.slow
def test_each_event_of_a_job_names_its_link_and_the_last_one_its_end(snapshots: Snapshots) -> None:
    token = "ghp_0123456789abcdefghij"
    two_tries = {"max_retry_attempts": 2, "retry_base_delay_ms": 0}
    good, gone = queue_links(snapshots, f"A{HOSTILE} {token}", **two_tries)
    answers = [200, 500, 500]
    snapshots.receiver.answer = lambda _: answers.pop(0)
    environment = {"MAX_RETRY_ATTEMPTS": "2"}
    worked = snapshots.work("--name", "one", "--log-format", "json", **environment)
    assert (worked.code, worked.stdout) == (0, "")
    events = events_in(worked.stderr)
    assert token not in worked.stderr
    assert events[0]["message"].startswith("worker one: listening on snapshot-queue, Redis ")
    assert events[0]["job_id"] is None
    of_good = [event for event in events if event["job_id"] == good.job_id]
    assert {event["repository_name"] for event in of_good} == {"octo/api"}
    assert {event["app_name"] for event in of_good} == {f"A{HOSTILE} ***"}
    assert {(event["app_id"], event["repository_id"]) for event in of_good} == {good.ids}
    ends = [event for event in events if event["outcome"]]
    shown = [(end["job_id"], end["outcome"], end["files"], end["level"]) for end in ends]
    assert sorted(shown) == sorted(
        [
            (good.job_id, "tried_again", 1, "WARNING"),
            (good.job_id, "failed_again", 0, "WARNING"),
            (gone.job_id, "nothing_to_do", 0, "INFO"),
        ]
    )
    assert all(0 <= end["seconds"] < 60 for end in ends)
    assert all(end["error_message"].startswith("HTTP 500") for end in ends if end["files"])
    answers += [200, 200]
    snapshots.queue(good)
    *_, synced, ended = events_in(snapshots.work("--log-format", "json").stderr)
    assert (synced["outcome"], synced["files"]) == ("synced", 1)
    assert synced["error_message"] is ended["outcome"] is None


def test_an_error_that_ends_a_worker_is_an_event_too(snapshots: Snapshots) -> None:
    for arguments, changes, code in (
        ((), {"ENCRYPTION_KEY": None}, 2),
        (("--concurrency", "2"), {"REDIS_URL": "redis://localhost:1"}, 5),
    ):
        worked = snapshots.work("--log-format", "json", *arguments, **changes).ended(code)
        *_, last = events_in(worked.stderr)
        assert last["level"] == "ERROR"
    assert "Redis at localhost:1/0 can't be reached" in last["message"]
