"""`make matrix`: the tests with each server, Python and set of dependencies that the machine has.

One thing at a time is changed from what `make test` runs with, and at last each is the oldest there
is. Environments and logs are kept in `.matrix/`.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from tests.matrix import found
from tests.matrix.found import Program
from tests.support.pgbouncer import PROGRAM as PGBOUNCER

ROOT = Path(__file__).parent.parent.parent
MATRIX = ROOT / ".matrix"
UV = Path(sys.executable).parent / "uv"
POOL_MODES = ("transaction", "session")
POOLED = [
    "tests/bulk/test_retry_all_failed.py",
    *(f"tests/{name}/test_{name}.py" for name in ("repair", "resync", "retry", "schedule")),
]
"""What may run through a PgBouncer: others look at the sessions of commands, or end them."""
COUNTS = ("passed", "failed", "skipped", "error")


@dataclass(frozen=True)
class Combination:
    """What the tests run with; None stands for what comes embedded in a package."""

    python: str
    executable: Path
    lowest: bool = False
    """The lowest versions that pyproject.toml allows, instead of those of requirements.lock."""
    postgres: Program | None = None
    redis: Program | None = None
    pool_mode: str | None = None
    """Of a PgBouncer between commands and Postgres."""

    @property
    def name(self) -> str:
        parts = [
            self.postgres.name if self.postgres else "embedded PostgreSQL",
            self.redis.name if self.redis else "embedded Valkey",
            f"Python {self.python}",
            "lowest" if self.lowest else "locked",
            *([f"PgBouncer, pool_mode {self.pool_mode}"] if self.pool_mode else []),
        ]
        return ", ".join(parts)

    @property
    def environment(self) -> Path:
        """The folder of its Python."""
        return MATRIX / f"python{self.python}-{'lowest' if self.lowest else 'locked'}"


def combinations() -> Iterator[Combination]:
    """The default first, the oldest of all last."""
    pythons = found.pythons()
    postgres, redis = found.postgres_servers(), found.redis_servers()
    own = "{}.{}".format(*sys.version_info)
    default = Combination(own, pythons.get(own, Path(sys.executable)))
    yield default
    for each in postgres:
        yield replace(default, postgres=each)
    for each in redis:
        yield replace(default, redis=each)
    for mode in POOL_MODES if PGBOUNCER else ():
        yield replace(default, pool_mode=mode)
    for version, executable in pythons.items():
        if version != own:
            yield replace(default, python=version, executable=executable)
    yield replace(default, lowest=True)
    if postgres and redis and pythons:
        python, executable = next(iter(pythons.items()))
        yield Combination(python, executable, True, postgres[0], redis[0])


def lacking() -> Iterator[str]:
    """What would have been tested, were it there."""
    for version in sorted(set(found.PYTHONS) - set(found.pythons())):
        yield f"Python {version}"
    if not found.postgres_servers():
        yield "a PostgreSQL of the system, as Debian's postgresql"
    if not PGBOUNCER:
        yield "a PgBouncer of the system, as Debian's pgbouncer"
    products = {program.product for program in found.redis_servers()}
    for product, package in (("Redis", "redis-server"), ("Valkey", "valkey-server")):
        if product not in products:
            yield f"a {product} of the system, as Debian's {package}"


def prepare(combination: Combination) -> None:
    """Make its environment, or bring it up to date. Raises CalledProcessError."""
    folder = combination.environment
    pip = [str(UV), "pip"]
    python = ["--python", str(folder / "bin" / "python")]
    requirements = ROOT / "requirements.lock"
    if not (folder / "bin" / "python").exists():
        _run(
            [
                str(UV),
                "venv",
                "--quiet",
                "--clear",
                "--python",
                str(combination.executable),
                str(folder),
            ]
        )
    if combination.lowest:
        requirements = folder / "requirements.txt"
        requirements.unlink(missing_ok=True)  # or it would be kept to, as far as it may be
        _run(
            [
                *(*pip, "compile", "--quiet", "--extra", "dev", "--resolution", "lowest-direct"),
                *("--python-version", combination.python, "pyproject.toml"),
                *("--output-file", str(requirements)),
            ]
        )
    _run([*pip, "sync", "--quiet", *python, "--compile-bytecode", str(requirements)])
    editable = ["--offline", "--no-deps", "--no-build-isolation", "--editable", "."]
    _run([*pip, "install", "--quiet", *python, *editable])


def _run(command: list[str]) -> None:
    subprocess.run(command, cwd=ROOT, check=True)


def run_tests(combination: Combination, number: int, arguments: list[str]) -> tuple[str, bool]:
    """How it went, in a few words, and whether all is well."""
    log = MATRIX / f"{number}.log"
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("TEST_")
    }
    if combination.postgres:
        environment["TEST_POSTGRES_BIN"] = str(combination.postgres.path.parent)
    if combination.redis:
        environment["TEST_REDIS_SERVER"] = str(combination.redis.path)
    if combination.pool_mode:
        environment["TEST_POOL_MODE"] = combination.pool_mode
        arguments = [*POOLED, *arguments]
    started = time.monotonic()
    with log.open("w") as output:
        code = subprocess.run(
            [str(combination.environment / "bin" / "python"), "-m", "pytest", "-q", *arguments],
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        ).returncode
    lines = log.read_text(errors="replace").splitlines()
    found_counts = {
        what.rstrip("s"): count
        for count, what in re.findall(r"(\d+) ([a-z]+)", lines[-1] if lines else "")
    }
    counts = ", ".join(f"{found_counts.get(name, 0)} {name}" for name in COUNTS)
    for line in lines:
        if line.startswith(("FAILED", "ERROR", "SUBFAILED")):
            print(f"   {line}", flush=True)
    return f"{counts}, {time.monotonic() - started:.0f} s, {log.relative_to(ROOT)}", code == 0


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="make matrix ARGS=…",
        description=__doc__,
        epilog="What else there is, pytest is given.",
        allow_abbrev=False,
    )
    parser.add_argument("--list", action="store_true", help="only say what would be run")
    parser.add_argument(
        "--only", action="append", metavar="TEXT", help="only this number, or with this text"
    )
    options, arguments = parser.parse_known_args()
    chosen = [
        (number, each)
        for number, each in enumerate(combinations(), 1)
        if not options.only
        or str(number) in options.only
        or any(text in each.name for text in options.only if not text.isdecimal())
    ]
    MATRIX.mkdir(exist_ok=True)
    table: list[str] = []
    is_well = True
    for number, each in chosen:
        print(f"{number}. {each.name}", flush=True)
        if options.list:
            continue
        try:
            prepare(each)
        except subprocess.CalledProcessError:
            outcome, passed = "its environment can't be made", False
        else:
            outcome, passed = run_tests(each, number, arguments or ["-n", "4"])
        is_well = is_well and passed
        table.append(f"{'ok    ' if passed else 'FAILED'} {number}. {each.name}: {outcome}")
    print("\n".join(["", *table, *(f"lacked {what}" for what in lacking())]))
    return 0 if is_well else 1


if __name__ == "__main__":
    sys.exit(main())
