"""Reads catalogue.txt: the mutations, each with the promise that it breaks and the tests for it."""

import ast
import re
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path

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
        """Changes the file under this folder."""
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
    """Reads all mutations, in the order of the catalogue."""
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
    """Returns the ids for pytest of the tests of the project, by their names."""
    ids: dict[str, list[str]] = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for name in re.findall(r"^def (test_\w+)", path.read_text("utf-8"), re.MULTILINE):
            ids.setdefault(name, []).append(f"{path.relative_to(ROOT)}::{name}")
    return ids
