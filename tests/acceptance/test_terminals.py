"""Plain terminals are asked too, and a reader of stderr that has gone changes nothing."""

from __future__ import annotations

import signal

from tests.harness import Docora, finish
from tests.terminal import on_terminal


def test_a_dumb_terminal_is_asked_too(docora: Docora) -> None:
    docora.add_links(3)
    code, shown = on_terminal(docora, ["retry-all-failed"], answers="n\n", env={"TERM": "dumb"})
    assert code == 130
    assert "3 links" in shown
    assert docora.statuses() == {"failed": 3}


def test_an_interrupt_without_a_reader_of_stderr_still_cancels(docora: Docora) -> None:
    docora.add_links(500)
    process = docora.start("retry-all-failed", "--json", "--batch-size", "1")
    while not docora.waiting():
        assert process.poll() is None
    process.stderr.close()
    process.send_signal(signal.SIGINT)
    result = finish(process)
    assert result.code == 130, result
    assert 0 < result.data["completed"] < result.data["total"] == 500
    assert docora.lost_links() == []
