"""The list of mutations does not rot: each still applies, and the tests that it names are there."""

from __future__ import annotations

from pathlib import Path

from tests.mutations.catalogue import MUTATIONS
from tests.mutations.mutation import Promise, Tests


def test_each_mutation_applies_and_its_tests_are_there(repository_root: Path) -> None:
    tests = Tests(repository_root)
    for mutation in MUTATIONS:
        source = (repository_root / mutation.file).read_text("utf-8")
        assert mutation.apply(source) != source
        assert [test for name in mutation.tests for test in tests.ids(name)]
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS)


def test_each_promise_is_broken_by_some_mutation() -> None:
    assert {mutation.promise for mutation in MUTATIONS} == set(Promise)
