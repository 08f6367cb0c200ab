"""`make mutants`: breaks each promise on purpose, in a copy of the project, and runs its tests.

A test must fail for each mutation. A mutation that no longer applies is reported before any test
runs, and counts as a failure.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.mutations.replica import Mutation, Replica, TestRunError, find_tests, read_mutations

# No mutation may break these: one that breaks everything proves nothing.
HEALTHY = (
    "test_what_a_worker_does_is_what_the_command_says",
    "test_a_limit_takes_the_first_links_in_order_and_counts_only_these",
)

TEST_IDS = find_tests()


def run(tests: Iterable[str], mutation: Mutation | None = None) -> str:
    """Runs tests, by name, in a copy of the project; returns the first failure.

    Raises TestRunError.
    """
    ids = [test_id for name in dict.fromkeys(tests) for test_id in TEST_IDS[name]]
    with tempfile.TemporaryDirectory(prefix="docora-ops-mutant-") as folder:
        replica = Replica(Path(folder))
        if mutation:
            mutation.apply(replica.project)
        return replica.first_failure(ids)


def judge(mutation: Mutation) -> tuple[bool, str]:
    """Returns whether the right test failed for a mutation, and a line for the table."""
    began = time.monotonic()
    killed = False
    try:
        failed = run([*HEALTHY, *mutation.tests], mutation)
    except TestRunError as error:
        result = f"INVALID: {error}"
    else:
        killed = bool(failed) and not failed.partition("[")[0].endswith(HEALTHY)
        result = failed or "SURVIVED"
        if failed and not killed:
            result = f"INVALID: nothing works any more: {failed}"
    seconds = time.monotonic() - began
    return killed, f"| {mutation.name} | {mutation.promise} | {result} | {seconds:.0f} |"


def judge_all(mutations: Sequence[Mutation], jobs: int) -> int:
    try:
        if failed := run([*HEALTHY, *(name for each in mutations for name in each.tests)]):
            sys.exit(f"{failed} fails without any mutation")
    except TestRunError as error:
        sys.exit(f"The tests can't be run without any mutation: {error}")
    print("| mutation | promise | killed by | seconds |\n| --- | --- | --- | --- |", flush=True)
    survived = 0
    with ThreadPoolExecutor(jobs) as pool:
        for killed, line in pool.map(judge, mutations):
            survived += not killed
            print(line, flush=True)
    return survived


def main() -> None:
    parser = argparse.ArgumentParser(prog="make mutants ARGS=…", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="run only these mutations")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="run N at a time")
    parser.add_argument("--check", action="store_true", help="only check that all still apply")
    options = parser.parse_args()
    mutations = {mutation.name: mutation for mutation in read_mutations()}
    if unknown := set(options.only or ()) - mutations.keys():
        parser.error(f"no such mutation: {', '.join(sorted(unknown))}")
    if missing := set(HEALTHY) - TEST_IDS.keys():
        sys.exit(f"There is no test {', '.join(sorted(missing))}")
    chosen = [mutations[name] for name in options.only or mutations]
    problems = {each.name: problem for each in chosen if (problem := each.problem(TEST_IDS))}
    for name, problem in problems.items():
        print(f"{name} no longer applies: {problem}", flush=True)
    valid = [] if options.check else [each for each in chosen if each.name not in problems]
    survived = judge_all(valid, options.jobs) if valid else 0
    print(f"\n{len(chosen)} mutations, {survived} not killed, {len(problems)} no longer apply")
    sys.exit(bool(survived or problems))


if __name__ == "__main__":
    main()
