"""`demo --keep`. That the story itself ends well without a terminal is proven by `make demo`."""

import re
import shlex
from pathlib import Path
from signal import SIGINT

import pytest

from tests.support.docora import Docora, finish


@pytest.mark.slow
def test_demo_keep_serves_the_commands_that_it_names_until_ctrl_c(docora: Docora) -> None:
    before = docora.dump()
    demo = docora.start_installed("demo", "--keep")
    assert demo.stdout
    shown = ""
    while "# Then, to begin with:\n" not in shown:
        shown += demo.stdout.readline()
    commands = [shlex.split(demo.stdout.readline())[1:] for _ in range(3)]
    variables: dict[str, str | None] = {
        name: shlex.split(value)[0] for name, value in re.findall(r"export (\w+)=(.*)", shown)
    }
    for words in commands:
        docora.run(*words, env=variables).ended(0)
    finish(demo, SIGINT).ended(0)
    assert not Path(str(variables["REPOS_BASE_PATH"])).parent.exists()
    assert docora.dump() == before
