"""The log of a worker: one inert line for each event."""

import logging
import re
import sys

import pytest

from docora_ops.worker.log import OneLineHandler
from tests.support.snapshots import Snapshots

HOSTILE = "evil\n2026 INFO forged\x1b]0;title\x07\u202e"
INERT = r"evil\n2026 INFO forged\x1b]0;title\x07\u202e"


def test_a_traceback_is_one_line_of_the_log(capfd: pytest.CaptureFixture[str]) -> None:
    try:
        raise ValueError("a\nb")
    except ValueError:
        record = logging.LogRecord("rq", logging.ERROR, "", 0, "it\nfailed", (), sys.exc_info())
    OneLineHandler().emit(record)
    line = capfd.readouterr().err
    assert line.endswith("\n")
    assert line.count("\n") == 1
    assert r"it\nfailed\nTraceback" in line


def test_a_worker_logs_each_event_in_one_inert_line(snapshots: Snapshots) -> None:
    app_id = snapshots.add_app("Acme")
    upstream = snapshots.add_upstream()
    upstream.commit({"a": "1\n", "b" + HOSTILE: "2\n"})
    good = snapshots.link(app_id, snapshots.add_repository(upstream))
    bad = snapshots.link(app_id, snapshots.docora.add_repository("octo/web", url="file:///nowhere"))
    gone = snapshots.link(app_id, snapshots.docora.add_repository("octo/old"))
    snapshots.docora.connection.execute("UPDATE apps SET app_name = %s", (f"A{HOSTILE}",))
    for link in (good, bad, gone):
        assert snapshots.docora.run("retry", *link.ids).code == 0
    snapshots.docora.connection.execute(
        "DELETE FROM app_repositories WHERE repository_id = %s", (gone.repository_id,)
    )
    snapshots.receiver.answer = lambda request: 200 if request.path == "a" else 500
    worked = snapshots.work("--name", "one")
    assert worked.code == 0, worked
    said = [line.split(" ", 1)[1] for line in worked.stderr.splitlines()]
    app = re.escape(f"A{INERT} ← octo/")
    expected = [
        r"INFO worker one: listening on snapshot-queue, Redis \S+",
        rf"INFO {app}api: began, try 1 of 5",
        rf"INFO {app}api: main at \w{{12}}: 0 to delete, 2 to create, 0 to update",
        rf"WARNING {app}api: failed after [\d.]+ s, try 1 of 5: HTTP 500 on created "
        rf"b{re.escape(INERT)}; tried again in \d+ s",
        rf"INFO {app}web: began, try 1 of 5",
        rf"WARNING {app}web: failed after [\d.]+ s, try 1 of 5: .+; tried again in \d+ s",
        rf"INFO {app}old: nothing to do: the link or its app is gone, [\d.]+ s",
        r"INFO worker one: ended, since the queue is empty",
    ]
    assert len(said) == len(expected), said
    for line, pattern in zip(said, expected, strict=True):
        assert re.fullmatch(pattern, line), line
        assert line.isprintable()
