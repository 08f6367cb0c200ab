"""CONTRIBUTING tells the way of one retry as the code goes it."""

import re
import sys
from pathlib import Path

from tests.support.docora import Docora, finish

# Runs a command, and prints each function of the package that it enters, in the order of their
# first calls, as `file.py: name`.
TRACE = """
import sys
from pathlib import Path
import docora_ops.__main__
from docora_ops.cli.app import run

package = Path(docora_ops.__file__).parent
entered = {}

def note(frame, event, _):
    if event == "call":
        entered.setdefault(frame.f_code)

sys.setprofile(note)
code = run(sys.argv[1:])
sys.setprofile(None)
for function in entered:
    file = Path(function.co_filename)
    if file.is_relative_to(package):
        print(f"{file.relative_to(package)}: {function.co_qualname}", file=sys.stderr)
sys.exit(code)
"""


def test_the_way_of_one_retry_is_true_to_the_code(docora: Docora, repository_root: Path) -> None:
    """To update the list: what this command entered stands in the failed assertion."""
    text = (repository_root / ".github" / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text.partition("## The way of one retry")[2].partition("\n## ")[0]
    doors = re.findall(r"^\d+\. `(\S+\.py: [\w.]+)`", section, re.MULTILINE)
    assert len(doors) > 10
    link = docora.add_link()
    retry = finish(docora.start_program(sys.executable, "-c", TRACE, "retry", *link.ids))
    assert docora.was_reset(link)
    entered = retry.stderr.splitlines()
    assert [door for door in entered if door in doors] == doors, retry.stderr
