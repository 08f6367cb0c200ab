"""The log of a worker: one inert line for each event."""

import fcntl
import logging
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from docora_ops.cli.worker import _StderrHandler
from docora_ops.errors import SnapshotError
from docora_ops.text import inert
from tests.support.docora import COMMAND, Docora
from tests.support.hostile_texts import TRICKS
from tests.support.hostile_world import fill_database, link_of
from tests.support.proxy import PATIENCE, eventually
from tests.support.snapshots import Snapshots
from tests.support.terminal import assert_inert, on_terminal

CHOSEN = (0, 3, 9, 12)
HOSTILE = "evil\n2026 INFO forged\x1b]0;title\x07\u202e"
PIPE_SIZE = 4096


def test_each_line_of_a_workers_log_is_one_event_in_letters_that_can_be_read(
    docora: Docora, tmp_path: Path
) -> None:
    fill_database(docora)
    for number in CHOSEN:
        link = link_of(number)
        assert docora.run("retry", *link.ids).code == 0
    # RQ itself is told of a function that is not there, by another producer.
    docora.enqueue("other")
    docora.redis.hset("rq:job:other", "description", list(TRICKS)[3])
    env = {
        "DATABASE_URL": docora.database_access.worker,
        "REDIS_URL": docora.redis_access.worker,
        "ENCRYPTION_KEY": "00" * 32,
        "REPOS_BASE_PATH": str(tmp_path),
        "MAX_RETRY_ATTEMPTS": "1",
    }
    code, shown = on_terminal(docora, ["worker", "--burst"], columns=80, env=env)
    assert code == 0
    shown = shown.replace("\r\n", "\n")
    assert_inert(shown)
    assert "Listening on snapshot-queue" in shown, "colours are spelled out"
    for line in shown.splitlines():
        assert re.match(r"20\d\d-\d\d-\d\dT[\d:.]+Z [A-Z]+ \S", line), line
    for number in CHOSEN:
        name = inert(list(TRICKS)[number])
        assert f"{name}/{name} → {name}: failed, try 1: " in shown
        assert docora.status(link_of(number)) == "failed"


def test_each_line_that_a_job_logs_is_inert(
    snapshots: Snapshots, caplog: pytest.LogCaptureFixture
) -> None:
    link, _ = snapshots.add_link({"a": "1\n", "b" + HOSTILE: "2\n"})
    snapshots.docora.connection.execute("UPDATE apps SET app_name = %s", (HOSTILE,))
    snapshots.receiver.answer = lambda request: 200 if request.path == "a" else 500
    with caplog.at_level(logging.INFO), pytest.raises(SnapshotError):
        snapshots.run_job(link)
    messages = [record.message for record in caplog.records if "rq.worker" in record.name]
    assert any(r"evil\n2026 INFO forged\x1b]0;title\x07\u202e" in text for text in messages)
    assert any(r"on created bevil\n2026" in text for text in messages)
    assert [text for text in messages if not text.isprintable()] == []


def test_a_traceback_is_one_line_of_the_log(capfd: pytest.CaptureFixture[str]) -> None:
    try:
        raise ValueError("a\nb")
    except ValueError:
        record = logging.LogRecord("rq", logging.ERROR, "", 0, "it\nfailed", (), sys.exc_info())
    _StderrHandler().emit(record)
    line = capfd.readouterr().err
    assert line.endswith("\n")
    assert line.count("\n") == 1
    assert r"it\nfailed\nTraceback" in line


def test_a_signal_that_comes_while_a_line_is_written_ends_the_worker_without_a_word_about_it(
    snapshots: Snapshots,
) -> None:
    """Its log is a pipe that is full, so that it can't go on writing."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
    os.write(writer, b"." * PIPE_SIZE)
    environment = snapshots.docora.environment(**snapshots.environment())
    with subprocess.Popen([COMMAND, "worker"], env=environment, stderr=writer) as worker:
        os.close(writer)
        eventually(lambda: snapshots.docora.redis.smembers("rq:workers"), "a worker")
        eventually(lambda: is_asleep(worker.pid), "a worker that writes")
        worker.send_signal(signal.SIGTERM)
        with os.fdopen(reader, encoding="utf-8") as log:
            said = log.read()
        assert worker.wait(PATIENCE) == 0
    assert "warm shut down requested" in said
    assert "Traceback" not in said


def is_asleep(pid: int) -> bool:
    with open(f"/proc/{pid}/wchan", encoding="ascii") as file:  # noqa: PTH123
        return "pipe" in file.read()
