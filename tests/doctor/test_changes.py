"""`docora-ops doctor --changes FILE`: alerts that come once, and say when it is over."""

import json
import os
import re
import stat
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support.diagnoses import ONE_LOOK, make_healthy, scan_links
from tests.support.docora import COMMAND, Docora, Result
from tests.support.proxy import refused_port

NOTHING = (0, "", "")
WORKER = "rq:workers:snapshot-queue"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "problems.json"


def look(docora: Docora, file: Path, *options: str, **env: str | None) -> Result:
    return docora.run("doctor", "--changes", str(file), *options, env=ONE_LOOK | env)


def shown(docora: Docora, file: Path, *options: str, **env: str | None) -> tuple[int, str, str]:
    result = look(docora, file, *options, **env)
    return result.code, result.stdout, result.stderr


def age(file: Path, by: timedelta) -> None:
    """Makes all that the file remembers older."""
    record = json.loads(file.read_bytes())
    record["told_at"] = str(datetime.fromisoformat(record["told_at"]) - by)
    file.write_text(json.dumps(record), encoding="utf-8")


@pytest.mark.slow
def test_each_problem_is_told_once_and_its_end_once(docora: Docora, file: Path) -> None:
    make_healthy(docora)
    assert shown(docora, file) == NOTHING
    docora.redis.delete(WORKER)
    begins = look(docora, file)
    assert (begins.code, begins.stderr) == (6, "")
    assert begins.stdout.startswith("New: Workers: no worker listens on snapshot-queue"), begins
    assert begins.stdout.endswith("  → start one: docora-ops worker\n1 critical.\n"), begins
    assert shown(docora, file) == NOTHING
    # A second problem is news, the first one is told with it.
    lost = [docora.add_link("pending_snapshot")]
    docora.age_links()
    grows = look(docora, file)
    news = [re.sub("^Since .*?Z", "Since", line) for line in grows.stdout.splitlines()]
    assert (grows.code, news[0]) == (6, "New: Drift lost: 1 lost link without a live job")
    assert news[2].startswith("Since: Workers: "), grows
    # A count that grows is none.
    lost.append(docora.add_link("pending_snapshot"))
    docora.age_links()
    assert shown(docora, file) == NOTHING
    docora.add_worker()
    shrinks = look(docora, file)
    over, since, *_ = shrinks.stdout.splitlines()
    assert (shrinks.code, since.partition(" ")[0]) == (6, "Since"), shrinks
    assert re.fullmatch("Over after [0-9]+ ?s: Workers: 1 on snapshot-queue", over), shrinks
    for link in lost:
        docora.delete_link(link)
    ends = look(docora, file)
    assert (ends.code, ends.stderr) == (0, "")
    over, last = ends.stdout.splitlines()
    assert re.fullmatch("Over after [0-9]+ ?s: Drift lost: none", over), ends
    assert last == "No check is critical any longer. All is well."
    assert shown(docora, file) == NOTHING
    assert [each.name for each in file.parent.iterdir()] == [file.name]


def test_a_warning_is_no_problem(docora: Docora, file: Path) -> None:
    make_healthy(docora)
    docora.add_link()
    assert shown(docora, file) == NOTHING
    critical = look(docora, file, "--max-failed", "0")
    assert (critical.code, critical.stdout.partition(":")[0]) == (6, "New")
    again = look(docora, file, "--max-failed", "1")
    assert (again.code, again.stdout.splitlines()[-1]) == (
        0,
        "No check is critical any longer. 1 warning.",
    )


def test_what_can_not_be_checked_is_not_over(docora: Docora, file: Path) -> None:
    scan_links(docora, 700)
    docora.redis.set("docora-ops:schedule", int(time.time()) - 310)
    names = ["Workers", "Schedule", "Freshness"]
    assert re.findall(r"^New: (\w+)", look(docora, file).stdout, re.MULTILINE) == names
    for server, variable in (("Redis", "REDIS_URL"), ("Postgres", "DATABASE_URL")):
        url = f"{server.lower()}://127.0.0.1:{refused_port()}"
        down = look(docora, file, **{variable: url})
        assert (down.code, "Over" in down.stdout) == (6, False), down
        assert down.stdout.startswith(f"New: {server}: "), down
        assert shown(docora, file, **{variable: url}) == NOTHING
        up = look(docora, file).stdout
        assert re.match(f"Over after [0-9]+ ?s: {server}: ", up), up
        assert re.findall(r"^Since \S+Z: (\w+)", up, re.MULTILINE) == names
        assert shown(docora, file) == NOTHING


