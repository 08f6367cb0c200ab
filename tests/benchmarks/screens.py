"""One command that reads, in a process of its own."""

from __future__ import annotations

import os
import sys
from contextlib import redirect_stdout
from pathlib import Path

from docora_ops.cli.app import run
from tests.benchmarks.measured import report

COMMANDS = (
    "status",
    "failed",
    "failed --group-by error",
    "failed --error *docs*",
    "links",
    "links --sort error",
    "links --group-by repository",
    "apps",
    "metrics",
    "doctor",
    "queue",
)


def _work() -> int:
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        run(sys.argv[1:])
    return 1


if __name__ == "__main__":
    report(_work)
