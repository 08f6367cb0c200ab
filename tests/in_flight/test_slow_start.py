"""How many links are in flight: few at first, more after clean results, fewer after failures."""

import re
import time
from collections.abc import Sequence
from types import SimpleNamespace

import pytest

from docora_ops.actions import BulkStep, ChangeOptions, LinkChoice, following, retry_all_failed
from docora_ops.bulk import MaxFailures, StoppedBy
from tests.support.docora import COMMAND, Docora
from tests.support.terminal import TerminalSession


class Workers:
    """Between two looks of a run, end all jobs: as many fail as planned, all others are synced."""

    def __init__(self, docora: Docora, failures: Sequence[int]) -> None:
        self.docora = docora
        self.failures = iter(failures)
        self.rounds: list[int] = []
        """How many links were in flight each time."""

    def sleep(self, _seconds: float) -> None:
        job_ids = self.docora.waiting()
        if not job_ids:
            return
        self.rounds.append(len(job_ids))
        failed = job_ids[: next(self.failures, 0)]
        for job_id in job_ids:
            self.docora.connection.execute(
                "UPDATE app_repositories SET status = %s, last_error = 'HTTP 503'"
                " WHERE app_id || '-' || repository_id = %s",
                ("failed" if job_id in failed else "synced", job_id),
            )
        self.docora.redis.delete(self.docora.queue.key, *(f"rq:job:{each}" for each in job_ids))


def rounds_of(
    docora: Docora,
    monkeypatch: pytest.MonkeyPatch,
    options: ChangeOptions,
    failures: Sequence[int] = (),
) -> tuple[list[int], list[BulkStep]]:
    workers = Workers(docora, failures)
    clock = SimpleNamespace(monotonic=time.monotonic, sleep=workers.sleep)
    monkeypatch.setattr(following, "time", clock)
    steps = list(retry_all_failed(docora.actions().docora, LinkChoice(), options))
    return workers.rounds, steps


@pytest.mark.parametrize(
    ("in_flight", "no_slow_start", "failures", "expected"),
    [
        (12, False, [], [2, 4, 8, 12, 12, 2]),
        (12, True, [0, 3], [12, 12, 12, 4]),
        # A failure of eight leaves four; two failures of eight leave two.
        (12, False, [0, 0, 1, 0, 2], [2, 4, 8, 4, 8, 2, 4, 8]),
        # Never fewer than one, and one clean result is enough there.
        (12, False, [0, 0, 5, 1, 1], [2, 4, 8, 1, 1, 1, 2, 4, 8, 9]),
        (3, False, [1, 0], [2, 1, 2, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 2]),
        (2, False, [1, 1, 2], [2] * 20),
        (1, False, [1], [1] * 40),
    ],
)
def test_the_limit_follows_the_results(
    docora: Docora,
    monkeypatch: pytest.MonkeyPatch,
    in_flight: int,
    no_slow_start: bool,
    failures: list[int],
    expected: list[int],
) -> None:
    docora.add_links(40)
    options = ChangeOptions(in_flight=in_flight, no_slow_start=no_slow_start)
    rounds, steps = rounds_of(docora, monkeypatch, options, failures)
    assert rounds == expected
    assert docora.statuses().get("failed", 0) == sum(failures)
    limits = [step.limit for step in steps if step.limit]
    assert (limits[0], max(limits) <= in_flight) == (expected[0], True)
    [entry] = {each["selection"] for each in docora.audit_entries()}
    assert ("no_slow_start" in entry) == no_slow_start


def test_max_failures_counts_all_results_whatever_the_limit(
    docora: Docora, monkeypatch: pytest.MonkeyPatch
) -> None:
    docora.add_links(40)
    options = ChangeOptions(in_flight=12, max_failures=MaxFailures(2))
    rounds, steps = rounds_of(docora, monkeypatch, options, [0, 2, 1])
    assert rounds == [2, 4, 1]
    assert steps[-1].result.stopped_by is StoppedBy.MAX_FAILURES
    assert (steps[-1].result.completed, docora.statuses()["failed"]) == (7, 33 + 3)


def test_the_progress_shows_the_present_limit(docora: Docora) -> None:
    docora.add_links(9)
    docora.add_worker()
    command = [str(COMMAND), "retry-all-failed", "--in-flight", "3", "--yes"]
    environment = docora.environment(TERM="xterm", DOCORA_OPS_DRIFT_GRACE="60")
    with TerminalSession(command, environment) as session:
        session.read_until(re.compile(rb"2 of 2 in flight .*, 7 not queued yet"))
        Workers(docora, []).sleep(0)
        session.read_until(re.compile(rb"2 in sync, 3 of 3 in flight"))
        session.type(b"\x03")
        assert session.end()[0] == 130
