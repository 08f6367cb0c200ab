"""`--detach` of `retry-all-failed`: a run that outlives its terminal, and can be followed."""

import os
import re
import signal
from typing import Any

import pytest

from docora_ops.cli import detach
from docora_ops.errors import UsageError
from tests.support.docora import COMMAND, Docora
from tests.support.other_worker import other_worker
from tests.support.proxy import Fault, Proxy, eventually, patience
from tests.support.running_commands import await_goodbye, only_operation, pending
from tests.support.terminal import TerminalSession, on_terminal

DETACHED = ("retry-all-failed", "--in-flight", "1", "--detach")


def start(docora: Docora) -> str:
    """A detached run of five links, one at a time, once its command has ended; returns its id."""
    docora.add_links(5)
    result = docora.run(*DETACHED, "--json")
    operation_id = only_operation(docora)
    data = result.data
    assert (result.code, data["operation_id"], data["cancelled"]) == (0, operation_id, False)
    assert (data["message"], data["completed"], data["left"]) == ("Bulk retry started", 0, 5)
    assert f"operation {operation_id}, 5 links." in result.stderr
    assert result.stderr.count("no worker listens") == 1
    eventually(lambda: pending(docora) == 1, "a link in flight")
    return operation_id


def progress(docora: Docora, operation_id: str) -> Any:
    return docora.run("operations", operation_id, "--json").data


@pytest.mark.slow
def test_it_goes_on_after_its_terminal_was_closed(docora: Docora) -> None:
    docora.add_links(5)
    docora.add_worker()
    # A shell in a graphical terminal has the variables of the terminal's own unit.
    environment = docora.environment(INVOCATION_ID="1", TERM="dumb")
    with TerminalSession([str(COMMAND), *DETACHED], environment) as session:
        code, shown = session.answer(b"y\n")
        assert code == 0
        found = dict(re.findall(r"^(\S.*?)  +(\S.*?) *\r?$", shown, re.MULTILINE))
        process, operation_id = int(found["Process"]), found["Operation"]
        assert found["To stop it"] == f"docora-ops cancel {operation_id}"
    eventually(lambda: len(docora.waiting()) == 1, "a job")
    assert os.getsid(process) == process
    with other_worker(docora):
        result = docora.run("wait", operation_id, "--json")
    assert (result.code, result.data["state"], result.data["cancelled"]) == (0, "done", False)
    assert (result.data["waited"]["synced"], docora.statuses()) == (5, {"synced": 5})
    assert progress(docora, operation_id)["results"]["synced"] == 5


def test_it_leaves_its_terminal_to_others(docora: Docora) -> None:
    docora.add_links(5)
    # Returns once no process has the terminal open any more.
    code, shown = on_terminal(docora, DETACHED, answer=b"y\n")
    assert (code, docora.statuses()["failed"] > 0) == (0, True), shown
    operation_id = only_operation(docora)
    assert progress(docora, operation_id)["state"] == "running"
    assert docora.run("cancel", operation_id).code == 0
    with other_worker(docora):
        await_goodbye(docora)


def test_its_messages_are_kept_with_the_operation(docora: Docora) -> None:
    operation_id = start(docora)
    docora.connection.execute("ALTER TABLE app_repositories RENAME TO moved")
    try:
        await_goodbye(docora)
    finally:
        docora.connection.execute("ALTER TABLE moved RENAME TO app_repositories")
    found = progress(docora, operation_id)
    assert (found["stopped_by"], found["completed"]) == ("lost_server", 1)
    error = next(each for each in found["messages"] if "is not a Docora database" in each)
    assert re.match(r"\d{4}-\d\d-\d\dT[\d:.]+Z Error: ", error)
    for command in (["operations", operation_id], ["report", "--operation", operation_id]):
        assert error in docora.run(*command).stdout


def test_only_its_last_messages_are_kept(docora: Docora, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[list[str]] = []
    monkeypatch.setattr(detach, "keep_messages", lambda _, __, messages: sent.append([*messages]))
    stderr = detach.Messages(docora.actions().docora, "bulk_0123456789abcdef")
    for number in range(250):
        print(f"line {number}", file=stderr)
    assert max(map(len, sent)) == 100
    assert [message.split()[-1] for message in sent[-1]] == [str(n) for n in range(150, 250)]


def test_what_ends_before_it_is_recorded_is_told_at_once(docora: Docora) -> None:
    docora.add_links(2)
    docora.redis.set("docora-ops:audit", "of another type")
    result = docora.run(*DETACHED, "--json")
    assert (result.code, result.json["code"], result.stderr.count("Error: ")) == (5, "redis", 1)
    assert "wrong kind of value at docora-ops:audit\n" in result.stderr, result
    assert docora.statuses() == {"failed": 2}
    await_goodbye(docora)


def test_a_signal_before_it_is_recorded_ends_both_processes(docora: Docora) -> None:
    docora.add_links(2)
    with Proxy.before_redis(docora.redis_url) as proxy:
        record = proxy.plan(b"docora:bulk:", Fault.HOLD_REQUEST)
        process = docora.start(*DETACHED, env={"REDIS_URL": proxy.url})
        record.wait()
        process.send_signal(signal.SIGINT)
        assert process.wait(patience()) == 130
        record.release()
        eventually(lambda: docora.redis.keys("docora:bulk:*"), "a record")
        operation_id = only_operation(docora)
        eventually(lambda: progress(docora, operation_id)["stopped_by"] == "interrupted", "an end")
    await_goodbye(docora)
    assert "bug" not in str(progress(docora, operation_id)["messages"])
    assert docora.statuses() == {"failed": 2}


def test_without_links_nothing_is_detached(docora: Docora) -> None:
    result = docora.run(*DETACHED, "--json")
    assert (result.code, result.data["message"]) == (0, "Nothing to retry")


@pytest.mark.parametrize(
    ("options", "env", "said"),
    [
        (["--detach"], {}, "--detach needs --in-flight"),
        (["--in-flight", "2", "--detach", "--wait"], {}, "--detach and --wait can't be combined"),
        (["--in-flight", "2", "--detach", "--dry-run"], {}, "--detach and --dry-run can't be"),
        (["--in-flight", "2", "--detach"], {"INVOCATION_ID": "1"}, "systemd-run"),
    ],
)
def test_what_makes_no_sense_is_refused(
    docora: Docora, options: list[str], env: dict[str, str], said: str
) -> None:
    docora.add_link()
    docora.run("retry-all-failed", *options, "--json", env=env).ended(2, says=said)
    assert docora.statuses() == {"failed": 1}


@pytest.mark.parametrize("call", ["getpid", "getppid", "getsid"])
def test_it_is_refused_where_it_would_end_with_its_command(
    monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    for name in ("getpid", "getppid", "getsid"):  # the tests may run in a container themselves
        monkeypatch.setattr(os, name, lambda *_: 2)
    detach.require_survival()
    monkeypatch.setattr(os, call, lambda *_: 1)
    with pytest.raises(UsageError, match="would end with this command"):
        detach.require_survival()
