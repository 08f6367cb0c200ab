"""Whatever has happened before, each action does what the contract says, and nothing else.

Hypothesis makes up stories: links and jobs in every state, other producers, workers that take
jobs and end them in RQ's own calls, lost data, locked rows. What an action of ours is to do is
predicted from what both stores hold; afterwards they are compared with that, whole. To search for
longer than `make test-all`:

    make test ARGS="tests/jobs/test_state_machine.py --hypothesis-profile=long"
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any, cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    initialize,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from docora_ops import actions as api
from docora_ops.actions import BulkStep
from docora_ops.errors import LinkLockedError, NotFailedError, NotFoundError, SnapshotRunningError
from docora_ops.jobs import JobState
from docora_ops.links import Action, Outcome
from docora_ops.operations import BulkResult
from docora_ops.queue.operation_records import read_operation
from tests.jobs.happenings import ALL, NEW_STATUSES, STATUSES, Happening, Others
from tests.jobs.situation import Situation
from tests.support.actions import Actions
from tests.support.docora import Docora
from tests.support.row_locks import row_locks
from tests.support.rows import TestLink, in_turns

EXAMPLES = {"fixed": 3, "drawn": 30}
"""By the profile: `make test` has a short look only, at the same examples each time."""
HAPPENINGS = st.lists(st.sampled_from(ALL), max_size=3)
OF_ONE = st.sampled_from((Action.RETRY, Action.RESYNC))
OF_MANY = st.sampled_from((Action.RETRY, Action.RESYNC, Action.SCHEDULE))
_MOST_LINKS = 4


class Machine(Others, RuleBasedStateMachine):
    """A few links of two apps, what others do with them, and what docora-ops makes of it."""

    links = Bundle("links")

    def __init__(self, docora: Docora) -> None:
        RuleBasedStateMachine.__init__(self)
        for table in ("app_delivered_files", "app_repositories", "repositories", "apps"):
            docora.connection.execute(f"DELETE FROM {table}".encode())
        docora.connection.execute("SELECT pg_advisory_unlock_all()")
        docora.redis.flushdb()
        Others.__init__(self, docora)
        self.actions = Actions(
            docora.settings.model_copy(update={"lock_timeout": 0.1, "drift_grace": 0})
        )
        self.apps = [docora.add_app(), docora.add_app()]
        self.lost_by_others: set[str] = set()

    def teardown(self) -> None:
        self.actions.close()

    @initialize(target=links, statuses=st.lists(st.sampled_from(STATUSES), min_size=1, max_size=3))
    def begin(self, statuses: Sequence[str]) -> MultipleResults[TestLink]:
        return multiple(
            *(self._add_link(status, number % 2) for number, status in enumerate(statuses))
        )

    @rule(
        target=links,
        status=st.sampled_from(STATUSES),
        app=st.integers(0, 1),
        scanned=st.sampled_from([None, timedelta(0), timedelta(hours=1)]),
    )
    @precondition(lambda self: len(self.known) < _MOST_LINKS)
    def a_link_is_added(self, **what: Any) -> TestLink:
        return self._add_link(**what)

    def _add_link(self, status: str, app: int, **options: Any) -> TestLink:
        link = self.docora.link(self.apps[app], self.docora.add_repository(), status, **options)
        self.docora.age_links()
        self.known[link.job_id] = link
        self.lost_by_others = self.see().lost
        return link

    @rule(link=links, happenings=HAPPENINGS)
    def others_do(self, link: TestLink, happenings: Sequence[Happening]) -> None:
        """Have these happen; what is lost after them is not lost by us."""
        for happening in happenings:
            happening(self, link)
            self.lost_by_others = self.see().lost

    # One link

    @rule(link=links, first=HAPPENINGS, action=OF_ONE, front=st.booleans(), is_locked=st.booleans())
    def one(self, link: TestLink, first: Sequence[Happening], action: Action, **how: bool) -> None:
        front, is_locked = how["front"], how["is_locked"]
        self.others_do(link, first)
        before, expected, dump = self.latest, self.latest.copy(), self.docora.dump()
        if link.job_id in before.rows:
            shown = api.show(self.actions.docora, *link.ids)
            assert shown.job is before.jobs[link.job_id].state
        assert self.docora.dump() == dump
        with self.row_locked(link if is_locked else None) as locked:
            # A row that does not qualify is looked at before it is locked.
            is_skipped = not expected.qualifies(action, link.job_id)
            predicted = expected.predict(
                action, [link.job_id], None if is_skipped else locked, front=front
            )
            try:
                outcome = self.actions.change(action, link, front=front).outcome
            except (NotFailedError, NotFoundError):
                outcome = Outcome.SKIPPED
            except (LinkLockedError, SnapshotRunningError):
                outcome = Outcome.NOT_QUEUED
        assert predicted == {outcome: 1}
        self.compare(expected)

    # Many links

    @rule(
        action=OF_MANY,
        size=st.integers(1, 3),
        app=st.integers(0, 1),
        link=links,
        first=HAPPENINGS,
        then=st.none() | st.sampled_from(NEW_STATUSES),
        front=st.booleans(),
        is_locked=st.booleans(),
    )
    def many(
        self,
        action: Action,
        size: int,
        app: int,
        link: TestLink,
        first: Sequence[Happening],
        then: Happening | None,
        **how: bool,
    ) -> None:
        """`then`: what happens to the link when the links are chosen, if its row is not locked."""
        self.others_do(link, first)
        front = how["front"] and action is not Action.SCHEDULE  # which has no such option
        is_locked = how["is_locked"]
        chosen = self._chosen(action, app)
        begun: list[Situation] = []

        def happen(_: BulkStep) -> None:
            self.others_do(link, [then] if then and not is_locked else [])
            begun.append(self.latest)

        with self.row_locked(link if is_locked else None) as locked:
            result = self._call_many(action, app, batch_size=size, prepare=happen, front=front)
        expected = begun[0].copy()
        assert result.counts == expected.predict(action, chosen, locked, front=front)
        assert result.total == result.completed == len(chosen)
        if result.operation_id is not None:
            progress = read_operation(self.actions.redis, result.operation_id)
            assert progress.finished
            assert progress.total == len(chosen)
            assert progress.put_to_work == result.put_to_work
            assert progress.not_queued == len(result.failures)
        self.compare(expected)

    def _chosen(self, action: Action, app: int) -> list[str]:
        """The links of a bulk action, in its order."""
        return in_turns(
            job_id
            for job_id in self.latest.rows
            if self.latest.qualifies(action, job_id)
            and (action is not Action.RESYNC or self.known[job_id].app_id == self.apps[app])
        )

    def _call_many(self, action: Action, app: int, **options: Any) -> BulkResult:
        match action:
            case Action.RETRY:
                return self.actions.retry_all(**options)
            case Action.RESYNC:
                return self.actions.resync_all(self.apps[app], **options)
        return self.actions.schedule(**options)

    # Drift

    @rule(link=links, first=HAPPENINGS, is_locked=st.booleans())
    def repair(self, link: TestLink, first: Sequence[Happening], is_locked: bool) -> None:
        """No link is without a job, what was live is so still, and nothing is left to do."""
        self.others_do(link, first)
        before = self.latest
        with self.row_locked(link if is_locked else None) as locked:
            self.actions.repair()
        after = self.see_after_us()
        for job_id, job in before.jobs.items():
            if job.state is JobState.RUNNING:
                assert after.jobs[job_id] == job
            elif job.is_live and job_id in before.rows:
                assert after.jobs[job_id].state is job.state
                assert after.jobs[job_id].fields == job.fields
        for job_id, row in before.rows.items():
            if job_id not in before.without_job or job_id == locked:
                assert after.rows[job_id] == row
            elif row["status"] != "scanning" or after.rows[job_id]["status"] != "failed":
                # Not a link that was cut off too often.
                is_rescan = row["status"] != "pending_snapshot"
                assert after.jobs[job_id].is_fresh(is_rescan, self.known[job_id])
        if locked is None:
            if any(job.places > 1 for job in after.jobs.values()):
                # A new job was queued for an id that still stood in the list.
                self.actions.repair()
                self.see_after_us()
            assert self.actions.drift().total == 0
            dump = self.docora.dump()
            self.actions.repair()
            assert self.docora.dump() == dump

    # What is seen

    def see(self) -> Situation:
        self.latest = Situation.of(self.docora, self.known.values())
        return self.latest

    def see_after_us(self) -> Situation:
        """Look at both stores after an action: no link is lost that was not lost before."""
        now = self.see()
        lost = now.lost - self.lost_by_others
        assert not lost, lost
        self.lost_by_others = now.lost
        return now

    def compare(self, expected: Situation) -> None:
        differences = expected.differences(self.see_after_us())
        assert not differences, "\n".join(differences)

    @contextmanager
    def row_locked(self, link: TestLink | None) -> Iterator[str | None]:
        """Its job id if another session holds the row of the link meanwhile."""
        if link is None or link.job_id not in self.latest.rows:
            yield None
            return
        with row_locks(self.docora, link):
            yield link.job_id


def test_each_action_is_as_predicted(docora: Docora, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "rq")  # which has a lot to say
    profile = settings.get_current_profile_name()
    chosen = settings()
    if profile in EXAMPLES:
        chosen = settings(max_examples=EXAMPLES[profile], stateful_step_count=25, deadline=None)
    # Any callable will do, says its documentation.
    machine = cast("type[Machine]", partial(Machine, docora))
    run_state_machine_as_test(machine, settings=chosen)
