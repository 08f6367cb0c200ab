"""What the machine has: Pythons, PostgreSQLs, Redises."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

PYTHONS = ("3.11", "3.12", "3.13")


@dataclass(frozen=True)
class Program:
    """A program, with its version."""

    path: Path
    product: str
    version: tuple[int, ...]

    @property
    def name(self) -> str:
        return f"{self.product} {'.'.join(map(str, self.version))}"


def pythons() -> dict[str, Path]:
    """Of each minor version that is wanted the first interpreter that runs, if there is one."""
    found: dict[str, Path] = {}
    for wanted in PYTHONS:
        for candidate in _candidates(f"python{wanted}"):
            code = "import sys, venv; print('%d.%d' % sys.version_info[:2])"
            if _output(candidate, "-c", code).strip() == wanted:
                found[wanted] = candidate
                break
    return found


def postgres_servers() -> list[Program]:
    """PostgreSQLs of the system, with initdb and pg_ctl beside the server."""
    found = []
    for server in _candidates("postgres"):
        folder = server.resolve().parent
        if not all((folder / name).exists() for name in ("initdb", "pg_ctl")):
            continue
        program = _program(server.resolve(), "PostgreSQL", r"\) (\d+(?:\.\d+)*)")
        if program:
            found.append(program)
    return _distinct(found)


def redis_servers() -> list[Program]:
    """Redis and Valkey of the system."""
    found = []
    for name, product in (("redis-server", "Redis"), ("valkey-server", "Valkey")):
        for server in _candidates(name):
            # One may be a link to the other.
            program = _program(server, product, rf"{product} server v=(\d+(?:\.\d+)*)")
            if program:
                found.append(program)
    return _distinct(found)


def _candidates(name: str) -> list[Path]:
    """Where a program of this name may be."""
    folders = [
        *os.get_exec_path(),
        *("/usr/local/bin", "/usr/bin"),
        *sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin"))),
        *sorted(map(str, Path("/usr/local").glob("pgsql*/bin"))),
        *sorted(map(str, Path("~/.pyenv/versions").expanduser().glob("*/bin"))),
        *sorted(map(str, Path("~/.local/share/uv/python").expanduser().glob("*/bin"))),
    ]
    paths = (shutil.which(name, path=folder) for folder in dict.fromkeys(folders))
    return [Path(path) for path in paths if path]


def _program(path: Path, product: str, pattern: str) -> Program | None:
    version = re.search(pattern, _output(path, "--version"))
    if version is None:
        return None
    return Program(path, product, tuple(int(number) for number in version[1].split(".")))


def _distinct(programs: Iterable[Program]) -> list[Program]:
    """One of each version, the oldest first."""
    by_name = {program.name: program for program in programs}
    return sorted(by_name.values(), key=lambda program: program.version)


def _output(program: Path, *arguments: str) -> str:
    """What it prints; nothing if it can't be run."""
    try:
        result = subprocess.run(
            [str(program), *arguments], capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return result.stdout
