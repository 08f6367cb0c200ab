"""`make mutants`: break each promise on purpose, one at a time, and see that some test fails.

Nothing of it touches the package itself: each change is made to a copy.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.mutations.catalogue import MUTATIONS
from tests.mutations.mutation import Mutation, Tests
from tests.mutations.replica import ROOT, Replica

HEALTHY = (
    "test_a_retried_link_really_gets_its_files",
    "test_the_order_holds_however_rows_lie_in_the_table",
    "test_many_are_mended_in_batches_and_keep_their_places",
)
"""A change that these notice breaks everything: it says nothing about the promise."""
ASIDE = {"benchmarks", "chaos", "help", "matrix", "mutations", "settings", "support"}
WIDER = tuple(
    f"tests/{folder.name}"
    for folder in sorted((ROOT / "tests").iterdir())
    if folder.is_dir() and folder.name not in {*ASIDE, "__pycache__"}
)


@dataclass(frozen=True)
class Verdict:
    """What became of one mutation."""

    mutation: Mutation
    killer: str | None
    """The test that failed."""
    seconds: float
    invalid: str = ""
    """Why it is no mutation."""

    @property
    def word(self) -> str:
        """In short."""
        return "INVALID" if self.invalid else "killed" if self.killer else "SURVIVED"


@contextmanager
def replica() -> Iterator[Replica]:
    """A copy of the project, for as long as the block runs."""
    with tempfile.TemporaryDirectory(prefix="docora-ops-mutant-") as folder:
        yield Replica(Path(folder))


def ids(names: Sequence[str]) -> list[str]:
    """Of the tests with these names, each once."""
    tests = Tests(ROOT)
    return list(dict.fromkeys(test for name in names for test in tests.ids(name)))


def require_sound(tests: Sequence[str]) -> None:
    """Exit unless these pass in a copy in which nothing is broken."""
    with replica() as copy:
        copy.require_isolation()
        run = copy.test(tests)
    if run.trouble or run.failed:
        sys.exit(f"Without any mutation: {run.failed or run.trouble}")


def judge(mutation: Mutation, *, wide: bool) -> Verdict:
    """Break the promise in a copy and run the tests there. Raises DoesNotApplyError."""
    began = time.monotonic()

    def verdict(killer: str | None, invalid: str = "") -> Verdict:
        return Verdict(mutation, killer, time.monotonic() - began, invalid)

    with replica() as copy:
        path = copy.project / mutation.file
        path.write_text(mutation.apply(path.read_text("utf-8")), encoding="utf-8")
        if trouble := copy.import_all():
            return verdict(None, trouble)
        run = copy.test([*ids(HEALTHY), *ids(mutation.tests)])
        if run.failed and run.failed.partition("[")[0] in ids(HEALTHY):
            return verdict(None, f"nothing works any more: {run.failed}")
        if not run.failed and not run.trouble and wide:
            run = copy.test(WIDER)
            if run.failed:
                require_sound([run.failed])
        return verdict(run.failed, run.trouble)


def main() -> None:
    """Judge all mutations, or those that are asked for."""
    parser = argparse.ArgumentParser(prog="make mutants ARGS=…", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these mutations alone")
    parser.add_argument("--all", action="store_true", help="then run the wider tests, for each")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="so many at a time")
    options = parser.parse_args()
    known = {mutation.name: mutation for mutation in MUTATIONS}
    if unknown := set(options.only or ()) - known.keys():
        parser.error(f"no such mutation: {', '.join(sorted(unknown))}")
    chosen = [known[name] for name in options.only or known]
    for mutation in chosen:
        mutation.apply((ROOT / mutation.file).read_text("utf-8"))
    require_sound(ids([*HEALTHY, *(name for mutation in chosen for name in mutation.tests)]))
    print("| mutation | promise | killed by | seconds |\n| --- | --- | --- | --- |")
    missed = 0
    with ThreadPoolExecutor(options.jobs) as pool:
        for verdict in pool.map(lambda each: judge(each, wide=options.all), chosen):
            missed += verdict.word != "killed"
            print(
                f"| {verdict.mutation.name} | {verdict.mutation.promise}"
                f" | {verdict.killer or f'{verdict.word} {verdict.invalid}'.strip()}"
                f" | {verdict.seconds:.0f} |",
                flush=True,
            )
    print(f"\n{len(chosen)} mutations, {len(chosen) - missed} killed")
    sys.exit(missed > 0)


if __name__ == "__main__":
    main()
