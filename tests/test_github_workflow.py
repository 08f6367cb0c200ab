"""The workflow on GitHub runs what a person runs."""

import re
from pathlib import Path


def test_the_workflow_runs_targets_of_the_makefile_and_nothing_else(repository_root: Path) -> None:
    workflow = (repository_root / ".github/workflows/check.yml").read_text(encoding="utf-8")
    makefile = (repository_root / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+): .*## ", makefile, re.MULTILINE))
    runs = re.findall(r"run:\s*(.*)", workflow)
    assert {"make lint", "make test-all", "make demo", "make audit"} <= set(runs)
    assert [run for run in runs if run.removeprefix("make ") not in targets] == []
