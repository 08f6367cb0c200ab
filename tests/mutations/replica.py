"""The mutations of catalogue.txt, and copies of the project to apply them to.

A copy has a Python of its own, which imports docora_ops from the copy alone.
"""

import ast
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Container, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.support.proxy import patience

ROOT = Path(__file__).parent.parent.parent
CATALOGUE = Path(__file__).with_name("catalogue.txt")


@dataclass(frozen=True)
class Mutation:
    """One change of a text in one file, and the names of the tests that must fail for it."""

    name: str
    promise: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def apply(self, root: Path) -> None:
        path = root / self.file
        path.write_text(path.read_text("utf-8").replace(self.old, self.new), encoding="utf-8")

    def problem(self, known_tests: Container[str]) -> str:
        """Returns why the mutation can't be used, or an empty text."""
        path = ROOT / self.file
        if not path.exists():
            return f"there is no {self.file}"
        source = path.read_text("utf-8")
        if (count := source.count(self.old)) != 1:
            return f"the old text stands {count} times in {self.file}"
        if path.suffix == ".py":
            try:
                ast.parse(source.replace(self.old, self.new))
            except SyntaxError as error:
                return f"the new text makes {self.file} unreadable: {error}"
        unknown = [test for test in self.tests if test not in known_tests]
        return f"there is no test {', '.join(unknown)}" if unknown or not self.tests else ""


def read_mutations() -> list[Mutation]:
    mutations = []
    promise = ""
    for paragraph in CATALOGUE.read_text("utf-8").strip().split("\n\n"):
        if paragraph.startswith("# "):
            promise = paragraph.removeprefix("# ").partition(":")[0]
            continue
        name, file, *lines = paragraph.splitlines()
        old, new = (
            "\n".join(line.removeprefix(mark) for line in lines if line.startswith(mark))
            for mark in ("- ", "+ ")
        )
        tests = tuple(line for line in lines if line.startswith("test_"))
        mutations.append(Mutation(name, promise, file, old, new, tests))
    return mutations


def find_tests() -> dict[str, list[str]]:
    ids: dict[str, list[str]] = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for name in re.findall(r"^def (test_\w+)", path.read_text("utf-8"), re.MULTILINE):
            ids.setdefault(name, []).append(f"{path.relative_to(ROOT)}::{name}")
    return ids


_COPIED = ("docora_ops", "tests", "pyproject.toml", "README.md", "Makefile", "requirements.lock")


class TestRunError(Exception):
    """The tests could not be run to their end."""


class Replica:
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
        # Each copy starts its own servers. A test that is skipped can kill no mutation.
        env = {name: value for name, value in os.environ.items() if not name.startswith("TEST_")}
        with subprocess.Popen(
            [self._python, "-m", "pytest", *options, *tests],
            cwd=self.project,
            env=env | {"TEST_REQUIRE_TOOLS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as process:
            limit = 10 * patience()
            try:
                output, _ = process.communicate(timeout=limit)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGINT)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(patience())  # until it has stopped its servers
                raise TestRunError(f"the tests did not end within {limit:.0f} s") from None
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
