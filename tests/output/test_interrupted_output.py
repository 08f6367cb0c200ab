"""A signal while a command writes: no document is cut in two, or printed twice."""

import signal

import pytest

from tests.support.docora import Docora
from tests.support.proxy import PATIENCE


@pytest.mark.parametrize("options", [["--json"], []], ids=["json", "table"])
def test_output_that_nobody_reads_does_not_outlive_a_signal(
    docora: Docora, options: list[str]
) -> None:
    docora.add_links(2000)
    with docora.start("retry-all-failed", "--dry-run", *options) as process:
        assert process.stdout.read(1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 130
