"""The log of a worker: one inert line for each event."""

import fcntl
import logging
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from docora_ops.errors import SnapshotError
from docora_ops.text import inert
from docora_ops.worker.log import OneLineHandler
from tests.support.delivery_checks import link_row
from tests.support.docora import COMMAND, Docora
from tests.support.hostile_texts import TRICKS
from tests.support.hostile_world import fill_database, link_of
from tests.support.proxy import PATIENCE, eventually
from tests.support.snapshots import Snapshots
from tests.support.terminal import assert_inert, on_terminal
from tests.support.worker_processes import running, running_program

CHOSEN = (0, 3, 9, 12)
HOSTILE = "evil\n2026 INFO forged\x1b]0;title\x07\u202e"
PIPE_SIZE = 4096
RQ = Path(sys.executable).parent / "rq"


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
    assert "listening on snapshot-queue" in shown
    for line in shown.splitlines():
        assert re.match(r"20\d\d-\d\d-\d\dT[\d:.]+Z [A-Z]+ \S", line), line
    for number in CHOSEN:
        name = inert(list(TRICKS)[number])
        assert re.search(
            rf"{re.escape(f'{name} ← {name}/{name}')}: failed after [\d.]+ s, try 1 of 1: ", shown
        )
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


def test_a_plain_rq_worker_logs_no_control_character_of_an_error(snapshots: Snapshots) -> None:
    link, _ = snapshots.add_link({"b" + HOSTILE: "2\n"})
    snapshots.docora.connection.execute("UPDATE apps SET app_name = %s", (HOSTILE,))
    snapshots.queue(link, max_retry_attempts=1)
    snapshots.receiver.answer = lambda _: 500
    command = [
        str(RQ), "worker", "snapshot-queue", "--burst",
        "--url", snapshots.docora.redis_access.worker,
    ]  # fmt: skip
    with running_program(command, snapshots, MAX_RETRY_ATTEMPTS="1") as worker:
        output = worker.process.stdout.read() if worker.process.stdout else ""
        assert worker.end() == 0
    assert inert(HOSTILE) in output
    assert link_row(snapshots, link) == ("failed", 1, f"HTTP 500 on created b{HOSTILE}")
    assert rf"SnapshotError: HTTP 500 on created b{inert(HOSTILE)}" in worker.log
    for part in ("\n2026", "\x1b]0", "\x07", "\u202e"):
        assert part not in worker.log + output


def test_a_try_past_the_limit_is_not_counted_as_one_of_it(
    snapshots: Snapshots, caplog: pytest.LogCaptureFixture
) -> None:
    """Docora's scheduler queues failed links again, and their count goes on."""
    link, _ = snapshots.add_link({"a": "1\n"})
    snapshots.docora.connection.execute("UPDATE app_repositories SET retry_count = 5")
    snapshots.receiver.answer = lambda _: 500
    with caplog.at_level(logging.INFO), pytest.raises(SnapshotError):
        snapshots.run_job(link)
    assert "began, try 6, past the limit of 5" in caplog.text
    assert "try 6, past the limit of 5: HTTP 500" in caplog.text
    shown = snapshots.docora.run("show", *link.ids).stdout
    assert "Status          failed, 6 tries failed\n" in shown


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
    assert "told to end" in said
    assert "Traceback" not in said


def is_asleep(pid: int) -> bool:
    """Whether it has not run for a while. What it waits for is told to root only."""

    def switches() -> list[str]:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
        return re.findall(r"ctxt_switches:\s*(\d+)", status)

    before = switches()
    time.sleep(0.3)
    return switches() == before


def test_a_worker_logs_each_event_in_one_line(
    snapshots: Snapshots,
) -> None:
    app_id = snapshots.add_app("Acme")
    upstream = snapshots.add_upstream()
    upstream.commit({"a": "1\n", "b": "2\n"})
    good = snapshots.link(app_id, snapshots.add_repository(upstream))
    bad = snapshots.link(app_id, snapshots.docora.add_repository("octo/web", url="file:///nowhere"))
    gone = snapshots.link(app_id, snapshots.docora.add_repository("octo/old"))
    for link in (good, bad, gone):
        assert snapshots.docora.run("retry", *link.ids).code == 0
    snapshots.docora.connection.execute(
        "DELETE FROM app_repositories WHERE repository_id = %s", (gone.repository_id,)
    )
    worked = snapshots.work("--name", "one")
    assert worked.code == 0, worked
    said = [line.split(" ", 1)[1] for line in worked.stderr.splitlines()]
    expected = [
        r"INFO worker one: listening on snapshot-queue, Redis \S+",
        r"INFO Acme ← octo/api: began, try 1 of 5",
        r"INFO Acme ← octo/api: main at \w{12}: 0 to delete, 2 to create, 0 to update",
        r"INFO Acme ← octo/api: synced, 2 files sent in [\d.]+ s",
        r"INFO Acme ← octo/web: began, try 1 of 5",
        r"WARNING Acme ← octo/web: failed after [\d.]+ s, try 1 of 5: .+; "
        r"tried again in \d+ s",
        r"INFO Acme ← octo/old: nothing to do: the link or its app is gone, [\d.]+ s",
        r"INFO worker one: ended, since the queue is empty",
    ]
    assert len(said) == len(expected), said
    for line, pattern in zip(said, expected, strict=True):
        assert re.fullmatch(pattern, line), line


def test_a_suspended_worker_says_so(snapshots: Snapshots) -> None:
    link, _ = snapshots.add_queued({"a": "1\n"})
    snapshots.docora.redis.set("rq:suspended", 1)
    with running(snapshots) as worker:
        worker.await_line("takes no job: workers are suspended (docora-ops resume ends that)")
        snapshots.docora.redis.delete("rq:suspended")
        worker.await_line("takes jobs again")
        eventually(lambda: snapshots.docora.status(link) == "synced", "the job")
        worker.signal(signal.SIGTERM)
        assert worker.end() == 0
    assert "ended, as told" in worker.log
