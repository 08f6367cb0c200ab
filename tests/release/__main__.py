"""`make release-check`: does all of a release that can be done without publishing it.

Leaves wheel, sdist, SBOM and the notes of the release in `dist/`. Refuses a release that lacks what
must be written by hand: for a tag at once, else after all that can be built and tried.
"""

import filecmp
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from docora_ops import __version__
from tests.release.pythons import VERSIONS, pythons
from tests.release.written_by_hand import lacking, notes

ROOT = Path(__file__).parents[2]
DIST = ROOT / "dist"
WHEEL = f"docora_ops-{__version__}-py3-none-any.whl"
SDIST = f"docora_ops-{__version__}.tar.gz"
SBOM = "docora-ops.cdx.json"
TWINE = "twine==7.0.0"
CYCLONEDX = "cyclonedx-bom==7.5.0"


def run(*command: str | Path, cwd: Path = ROOT, code: int = 0) -> str:
    """Returns what the command prints. Exits if it ends with another code."""
    done = subprocess.run(command, cwd=cwd, text=True, capture_output=True, check=False)
    if done.returncode != code:
        print(done.stdout, done.stderr, sep="\n")
        sys.exit(f"{' '.join(map(str, command))}: exit code {done.returncode} instead of {code}")
    return done.stdout + done.stderr


def tool(name: str) -> Path:
    return Path(sys.executable).with_name(name)


def uv_tool(package: str, *command: str | Path) -> None:
    run(tool("uv"), "tool", "run", "--quiet", "--from", package, *command)


def build_twice() -> None:
    """Builds here, and once more from the sdist, elsewhere and with another umask."""
    hatchling = (tool("hatchling"), "build", "-t", "sdist", "-t", "wheel", "-d")
    run(*hatchling, DIST)
    with TemporaryDirectory() as folder, tarfile.open(DIST / SDIST) as sdist:
        sdist.extractall(folder, filter="data")
        umask = os.umask(0o077)
        run(*hatchling, Path(folder) / "dist", cwd=Path(folder) / SDIST.removesuffix(".tar.gz"))
        os.umask(umask)
        for name in (WHEEL, SDIST):
            if not filecmp.cmp(DIST / name, Path(folder) / "dist" / name, shallow=False):
                sys.exit(f"{name} differs when it is built from the sdist")
    uv_tool(TWINE, "twine", "check", "--strict", DIST / WHEEL, DIST / SDIST)


def try_wheel(python: Path, extra: str, environment: Path) -> None:
    """Installs the wheel with the newest versions of what it needs, and runs it."""
    run(tool("uv"), "venv", "--clear", "--python", python, environment)
    of_environment = ("--quiet", "--python", environment)
    run(tool("uv"), "pip", "install", *of_environment, f"{DIST / WHEEL}{extra}")
    run(tool("uv"), "pip", "check", *of_environment)
    command = environment / "bin" / "docora-ops"
    if run(command, "--version") != f"docora-ops {__version__}\n":
        sys.exit(f"{command} has another version than {__version__}")
    for words in ("help", "help changelog", "status --help"):
        run(command, *words.split())
    has_demo = extra == "[demo]"
    said = run(command, "demo", code=0 if has_demo else 2)
    if not has_demo and "[demo]" not in said:
        sys.exit(f"demo does not say what it needs: {said}")


def try_sdist(folder: Path) -> None:
    """Runs the tests from the unpacked sdist, in an environment of its own."""
    with tarfile.open(DIST / SDIST) as sdist:
        sdist.extractall(folder, filter="data")
    run("make", "test", cwd=folder / SDIST.removesuffix(".tar.gz"))


def not_yet_written() -> list[str]:
    """Writes the notes of the release. Returns what must be written by hand, and is not."""
    metadata = json.loads(run(tool("hatchling"), "metadata"))
    changelog = (ROOT / "docora_ops" / "help" / "changelog.md").read_text(encoding="utf-8")
    DIST.mkdir(exist_ok=True)
    (DIST / "notes.md").write_text(notes(changelog, __version__) + "\n", encoding="utf-8")
    return list(lacking(metadata, changelog))


def unfit(tag: str) -> Iterator[str]:
    """Yields why this commit can't be released with this tag."""
    if tag != f"v{__version__}":
        yield f"the tag is {tag}, and __version__ is {__version__}"


def main() -> None:
    shutil.rmtree(DIST, ignore_errors=True)
    problems = not_yet_written()
    if os.environ.get("GITHUB_REF_TYPE") == "tag" and (
        problems := [*unfit(os.environ["GITHUB_REF_NAME"]), *problems]
    ):
        sys.exit("\n".join(problems))
    print(f"build {SDIST} and {WHEEL} twice, and compare", flush=True)
    build_twice()
    with TemporaryDirectory() as folder:
        print(f"make test, in {SDIST}", flush=True)
        try_sdist(Path(folder))
        environment = Path(folder) / "environment"
        for version, python in pythons().items():
            for extra in ("", "[worker]", "[demo]"):
                print(f"Python {version}: docora-ops{extra}", flush=True)
                try_wheel(python, extra, environment)
        print(f"list what it brings along: {SBOM}", flush=True)
        try_wheel(Path(sys.executable), "[worker]", environment)
        output = ("--pyproject", "pyproject.toml", "--output-reproducible", "-o", DIST / SBOM)
        of_wheel = environment / "bin" / "python"
        uv_tool(CYCLONEDX, "cyclonedx-py", "environment", *output, of_wheel)
        bom = json.loads((DIST / SBOM).read_text(encoding="utf-8"))
        bom["metadata"]["component"]["version"] = __version__  # which pyproject.toml does not name
        (DIST / SBOM).write_text(json.dumps(bom, indent=1), encoding="utf-8")
    missing = [version for version in VERSIONS if version not in pythons()]
    print(f"Pythons that are not installed: {', '.join(missing) or 'none'}")
    if problems:
        sys.exit("\n".join(["not ready to be released:", *problems]))


if __name__ == "__main__":
    main()
