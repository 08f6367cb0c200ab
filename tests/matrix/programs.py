"""Finds the Pythons and servers that are installed on the machine."""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

FOLDERS = (
    "/usr/local/bin",
    "/usr/bin",
    "/usr/lib/postgresql/*/bin",
    "/usr/local/pgsql*/bin",
    "~/.pyenv/versions/*/bin",
    "~/.local/share/uv/python/*/bin",
)
"""Searched after PATH."""


@dataclass(frozen=True)
class Program:
    """An installed program."""

    product: str
    version: tuple[int, ...]
    path: Path

    @property
    def name(self) -> str:
        return f"{self.product} {'.'.join(map(str, self.version))}"


def find(command: str, product: str, pattern: str) -> list[Program]:
    """Finds one program of each version, the oldest first; `pattern` finds the version."""
    folders = os.get_exec_path()
    for glob in FOLDERS:
        path = Path(glob).expanduser()
        folders += sorted(str(folder) for folder in Path("/").glob(str(path.relative_to("/"))))
    found: dict[tuple[int, ...], Program] = {}
    for folder in folders:
        executable = shutil.which(command, path=folder)
        version = re.search(pattern, _version(executable)) if executable else None
        if executable and version:
            numbers = tuple(map(int, version[1].split(".")))
            found.setdefault(numbers, Program(product, numbers, Path(executable)))
    return [found[version] for version in sorted(found)]


def _version(executable: str) -> str:
    """Returns what a program prints for --version, or an empty text if it can't be run."""
    try:
        return subprocess.check_output(
            [executable, "--version"], stderr=subprocess.DEVNULL, text=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError):
        return ""
