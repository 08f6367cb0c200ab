"""What the demo prints to be pasted, what it takes from the environment, and how it gives up."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from docora_ops.demo.receiver import Receiver
from docora_ops.demo.story import DemoError, Story
from tests.support.docora import Docora
from tests.support.terminal import TerminalSession

URL = f"postgres://docora@/docora?host=/tmp/docora-ops-demo-{'x' * 80}/postgres"
KEEP = f"from docora_ops.demo.story import _wait; _wait({{'DATABASE_URL': {URL!r}}})"


def test_lines_to_paste_are_not_broken_at_80_columns() -> None:
    environment = {**os.environ, "TERM": "xterm"}
    with TerminalSession([sys.executable, "-c", KEEP], environment, 80, 24) as session:
        session.read_until(re.compile(rb"export PATH=[^\r]*:\$PATH\r\n"))
        session.type(b"\x03")
        code, shown = session.end()
    assert code == 0
    assert f"export DATABASE_URL='{URL}'\r\n" in shown
    assert "PAGER" not in shown


def test_no_variable_of_the_caller_leads_to_other_servers() -> None:
    program = (
        "import os; from docora_ops.demo.story import _clean_environment; "
        "_clean_environment(); print(sorted(os.environ))"
    )
    theirs = {"DOCORA_OPS_ENV_FILE": "x", "DATABASE_URL": "x", "PGHOST": "x", "https_proxy": "x"}
    shown = subprocess.check_output(
        [sys.executable, "-c", program], env={**os.environ, **theirs, "KEPT": "x"}, text=True
    )
    assert "'KEPT'" in shown
    assert not [name for name in theirs if f"'{name}'" in shown]


def test_workers_that_do_not_start_end_the_demo(
    docora: Docora, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENCRYPTION_KEY", "nonsense")
    story = Story(docora.settings, Receiver({}))
    with pytest.raises(DemoError, match="did not start"), story.workers():
        pass
