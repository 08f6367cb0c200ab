"""A signal while a command writes: no document is cut in two, or printed twice."""

import json
import os
import signal
import time
from contextlib import suppress

import pytest

from tests.support.docora import Docora, finish
from tests.support.proxy import PATIENCE, eventually
from tests.support.running_commands import only_operation, progress_of


def full_pipe() -> tuple[int, int]:
    """A pipe into which nothing more can be written until somebody reads."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, b"x")
    os.set_blocking(writer, True)
    return reader, writer


def test_a_signal_while_the_operation_is_announced_cancels_it_for_all_to_see(
    docora: Docora,
) -> None:
    docora.add_worker()
    docora.add_links(3)
    before = docora.statuses()
    # The first line on stderr, which tells the operation's id, finds no room in the pipe.
    reader, writer = full_pipe()
    with docora.start_installed("retry-all-failed", "--json", stderr=writer) as process:
        os.close(writer)
        eventually(lambda: docora.redis.keys("docora:bulk:*"), "an operation")
        process.send_signal(signal.SIGTERM)
        while os.read(reader, 65536):
            pass
        assert process.stdout is not None
        document = process.stdout.read()
    os.close(reader)
    assert process.returncode == 130
    assert document.count("\n") == 1
    assert docora.statuses() == before
    assert progress_of(docora, only_operation(docora))["cancelled"] == "true"


@pytest.mark.parametrize("insistent", [False, True])
def test_a_signal_does_not_cut_a_document_in_two(docora: Docora, *, insistent: bool) -> None:
    docora.add_links(2000)
    with docora.start("retry-all-failed", "--dry-run", "--json") as process:
        beginning = process.stdout.read(1)
        # More than a pipe holds is still to come.
        process.send_signal(signal.SIGINT)
        if insistent:
            process.send_signal(signal.SIGTERM)
        result = finish(process)
    if insistent:
        assert result.code == 130
        return
    assert result.code == 0
    assert len(json.loads(beginning + result.stdout)["data"]["planned_links"]) == 2000


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_after_the_document_adds_no_second_one(
    docora: Docora, number: signal.Signals
) -> None:
    reader, writer = full_pipe()
    with docora.start_installed("doctor", "--json", stderr=writer) as process:
        os.close(writer)
        assert process.stdout is not None
        document = process.stdout.readline()
        # The command writes its summary to stderr next, and waits for a reader.
        time.sleep(0.2)
        process.send_signal(number)
        os.close(reader)
        assert process.stdout.read() == ""
        # A signal that comes while the document is being printed has no effect.
        assert process.wait(PATIENCE) in {0, 128 + number}
    assert "checks" in json.loads(document)["data"]


@pytest.mark.parametrize("options", [["--json"], []], ids=["json", "table"])
def test_output_that_nobody_reads_does_not_outlive_a_signal(
    docora: Docora, options: list[str]
) -> None:
    docora.add_links(2000)
    with docora.start("retry-all-failed", "--dry-run", *options) as process:
        assert process.stdout.read(1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 130
