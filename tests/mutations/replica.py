"""A copy of the project with a Python of its own, which imports docora_ops from the copy alone."""

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tests.mutations.catalogue import ROOT

_COPIED = ("docora_ops", "tests", "pyproject.toml", "README.md", "Makefile", "requirements.lock")
_TIMEOUT = 300
"""Seconds for one run of tests."""
_END_TIMEOUT = 20
"""Seconds that pytest has to stop its servers."""


class TestRunError(Exception):
    """The tests could not be run to their end."""


class Replica:
    """A copy of the project in a new folder."""

    def __init__(self, folder: Path) -> None:
        self.project = folder / "project"
        self.project.mkdir()
        for name in _COPIED:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
            copy(ROOT / name, self.project / name)
        self._python = _make_environment(folder / "venv", self.project)

    def first_failure(self, tests: Sequence[str]) -> str:
        """Runs the tests in this order until one fails.

        Returns its id, or an empty text if all pass. Raises TestRunError.
        """
        # Without the seed among the options of the project, which the plug-in would have to know.
        added = "addopts=--import-mode=importlib --hypothesis-profile=fixed"
        options = ("-x", "-q", "-p", "no:randomly", "-p", "no:cacheprovider", "-o", added)
        with subprocess.Popen(
            [self._python, "-m", "pytest", *options, *tests],
            cwd=self.project,
            # Each copy starts its own servers.
            env={name: value for name, value in os.environ.items() if not name.startswith("TEST_")},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                output, _ = process.communicate(timeout=_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGINT)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_END_TIMEOUT)
                raise TestRunError(f"the tests did not end within {_TIMEOUT} s") from None
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        if process.returncode == 0:
            return ""
        for line in output.splitlines():
            outcome, _, rest = line.partition(" ")
            # Lines of a captured log begin with ERROR too.
            if outcome in {"FAILED", "ERROR"} and rest.startswith("tests/") and "::" in rest:
                return rest.partition(" - ")[0]
        raise TestRunError((output.strip().splitlines() or ["pytest printed nothing"])[-1])


def _make_environment(folder: Path, project: Path) -> Path:
    """Makes an environment with the project and all packages of this one; returns its Python.

    A .pth file names the packages of this environment. Python does not read the .pth files in
    there, so that the editable docora_ops of this environment stays unknown.
    """
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    packages = sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)})
    paths = (str(project), *dict.fromkeys(map(sysconfig.get_path, ("purelib", "platlib"))))
    Path(packages, "replica.pth").write_text("\n".join(paths), encoding="utf-8")
    for name in ("docora-ops", "rq"):
        script = Path(sys.executable).with_name(name).read_text("utf-8")
        copy = folder / "bin" / name
        copy.write_text(f"#!{python}\n{script.partition(chr(10))[2]}", encoding="utf-8")
        copy.chmod(0o755)
    return python
