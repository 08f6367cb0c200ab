"""The Pythons of this machine."""

import os
import shutil
import subprocess
from pathlib import Path

VERSIONS = ("3.11", "3.12", "3.13", "3.14")
"""All that docora-ops supports."""
_BELOW_HOME = (".pyenv/versions/*/bin", ".local/share/uv/python/*/bin")


def pythons() -> dict[str, Path]:
    """Returns one Python of each supported version that is installed."""
    below_home = [str(each) for glob in _BELOW_HOME for each in Path.home().glob(glob)]
    found: dict[str, Path] = {}
    for version in VERSIONS:
        for folder in (*os.get_exec_path(), *below_home):
            program = shutil.which(f"python{version}", path=folder)
            # A shim of pyenv fails where its Python is not switched on.
            if program and _runs(program):
                found.setdefault(version, Path(program))
    return found


def _runs(program: str) -> bool:
    done = subprocess.run([program, "--version"], capture_output=True, check=False)
    return done.returncode == 0
