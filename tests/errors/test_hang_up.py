"""A terminal that is closed under a command, and signals that come at a bad moment."""

import json
import os
import pty
import signal
import sys
from pathlib import Path

import psycopg
import pytest

from tests.support.docora import Docora, finish
from tests.support.proxy import eventually, patience
from tests.support.running_commands import LOCK_TABLE, PATIENT, await_locks


def test_a_closed_terminal_ends_a_bulk_retry_like_a_signal(docora: Docora, tmp_path: Path) -> None:
    docora.add_links(500)
    output = tmp_path / "output"
    command = ["retry-all-failed", "--batch-size", "1", "--json", "--yes"]
    master, slave = pty.openpty()
    with output.open("wb") as stdout:
        streams = (slave, stdout.fileno(), slave)
        process = docora.fork_server.start(command, docora.environment(), streams)
    with process:
        os.close(slave)
        eventually(lambda: docora.waiting() != [], "the first job")
        os.close(master)
        assert process.wait(patience()) == 129
    document = json.loads(output.read_text("utf-8"))["data"]
    assert 0 < document["completed"] < document["total"] == 500
    assert document["cancelled"] is True
    [entry] = docora.run("history", "--json").data
    assert (entry["operation_id"], entry["state"]) == (document["operation_id"], "cancelled")
    assert entry["counts"] == {"total": 500, "queued": document["completed"]}
    docora.assert_sound()


# Python swallows what the handler of a signal raises while a destructor runs.
DYING_ON_SIGUSR1 = """
import signal

class Dying:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)

def die(number, frame):
    Dying()

signal.signal(signal.SIGUSR1, die)
"""


@pytest.mark.slow
def test_a_signal_in_a_destructor_ends_a_command_too(docora: Docora, tmp_path: Path) -> None:
    link = docora.add_link()
    (tmp_path / "sitecustomize.py").write_text(DYING_ON_SIGUSR1, encoding="utf-8")
    environment = {**PATIENT, "PYTHONPATH": str(tmp_path)}
    with psycopg.connect(docora.database_access.owner) as holder:
        holder.execute(LOCK_TABLE)
        process = docora.start_installed("retry", *link.ids, "--json", env=environment)
        await_locks(docora, 1)
        result = finish(process, signal.SIGUSR1).ended(130, "interrupted")
    assert result.stderr.endswith(f"\nError: {result.json['error']}\n")
    assert "ignored" not in result.stderr
    assert docora.status(link) == "failed"


AT_AN_IMPORT = """
import os, signal, sys

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "{module}":
            {interrupt}

sys.meta_path.insert(0, Interrupt())
"""
HANG_UP = "os.kill(os.getpid(), signal.SIGHUP)"


@pytest.mark.parametrize(
    ("module", "interrupt"),
    [
        ("docora_ops.cli.context", HANG_UP),
        ("docora_ops.actions.one_link", f"exec('{HANG_UP}')"),  # as while a class is made
    ],
    ids=["before the start", "in exec"],
)
def test_a_signal_at_an_import_is_reported_as_any_other_interrupt(
    docora: Docora, tmp_path: Path, module: str, interrupt: str
) -> None:
    link = docora.add_link()
    text = AT_AN_IMPORT.format(module=module, interrupt=interrupt)
    (tmp_path / "sitecustomize.py").write_text(text, encoding="utf-8")
    command = (sys.executable, "-m", "docora_ops", "retry", *link.ids, "--json")
    result = finish(docora.start_program(*command, env={"PYTHONPATH": str(tmp_path)}))
    assert (result.code, result.json["code"]) == (129, "hung_up"), result
    assert result.stderr == "Error: hung up (SIGHUP)\n"
    assert docora.status(link) == "failed"
