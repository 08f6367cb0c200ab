"""Whatever workers, signals and schedulers do, a paced run keeps its promises.

At most N links that it has claimed are without a result, none is lost, none runs twice, and each
link that it has not claimed is byte for byte as it was.
"""

from __future__ import annotations

import time
from contextlib import closing, suppress
from itertools import cycle
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from docora_ops import actions as public
from docora_ops.actions import ChangeOptions, LinkChoice, job_watch, snapshot_results
from docora_ops.actions.change import Changed, Changer
from docora_ops.links import Action
from docora_ops.operations import BulkResult, MaxFailures, StoppedBy
from tests.support.actions import Actions
from tests.support.docora import Docora

STEPS = ("sync", "fail", "try again", "schedule", "look", "kill", "interrupt")


@pytest.fixture
def actions(docora: Docora) -> Actions:
    return docora.actions(drift_grace=0)


class KilledError(BaseException):
    """The run ends here, as if its process were killed."""


class Course:
    """One story: what happens while runs sleep, and what must hold each time."""

    def __init__(self, docora: Docora, actions: Actions, steps: list[str], most: int) -> None:
        self.docora = docora
        self.actions = actions
        self.most = most
        self.steps = iter(steps)
        self.is_interrupted = False
        self.touched: set[str] = set()
        self.claimed: set[str] = set()
        """Links that the run has queued and that have no result yet."""
        self.before = self.rows()

    def rows(self) -> dict[str, tuple[str, str, str]]:
        """Status and version of each row, by job id."""
        rows = self.docora.connection.execute(
            "SELECT app_id || '-' || repository_id AS job_id, status, xmin::text, ctid::text"
            " FROM app_repositories"
        ).fetchall()
        return {row["job_id"]: (row["status"], row["xmin"], row["ctid"]) for row in rows}

    def sleep(self, _seconds: float) -> None:
        """Stands for the time between two rounds of a run, in which others act."""
        self.check()
        match next(self.steps, "sync"):
            case "schedule":
                self.actions.schedule()
            case "kill":
                raise KilledError
            case "interrupt":
                self.is_interrupted = True
            case "look":
                pass
            case result:
                self.end_try(result)
        self.check()

    def end_try(self, result: str = "sync") -> None:
        """What a worker does that takes a job and comes to this result."""
        [job_id, *_] = [*self.docora.waiting(), None]
        if job_id is None:
            return
        self.docora.redis.lpop(self.docora.queue.key)
        status = {"sync": "synced", "fail": "failed"}.get(result, "pending_snapshot")
        self.touched.add(job_id)
        self.docora.connection.execute(
            "UPDATE app_repositories SET status = %s, last_error = %s"
            " WHERE app_id || '-' || repository_id = %s",
            (status, None if status == "synced" else "HTTP 503", job_id),
        )
        if status == "pending_snapshot":
            self.docora.redis.rpush(self.docora.queue.key, job_id)
        else:
            self.claimed.discard(job_id)
            self.docora.redis.delete(f"rq:job:{job_id}")

    def check(self) -> None:
        """What must hold."""
        rows = self.rows()
        assert len(self.claimed) <= self.most
        self.docora.assert_sound()
        pending = {job_id for job_id, row in rows.items() if row[0] == "pending_snapshot"}
        for job_id in self.before.keys() - self.touched - pending:
            assert rows[job_id] == self.before[job_id]

    def paced_run(
        self, max_failures: MaxFailures | None, batch_size: int, monkeypatch: pytest.MonkeyPatch
    ) -> BulkResult | None:
        """One run to its end; None if it was killed."""
        self.claimed, self.is_interrupted = set(), False
        options = ChangeOptions(in_flight=self.most, max_failures=max_failures)
        change = Changer.change

        def note_claims(changer: Changer, refs: Any) -> Changed:
            changed = change(changer, refs)
            if changer.action is Action.RETRY:
                done = [item for item in changed.outcomes if item.outcome.is_put_to_work]
                self.claimed.update(item.ref.job_id for item in done)
            return changed

        smaller = self.actions.settings.model_copy(update={"batch_size": batch_size})
        with monkeypatch.context() as patch:
            patch.setattr(self.actions.docora, "settings", smaller)
            patch.setattr(Changer, "change", note_claims)
            steps = public.retry_all_failed(self.actions.docora, LinkChoice(), options)
            with closing(steps), suppress(KilledError):
                step = next(steps)
                while not self.is_interrupted and (found := next(steps, None)):
                    step = found
                self.check()
                if self.is_interrupted:
                    return step.result.stopped(StoppedBy.INTERRUPTED)
                return step.result
        return None


@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_whatever_happens_meanwhile(
    docora: Docora, actions: Actions, monkeypatch: pytest.MonkeyPatch, data: st.DataObject
) -> None:
    docora.connection.execute("TRUNCATE app_repositories, repositories, apps CASCADE")
    docora.redis.flushdb()
    docora.add_links(data.draw(st.integers(1, 14), "links"), apps=data.draw(st.integers(1, 4)))
    steps = data.draw(st.lists(st.sampled_from(STEPS), max_size=40), "steps")
    course = Course(docora, actions, steps, data.draw(st.integers(1, 5), "in flight"))
    limits = st.none() | st.builds(MaxFailures, st.integers(0, 3), is_percent=st.booleans())
    options = st.lists(st.tuples(limits, st.integers(1, 3)), min_size=1, max_size=5)
    runs = cycle(data.draw(options, "limits and batch sizes"))
    clock = SimpleNamespace(monotonic=time.monotonic, sleep=course.sleep)
    monkeypatch.setattr(job_watch, "time", clock)
    monkeypatch.setattr(snapshot_results, "time", clock)
    for max_failures, batch_size in runs:
        result = course.paced_run(max_failures, batch_size, monkeypatch)
        if result is None:
            continue
        assert result.completed + result.left == result.total
        if result.stopped_by is StoppedBy.MAX_FAILURES:
            assert max_failures is not None
            continue
        assert result.left == 0 or result.stopped_by
        if not result.total and result.stopped_by is None:
            break
    # What killed runs have left in flight has its jobs.
    for _ in docora.links():
        course.end_try()
    assert "pending_snapshot" not in docora.statuses()
