"""How many links are in flight: few at first, more after clean results, fewer after failures."""

from collections.abc import Generator, Sequence

import pytest

from docora_ops.actions import (
    BulkStep,
    ChangeOptions,
    LinkChoice,
    retry_all_failed,
    snapshot_results,
)
from docora_ops.operations import MaxFailures, StoppedBy
from tests.support.bulk_actions import sleep_by
from tests.support.docora import Docora
from tests.support.other_worker import end_job


class Workers:
    """Between two looks of a run, end jobs: as many fail as planned, the others are synced."""

    def __init__(self, docora: Docora, failures: Sequence[int] = (), at_once: int = 99) -> None:
        self.docora = docora
        self.at_once = at_once
        self.failures = iter(failures)
        self.rounds: list[int] = []
        """How many links were in flight each time."""

    def sleep(self, _seconds: float) -> None:
        job_ids = self.docora.waiting()
        if not job_ids:
            return
        self.rounds.append(len(job_ids))
        failed = job_ids[: next(self.failures, 0)]
        for job_id in job_ids[: self.at_once]:
            end_job(self.docora, job_id, "HTTP 503" if job_id in failed else None)


def steps_beside(
    workers: Workers, monkeypatch: pytest.MonkeyPatch, options: ChangeOptions
) -> Generator[BulkStep]:
    sleep_by(monkeypatch, workers.sleep)
    # One sleep between two looks, on a slow machine, too.
    monkeypatch.setattr(snapshot_results, "_TICK", 60)
    return retry_all_failed(workers.docora.actions().docora, LinkChoice(), options)


def rounds_of(
    workers: Workers, monkeypatch: pytest.MonkeyPatch, options: ChangeOptions
) -> tuple[list[int], list[BulkStep]]:
    steps = list(steps_beside(workers, monkeypatch, options))
    return workers.rounds, steps


@pytest.mark.parametrize(
    ("in_flight", "failures", "expected"),
    [
        (12, [], [2, 4, 8, 12, 12, 2]),
        # A failure of eight leaves four; two failures of eight leave two.
        (12, [0, 0, 1, 0, 2], [2, 4, 8, 4, 8, 2, 4, 8]),
        # Never fewer than two, so that an app that is down does not take the last slot.
        (12, [0, 0, 5, 1, 1], [2, 4, 8, 2, 2, 2, 4, 8, 8]),
        (3, [1, 0], [2, 2, *[3] * 12]),
        (2, [1, 1, 2], [2] * 20),
        (1, [1], [1] * 40),
    ],
)
def test_the_limit_follows_the_results(
    docora: Docora,
    monkeypatch: pytest.MonkeyPatch,
    in_flight: int,
    failures: list[int],
    expected: list[int],
) -> None:
    docora.add_links(40)
    options = ChangeOptions(in_flight=in_flight)
    rounds, steps = rounds_of(Workers(docora, failures), monkeypatch, options)
    assert rounds == expected
    assert docora.statuses().get("failed", 0) == sum(failures)
    limits = [step.limit for step in steps if step.limit]
    assert (limits[0], max(limits) <= in_flight) == (expected[0], True)


def test_the_limit_waits_for_as_many_clean_results(
    docora: Docora, monkeypatch: pytest.MonkeyPatch
) -> None:
    docora.add_links(12)
    workers = Workers(docora, at_once=1)
    rounds, _ = rounds_of(workers, monkeypatch, ChangeOptions(in_flight=12))
    assert rounds == [2, 2, 4, 4, 4, 4, 6, 5, 4, 3, 2, 1]


def test_an_app_that_hangs_does_not_hold_up_the_others_when_the_limit_falls(
    docora: Docora, monkeypatch: pytest.MonkeyPatch
) -> None:
    docora.add_links(40, apps=2)
    hangs = f"app_{1:024x}"

    class Others(Workers):
        def sleep(self, _seconds: float) -> None:
            job_ids = [job_id for job_id in self.docora.waiting() if not job_id.startswith(hangs)]
            self.rounds.append(len(job_ids))
            for job_id in job_ids:
                fails = len(self.rounds) == 4 and job_id == job_ids[0]
                end_job(self.docora, job_id, "HTTP 503" if fails else None)

    others = Others(docora)
    for step in steps_beside(others, monkeypatch, ChangeOptions(in_flight=8)):
        if (step.wait and step.wait.synced == 19) or len(others.rounds) > 60:
            break
    assert docora.statuses()["synced"] == 19, others.rounds


def test_max_failures_counts_all_results(docora: Docora, monkeypatch: pytest.MonkeyPatch) -> None:
    docora.add_links(40)
    options = ChangeOptions(in_flight=12, max_failures=MaxFailures(2))
    rounds, steps = rounds_of(Workers(docora, [0, 2, 1]), monkeypatch, options)
    assert rounds == [2, 4, 2]
    assert steps[-1].result.stopped_by is StoppedBy.MAX_FAILURES
    assert (steps[-1].result.completed, docora.statuses()["failed"]) == (8, 32 + 3)
