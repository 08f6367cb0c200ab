"""A bug of ours is told as one, and what its exception says is not shown."""

from __future__ import annotations

import subprocess
import sys

from tests.support.docora import Docora, Result

BUGGY = """
import sys
from docora_ops.__main__ import main
from docora_ops.actions.link_change import LinkChange

secret = "s3cr" + "3t"  # Python 3.13 shows the lines of code

def retry(*_, **__):
    try:
        raise KeyError("cause-" + secret)
    except KeyError as error:
        raise ValueError(f"postgres://user:{secret}@host/docora") from error

LinkChange.make = retry
sys.exit(main())
"""


def test_a_bug_is_told_with_its_place_and_without_its_text(docora: Docora) -> None:
    link = docora.add_link()
    for options in ((), ("--json",)):
        done = subprocess.run(
            [sys.executable, "-c", BUGGY, "retry", link.app_id, link.repository_id, *options],
            env=docora.environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        result = Result(done.returncode, done.stdout, done.stderr)
        assert result.code == 1, result
        assert "s3cr3t" not in result.stdout + result.stderr
        assert 'File "<string>", line 12, in retry' in result.stderr
        assert "this is a bug in docora-ops" in result.stderr
        assert "report it" in result.stderr
        if options:
            assert result.json["code"] == "bug"
            assert "ValueError" in result.json["error"]
        else:
            assert result.stdout == ""
    assert docora.status(link) == "failed"
