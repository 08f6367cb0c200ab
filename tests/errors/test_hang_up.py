"""A terminal that is closed under a command, and signals that come at a bad moment."""

import json
import os
import pty
from pathlib import Path

from tests.support.docora import Docora
from tests.support.proxy import patience


def test_a_closed_terminal_ends_a_bulk_retry_with_its_document_and_its_audit_entry(
    docora: Docora, tmp_path: Path
) -> None:
    docora.add_links(500)
    output = tmp_path / "output"
    command = ["retry-all-failed", "--batch-size", "1", "--json", "--yes"]
    master, slave = pty.openpty()
    with output.open("wb") as stdout:
        streams = (slave, stdout.fileno(), slave)
        process = docora.fork_server.start(command, docora.environment(), streams)
    with process:
        os.close(slave)
        while not docora.waiting():
            assert process.poll() is None
        os.close(master)
        assert process.wait(patience()) == 129
    document = json.loads(output.read_text("utf-8"))["data"]
    assert 0 < document["completed"] < document["total"] == 500
    assert document["cancelled"] is True
    [entry] = docora.run("history", "--json").data
    assert (entry["operation_id"], entry["state"]) == (document["operation_id"], "cancelled")
    assert entry["counts"] == {"total": 500, "queued": document["completed"]}
    docora.assert_sound()


AT_AN_IMPORT = """
import os, signal, sys

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "docora_ops.cli.context":
            os.kill(os.getpid(), signal.SIGHUP)

sys.meta_path.insert(0, Interrupt())
"""


def test_a_signal_before_the_start_is_reported_as_any_other_interrupt(
    docora: Docora, tmp_path: Path
) -> None:
    link = docora.add_link()
    (tmp_path / "sitecustomize.py").write_text(AT_AN_IMPORT, encoding="utf-8")
    arguments = ("retry", *link.ids, "--json")
    result = docora.run(*arguments, env={"PYTHONPATH": str(tmp_path)})
    assert (result.code, result.json["code"]) == (129, "hung_up"), result
    assert result.stderr == "Error: hung up (SIGHUP)\n"
    assert docora.status(link) == "failed"
