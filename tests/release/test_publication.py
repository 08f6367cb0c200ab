"""What is published leads somewhere, is complete, and names the right version."""

import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from docora_ops import __version__
from tests.release.written_by_hand import ADDRESSES, lacking, notes, targets

SOURCE = "https://github.example/octo/ops"
CHANGELOG = f"# Changelog\n\n## [{__version__}] - 2026-12-01\n\n### Added\n\n- All.\n"


def hatchling(*arguments: str, folder: Path) -> str:
    command = [sys.executable, "-m", "hatchling", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout


def metadata(folder: Path) -> Any:
    return json.loads(hatchling("metadata", folder=folder))


@pytest.fixture
def project(repository_root: Path, tmp_path: Path) -> Path:
    """What the metadata are made of, with all that only the publisher knows."""
    for name in ("LICENSE", "README.md", "docora_ops/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(repository_root / name, tmp_path / name)
    text = (repository_root / "pyproject.toml").read_text(encoding="utf-8")
    for name in ADDRESSES:
        text = text.replace(f'\n{name} = ""\n', f'\n{name} = "{SOURCE}"\n')
    text = text.replace("\nauthors = []\n", '\nauthors = [{ name = "Octo" }]\n')
    for kind in ("raw", "blob"):
        text = text.replace(f"'](/{kind}/", f"']({SOURCE}/{kind}/")
    (tmp_path / "pyproject.toml").write_text(text, encoding="utf-8")
    return tmp_path


def test_readme_on_pypi_leads_to_files_of_its_version(project: Path, repository_root: Path) -> None:
    readme = metadata(project)["readme"]["text"]
    written = targets((repository_root / "README.md").read_text(encoding="utf-8"))
    assert len(written) > 15
    kinds = {True: "raw", False: "blob"}
    assert targets(readme) == [
        target
        if target.startswith("https://")
        else f"{SOURCE}/{kinds[target.endswith('.svg')]}/v{__version__}/{target}"
        for target in written
    ]
    assert list(lacking(metadata(project), CHANGELOG)) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("pyproject.toml", f'\nIssues = "{SOURCE}"\n', '\nIssues = ""\n', "has no Issues "),
        ("pyproject.toml", '{ name = "Octo" }', "", "no authors"),
        ("pyproject.toml", f"']({SOURCE}/raw/", "'](/raw/", "a relative link: /raw/"),
        ("pyproject.toml", f"']({SOURCE}/blob/", "'](https://else.example/", "begin with Source"),
        ("README.md", "# docora-ops\n", "# docora-ops\n[a](/b)\n", "a relative link: /b"),
    ],
)
def test_a_release_check_asks_for_what_is_not_given(
    project: Path, file: str, old: str, new: str, said: str
) -> None:
    text = (project / file).read_text(encoding="utf-8")
    assert old in text
    (project / file).write_text(text.replace(old, new), encoding="utf-8")
    problems = list(lacking(metadata(project), CHANGELOG))
    assert problems
    assert any(said in problem for problem in problems), problems


def test_the_notes_of_a_release_are_its_section_of_the_changelog() -> None:
    older = "## [0.0.9] - 2026-11-01\n\n- Older.\n"
    assert notes(f"{CHANGELOG}\n{older}", __version__) == "### Added\n\n- All."
    for other in (CHANGELOG.replace("2026-12-01", "unreleased"), f"# C\n\n{older}"):
        assert notes(other, __version__) == ""


@pytest.mark.slow
def test_the_sdist_has_all_that_make_test_needs(repository_root: Path, tmp_path: Path) -> None:
    hatchling("build", "-t", "sdist", "-d", str(tmp_path), folder=repository_root)
    [sdist] = tmp_path.iterdir()
    with tarfile.open(sdist) as opened:
        packed = {Path(*Path(name).parts[1:]) for name in opened.getnames()}
    wanted = {
        file.relative_to(repository_root)
        for folder in (".github", "docora_ops", "tests")
        for file in (repository_root / folder).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    wanted |= {Path(name) for name in ("LICENSE", "Makefile", "README.md", "requirements.lock")}
    assert wanted - packed == set()


def test_an_older_image_takes_no_name_of_a_newer_one(repository_root: Path, tmp_path: Path) -> None:
    git = ("git", "-c", "user.name=a", "-c", "user.email=a@example.com")
    for command in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "a"]):
        subprocess.run([*git, *command], cwd=tmp_path, check=True)
    for tag, version, names in (
        ("v0.1.0", "0.1.0", ["0.1.0", "0.1", "latest"]),
        ("v0.2.0rc1", "0.1.0", ["0.1.0", "0.1", "latest"]),
        ("v0.1.10", "0.2.0rc1", ["0.2.0rc1"]),
        ("v0.1.9", "0.1.10", ["0.1.10", "0.1", "latest"]),
        ("v0.2.0", "0.1.10", ["0.1.10", "0.1"]),
        ("v0.10.0", "0.1.0", ["0.1.0"]),
    ):
        subprocess.run([*git, "tag", tag], cwd=tmp_path, check=True)
        program = ["sh", f"{repository_root}/.github/image/tags.sh", "ghcr.io/octo/ops", version]
        printed = subprocess.check_output(program, cwd=tmp_path, text=True)
        assert printed.splitlines() == [f"ghcr.io/octo/ops:{name}" for name in names]
