"""README, CONTRIBUTING, SECURITY and the topics, and the command lines in them."""

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import typer.main

from docora_ops.cli.app import app

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
HELP = ROOT / "docora_ops" / "help"
INDEX = HELP / "README.md"
TOPICS = {file.stem: file for file in sorted(HELP.glob("*.md")) if file != INDEX}
OF_GITHUB = (ROOT / ".github" / name for name in ("CONTRIBUTING.md", "SECURITY.md"))
ALL = (README, INDEX, *OF_GITHUB, *TOPICS.values())

_AFTER = re.compile(r"\s(?:\d?>|[|;&#])|[;)\"]|: ")
"""What ends a command within a line of a shell."""
_PLACEHOLDERS = {"COMMAND", "NAME", "TOPIC", "…"}


def read(file: Path) -> str:
    return file.read_text(encoding="utf-8")


def topic(name: str) -> str:
    return read(TOPICS[name])


@cache
def group() -> Any:
    """Returns Typer's own object of the whole, so that a new command or option is seen."""
    return typer.main.get_command(app)


def command_lines(text: str) -> Iterator[list[str]]:
    """Yields the arguments of each complete docora-ops command in code."""
    code = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    code += re.findall(r"`(docora-ops [^`\n]+)`", text)
    for line in "\n".join(code).splitlines():
        for call in re.findall(
            r"(?<![\w/.-])(?<!SETUSER )(?:/usr/local/bin/)?docora-ops( .*)", line
        ):
            words = shlex.split(_AFTER.split(call)[0])
            if not words[0].startswith("--") and not _PLACEHOLDERS & set(words):
                yield [word for word in words if word != "[OPTIONS]"]
