"""`docora-ops worker`: what it refuses, and what it logs."""

import logging
import os
import re
import sys
import threading
from pathlib import Path

import pytest

from docora_ops.worker.log import OneLineHandler
from tests.support.rows import TestLink
from tests.support.snapshots import KEY, Snapshots

PASSWORD = "hunter2"


@pytest.fixture
def link(snapshots: Snapshots) -> TestLink:
    """Its job waits."""
    link = snapshots.docora.add_link()
    snapshots.queue(link)
    return link


def assert_untouched(snapshots: Snapshots, link: TestLink) -> None:
    assert snapshots.docora.waiting() == [link.job_id]
    assert snapshots.docora.status(link) == "pending_snapshot"
    assert snapshots.docora.redis.keys("rq:worker*") == []


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"ENCRYPTION_KEY": None}, "ENCRYPTION_KEY is not set"),
        ({"DATABASE_URL": f"mysql://ada:{PASSWORD}@db/docora"}, "DATABASE_URL: must look like"),
        ({"PATH": ""}, "git is not on PATH"),
        ({"REPOS_BASE_PATH": "/dev/null/repos"}, "REPOS_BASE_PATH '/dev/null/repos' can't be"),
    ],
)
def test_what_can_not_work_is_refused_before_a_job_is_taken(
    snapshots: Snapshots, link: TestLink, changes: dict[str, str | None], sentence: str
) -> None:
    result = snapshots.work(**changes)
    assert (result.code, result.stdout) == (2, "")
    assert result.stderr.startswith("Error: ")
    assert sentence in result.stderr
    assert "Hint: " in result.stderr
    for secret in (PASSWORD, KEY.hex()):
        assert secret not in result.stderr
    assert_untouched(snapshots, link)


def test_a_name_that_is_taken_is_refused(snapshots: Snapshots) -> None:
    snapshots.docora.add_worker("mine-2")
    result = snapshots.work("--name", "mine", "--concurrency", "2")
    assert (result.code, result.stdout) == (4, "")
    assert "Error: a worker named 'mine-2' is at work already" in result.stderr
    assert "Traceback" not in result.stderr


def test_without_the_extra_it_says_how_to_install_it(
    snapshots: Snapshots, link: TestLink, tmp_path: Path
) -> None:
    (tmp_path / "cryptography.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'cryptography'\", name='cryptography')\n"
    )
    result = snapshots.work(PYTHONPATH=str(tmp_path))
    assert (result.code, result.stdout) == (2, "")
    assert result.stderr == (
        "Error: the worker's packages are not installed (cryptography is missing)\n"
        "Hint: in a clone: pipx install --force '.[worker]', or [worker] behind a wheel's name\n"
    )
    assert_untouched(snapshots, link)
    # And nothing else needs it.
    env = {"PYTHONPATH": str(tmp_path)}
    assert snapshots.docora.run("retry-all-failed", "--yes", env=env).code == 0


def test_settings_of_an_env_file_that_can_be_read_only_once_reach_the_jobs(
    snapshots: Snapshots, tmp_path: Path
) -> None:
    for link in snapshots.add_links(["One", "Two"]).values():
        snapshots.queue(link)
    environment = snapshots.environment()
    names = (
        *("DATABASE_URL", "REDIS_URL", "ENCRYPTION_KEY", "REPOS_BASE_PATH"),
        "DOCORA_OPS_GIT_PROTOCOLS",
    )
    path = tmp_path / "docora.env"
    content = "".join(f"{name}={environment[name]}\n" for name in names)
    os.mkfifo(path)
    threading.Thread(target=path.write_text, args=(content,), daemon=True).start()
    arguments = ("worker", "--env-file", str(path), "--burst", "--concurrency", "2")
    result = snapshots.docora.run(*arguments, env=dict.fromkeys(names, None))
    assert (result.code, result.stdout) == (0, ""), result.stderr
    assert snapshots.docora.statuses() == {"synced": 2}
    assert (snapshots.clone() / "HEAD").exists()


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
        snapshots.queue(link, retry_base_delay_ms=60_000)
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
