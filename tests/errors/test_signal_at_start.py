"""A signal that comes before the command has begun."""

from pathlib import Path

import pytest

from tests.support.docora import Docora

AT_AN_IMPORT = """
import os, signal, sys

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "{module}":
            os.kill(os.getpid(), signal.{name})

sys.meta_path.insert(0, Interrupt())
"""
LOADING, PARSING = "docora_ops.cli.context", "typer._click.decorators"


@pytest.mark.parametrize(
    ("name", "module", "ends"),
    [
        ("SIGINT", LOADING, (130, "interrupted", "Error: interrupted\n")),
        ("SIGTERM", LOADING, (130, "interrupted", "Error: interrupted\n")),
        ("SIGHUP", LOADING, (129, "hung_up", "Error: hung up (SIGHUP)\n")),
        ("SIGINT", PARSING, (130, "interrupted", "Error: interrupted\n")),
    ],
)
def test_a_signal_before_the_start_is_reported_as_any_other_interrupt(
    docora: Docora, tmp_path: Path, name: str, module: str, ends: tuple[int, str, str]
) -> None:
    link = docora.add_link()
    code = AT_AN_IMPORT.format(name=name, module=module)
    (tmp_path / "sitecustomize.py").write_text(code, encoding="utf-8")
    arguments = ("retry", link.app_id, link.repository_id, "--json")
    result = docora.run(*arguments, env={"PYTHONPATH": str(tmp_path)})
    assert (result.code, result.json["code"], result.stderr) == ends, result
    assert docora.status(link) == "failed"
