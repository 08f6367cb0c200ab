"""The workflows on GitHub run what a person runs, and a release publishes what was checked."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.release.pythons import VERSIONS


@pytest.fixture
def folder(repository_root: Path) -> Path:
    return repository_root / ".github" / "workflows"


def jobs(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))["jobs"]
    return found


def test_the_workflows_run_targets_of_the_makefile(folder: Path, repository_root: Path) -> None:
    makefile = (repository_root / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+): .*## ", makefile, re.MULTILINE))
    runs = [
        step["run"]
        for file in sorted(folder.iterdir())
        for job in jobs(file).values()
        for step in job.get("steps", ())
        # The names of an image and the release on GitHub are GitHub's.
        if "run" in step and step.get("id") not in {"names", "release"}
    ]
    assert {"make lint", "make test-all", "make demo", "make audit", "make release-check"} <= {
        *runs
    }
    assert [run for run in runs if run.removeprefix("make ") not in targets] == []


def test_each_supported_python_is_declared_and_checked(folder: Path, repository_root: Path) -> None:
    classified = re.findall(
        r'"Programming Language :: Python :: (3\.\d+)"',
        (repository_root / "pyproject.toml").read_text(encoding="utf-8"),
    )
    checked = jobs(folder / "check.yml")["test"]["strategy"]["matrix"]["python"]
    [installed] = [
        step["with"]["python-version"].split()
        for step in jobs(folder / "release.yml")["build"]["steps"]
        if "setup-python" in step.get("uses", "")
    ]
    assert classified == checked == installed == [*VERSIONS]


def test_only_what_was_checked_and_built_is_published(folder: Path) -> None:
    of_release = jobs(folder / "release.yml")
    assert of_release["attest"]["needs"] == ["check", "build"]
    publishing = {name for name, job in of_release.items() if job.get("needs") == "attest"}
    assert publishing == {"github", "image", "pypi"}
    assert "tag" in jobs(folder / "image.yml")["publish"]["if"]
    for name, job in of_release.items():
        may_write = "write" in job["permissions"].values()
        assert may_write == (name in {*publishing, "attest"}), name
