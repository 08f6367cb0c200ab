"""A copy of the project, with a Python of its own to which no other docora_ops is known."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
_COPIED = ("docora_ops", "tests", "pyproject.toml", "README.md", "Makefile", "requirements.lock")
_IMPORT_ALL = """
import importlib, pkgutil, docora_ops
for module in pkgutil.walk_packages(docora_ops.__path__, "docora_ops."):
    if module.name != "docora_ops.__main__":
        importlib.import_module(module.name)
"""
_PATIENCE = 300
"""Seconds for a run of tests."""
_PATIENCE_TO_END = 20


@dataclass(frozen=True)
class TestRun:
    """How a run of tests has ended."""

    __test__ = False

    failed: str | None
    """The id of the first test that failed."""
    trouble: str = ""
    """Why nothing can be said: the tests could not be run."""


class Replica:
    """The project once more, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.project = folder / "project"
        self.project.mkdir()
        for name in _COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, self.project / name)
            else:
                shutil.copy2(source, self.project / name)
        self._make_environment(folder / "venv")

    def import_all(self) -> str:
        """Import every module; returns what went wrong, if anything did."""
        done = self._run(str(self._python), "-c", _IMPORT_ALL)
        return done.stderr.strip().splitlines()[-1] if done.returncode else ""

    def require_isolation(self) -> None:
        """Exit unless tests and installed command run what was copied, and nothing else."""
        for arguments in (self._python, "-c", _IMPORT_ALL), (self._command, "retry", "--help"):
            told = self._run(*map(str, arguments), PYTHONVERBOSE="1").stderr
            if f"{self.project}/docora_ops/" not in told or f"{ROOT}/docora_ops/" in told:
                sys.exit(f"{arguments[0]} does not run the copy of docora_ops")

    def test(self, tests: Sequence[str]) -> TestRun:
        """Run these tests, in this order, until one fails."""
        options = ("-x", "-q", "-p", "no:randomly", "-p", "no:cacheprovider")
        with subprocess.Popen(
            [self._python, "-m", "pytest", *options, *tests],
            cwd=self.project,
            env=_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                output, _ = process.communicate(timeout=_PATIENCE)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGINT)  # so that it ends its servers
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_PATIENCE_TO_END)
                return TestRun(None, f"no end after {_PATIENCE} s")
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        if process.returncode == 0:
            return TestRun(None)
        for line in output.splitlines():
            outcome, _, rest = line.partition(" ")
            # Lines of a captured log begin with ERROR too.
            if outcome in {"FAILED", "ERROR"} and rest.startswith("tests/") and "::" in rest:
                return TestRun(rest.partition(" - ")[0])
        return TestRun(None, (output.strip().splitlines() or ["no output"])[-1])

    def _run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            arguments,
            cwd=self._folder,
            env=os.environ | environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def _make_environment(self, path: Path) -> None:
        """The packages of the Python that runs this, without its editable docora_ops.

        The .pth file of that is not read in a folder that a .pth file names.
        """
        venv.create(path, symlinks=True)
        self._python = path / "bin" / "python"
        packages = sysconfig.get_path("purelib", vars={"base": str(path), "platbase": str(path)})
        lines = (str(self.project), *dict.fromkeys(map(sysconfig.get_path, ("purelib", "platlib"))))
        Path(packages, "replica.pth").write_text("\n".join(lines), encoding="utf-8")
        for name in ("docora-ops", "rq"):
            script = Path(sys.executable).with_name(name).read_text("utf-8")
            copy = path / "bin" / name
            copy.write_text(f"#!{self._python}\n{script.partition(chr(10))[2]}", encoding="utf-8")
            copy.chmod(0o755)
        self._command = path / "bin" / "docora-ops"


def _environment() -> dict[str, str]:
    """Each copy starts servers of its own: on the same ones they would end their sessions."""
    return {name: value for name, value in os.environ.items() if not name.startswith("TEST_")}