@pytest.mark.slow
def test_the_same_problems_are_told_again_once_a_day(docora: Docora, file: Path) -> None:
    make_healthy(docora)
    docora.redis.delete(WORKER)
    first = look(docora, file)
    age(file, timedelta(hours=23))
    assert shown(docora, file) == NOTHING
    age(file, timedelta(hours=1))
    reminder = look(docora, file)
    assert re.match(r"Since \S+Z: Workers: no worker listens", reminder.stdout), reminder
    assert (first.code, reminder.code) == (6, 6)
    assert shown(docora, file) == NOTHING
    age(file, timedelta(minutes=11))
    assert shown(docora, file) == NOTHING
    assert look(docora, file, "--remind", "10m").code == 6
    age(file, timedelta(hours=-1))  # the clock was set back
    assert look(docora, file).code == 6
    docora.add_worker()
    assert look(docora, file).code == 0
    age(file, timedelta(days=2))
    assert shown(docora, file) == NOTHING


@pytest.mark.slow
def test_a_file_that_can_not_be_read_counts_as_new(docora: Docora, file: Path) -> None:
    for content in (b"", b"\xff", b"{}", b'{"version": 2}'):
        file.write_bytes(content)
        told = look(docora, file)
        assert (told.code, told.stdout.partition(":")[0]) == (6, "New"), (content, told)
        assert shown(docora, file) == NOTHING


@pytest.mark.slow
def test_a_document_is_printed_always(docora: Docora, file: Path) -> None:
    make_healthy(docora)
    found: list[Any] = []
    for change in ("", "lose", "", "start"):
        if change == "lose":
            docora.redis.delete(WORKER)
        elif change == "start":
            docora.add_worker()
        result = look(docora, file, "--json")
        assert result.stderr == ""
        changes = result.data["changes"]
        names = [[each["name"] for each in changes[kind]] for kind in ("new", "over", "ongoing")]
        found.append((result.code, *names))
    workers: list[str] = ["workers"]
    assert found == [
        (0, [], [], []),
        (6, workers, [], []),
        (0, [], [], workers),
        (0, [], workers, []),
    ]
    assert docora.run("doctor", "--json", env=ONE_LOOK).data["changes"] is None


@pytest.mark.slow
def test_the_file_is_private_and_replaced_after_the_output(docora: Docora, file: Path) -> None:
    make_healthy(docora)
    docora.redis.delete(WORKER)
    line = f"docora-ops doctor --changes {file} >/dev/full"
    full = docora.run_in_shell(line, env=ONE_LOOK)
    assert (full.code, file.exists()) == (6, False), full
    assert look(docora, file).code == 6
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    before = file.stat().st_ino
    assert shown(docora, file) == NOTHING
    assert file.stat().st_ino != before


def test_what_is_no_file_is_never_replaced(docora: Docora, tmp_path: Path) -> None:
    for path in (str(tmp_path), os.devnull):
        result = docora.run("doctor", f"--changes={path}", env={"DATABASE_URL": None})
        assert (result.code, result.stdout) == (2, "")
        assert result.stderr.startswith(f"Error: --changes {path}: it is not a file\n"), result
    for options in (["--remind", "1h"], ["--changes=x", "--all"], ["--changes=x", "--remind=0"]):
        assert docora.run("doctor", *options).code == 2


def test_an_unwritable_file_is_an_error_after_the_output(docora: Docora, tmp_path: Path) -> None:
    file = tmp_path / "gone" / "file"
    result = docora.run("doctor", f"--changes={file}", env=ONE_LOOK | {"DATABASE_URL": None})
    assert (result.code, result.stdout.startswith("New: ")) == (2, True), result
    assert f"Error: --changes {file}: No such file or directory\nHint: name a " in result.stderr


@pytest.mark.slow
def test_the_lines_of_the_recipes_alert_once(docora: Docora, tmp_path: Path) -> None:
    make_healthy(docora)
    docora.redis.delete(WORKER)
    page = Path("docora_ops/help/recipes.md").read_text(encoding="utf-8")
    mails, posts = re.findall(r"^\*/5 (?:\* ){4}(.*--changes.*)$", page, re.MULTILINE)
    assert "curl" in posts
    sent = tmp_path / "sent"
    script = f'#!/bin/sh\nwhile [ "$1" != --data-raw ]; do shift; done; echo "$2" >>{sent}\n'
    (tmp_path / "curl").write_text(script, encoding="utf-8")
    (tmp_path / "curl").chmod(0o700)

    def run(line: str) -> str:
        assert "%" not in line  # which ends the command for cron
        line = line.replace("/usr/local/bin/docora-ops", str(COMMAND))
        line = line.replace(" --env-file /etc/docora/monitor.env", "")
        line = line.replace("/var/lib/docora", str(tmp_path))
        env = docora.environment(PATH=f"{tmp_path}:{os.environ['PATH']}", **ONE_LOOK)
        result = docora.start_program("sh", "-c", line, env=env)
        stdout, stderr = result.communicate()
        assert stderr == ""
        return stdout

    assert run(mails).startswith("New: Workers: ")
    assert run(mails) == ""
    (tmp_path / "problems.json").unlink(missing_ok=True)
    assert run(posts) == ""
    assert sent.read_text(encoding="utf-8").startswith("New: Workers: ")
    assert run(posts) == ""
    docora.add_worker()
    assert run(posts) == ""
    assert sent.read_text(encoding="utf-8").count("\n") == 5
