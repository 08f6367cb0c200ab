"""Whatever has happened before, each action does what the contract says, and nothing else.

Hypothesis makes up stories: links and jobs in every state, other producers, workers that are led
through their jobs in RQ's own calls, lost data, cut connections. What an action of ours is to do is
predicted from what both stores hold; afterwards they are compared with that, whole. To search for
longer than `make test-all`:

    make test ARGS="tests/jobs/test_state_machine.py --hypothesis-profile=long"
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import rule, run_state_machine_as_test

from docora_ops import actions as api
from docora_ops.actions import BulkStep
from docora_ops.bulk import BulkResult
from docora_ops.drift import DriftKind
from docora_ops.errors import DocoraOpsError, LinkLockedError
from docora_ops.links import Action, LinkResult, LinkStatus, Outcome
from tests.jobs.machine.cutting import Call, Cut, call_while_cut
from tests.jobs.machine.happenings import NEW_STATUSES, Happening
from tests.jobs.machine.predicting import REFUSALS, predict_many, predict_one, qualifies
from tests.jobs.machine.situation import Situation
from tests.jobs.machine.watch import Watch, assert_predicted
from tests.jobs.machine.world import HAPPENINGS, World
from tests.support.docora import Docora
from tests.support.proxy import COMMIT, PUSH, Fault
from tests.support.rows import TestLink, in_turns

EXAMPLES = {"fixed": 3, "drawn": 30}
"""By the profile: `make test` has a short look only, at the same examples each time."""
CUTS = st.tuples(
    st.sampled_from((PUSH, COMMIT)), st.sampled_from((Fault.LOSE_REQUEST, Fault.LOSE_REPLY))
)
OF_ONE = st.sampled_from((Action.RETRY, Action.RESYNC))
OF_MANY = st.sampled_from((Action.RETRY, Action.RESYNC, Action.SCHEDULE))
SIZES = st.integers(1, 3)


class Actions(Watch):
    """What docora-ops makes of it."""

    # One link

    @rule(link=World.links, first=HAPPENINGS, operation=OF_ONE, front=st.booleans())
    def one(
        self, link: TestLink, first: Sequence[Happening], operation: Action, front: bool
    ) -> None:
        self.others_do(first, link)
        self._one(link, operation, front=front)

    @rule(link=World.links, operation=OF_ONE)
    def row_of_one_is_locked(self, link: TestLink, operation: Action) -> None:
        self._one(link, operation, is_locked=True)

    def _one(
        self, link: TestLink, operation: Action, *, is_locked: bool = False, front: bool = False
    ) -> None:
        before = self.latest
        expected = before.copy()
        with self.row_locked(link if is_locked else None) as locked:
            result = self._call_one(link, operation, front=front)
        predicted = predict_one(
            operation, link.job_id, expected, is_locked=locked is not None, front=front
        )
        assert_predicted(predicted, result)
        if isinstance(result, LinkResult) and operation is Action.RESYNC:
            assert result.deliveries_cleared == before.rows[link.job_id].deliveries
        self.compare(expected)

    @rule(link=World.links, first=HAPPENINGS, operation=OF_ONE, cut=CUTS, number=st.integers(1, 4))
    def one_is_cut_and_repeated(
        self,
        link: TestLink,
        first: Sequence[Happening],
        operation: Action,
        cut: Cut,
        number: int,
    ) -> None:
        self.others_do(first, link)
        before, expected = self.latest, self.latest.copy()
        predict_one(operation, link.job_id, expected)
        self._call_while_cut(self._call_of_one(link, operation), cut, number)
        self.compare_half_way(before, expected)
        self._one(link, operation)

    def _call_of_one(self, link: TestLink, operation: Action, **options: Any) -> Call:
        return lambda actions: actions.change(operation, link, **options)

    def _call_one(
        self, link: TestLink, operation: Action, **options: Any
    ) -> LinkResult | DocoraOpsError:
        try:
            return cast("LinkResult", self._call_of_one(link, operation, **options)(self.actions))
        except (LinkLockedError, *REFUSALS) as error:
            return error

    # Many links

    @rule(
        operation=OF_MANY,
        size=SIZES,
        app=st.integers(0, 1),
        link=World.links,
        first=HAPPENINGS,
        then=st.none() | st.sampled_from(NEW_STATUSES),
        front=st.booleans(),
    )
    def many(
        self,
        operation: Action,
        size: int,
        app: int,
        link: TestLink,
        first: Sequence[Happening],
        then: Happening | None,
        front: bool,
    ) -> None:
        """`then`: what happens to the link when the links are chosen."""
        self.others_do(first, link)
        front &= operation is not Action.SCHEDULE  # which has no such option
        self._many(operation, size, link, app=app, then=then, front=front)

    @rule(operation=OF_MANY, size=SIZES, link=World.links)
    def row_among_many_is_locked(self, operation: Action, size: int, link: TestLink) -> None:
        self._many(operation, size, link, is_locked=True)

    def _many(
        self,
        operation: Action,
        size: int,
        link: TestLink | None = None,
        *,
        app: int = 0,
        is_locked: bool = False,
        then: Happening | None = None,
        front: bool = False,
    ) -> None:
        chosen = self._chosen(operation, app)

        begun: list[Situation] = []

        def happen(_: BulkStep) -> None:
            if then and link:
                self.others_do([then], link)
            begun.append(self.latest)

        with self.row_locked(link if is_locked else None) as locked:
            call = self._call_of_many(operation, size, app, prepare=happen, front=front)
            result = call(self.actions)
        expected = begun[0].copy()
        outcomes = predict_many(operation, chosen, expected, locked, front=front)
        assert result.counts == outcomes
        self._compare_progress(result, len(chosen))
        self.compare(expected)

    @rule(
        operation=OF_MANY,
        size=SIZES,
        link=World.links,
        first=HAPPENINGS,
        cut=CUTS,
        number=st.integers(1, 3),
    )
    def many_are_cut_and_repeated(
        self,
        operation: Action,
        size: int,
        link: TestLink,
        first: Sequence[Happening],
        cut: Cut,
        number: int,
    ) -> None:
        self.others_do(first, link)
        before, expected = self.latest, self._predict_many(operation)[0]
        self._call_while_cut(self._call_of_many(operation, size, 0), cut, number)
        self.compare_half_way(before, expected)
        self._many(operation, size)

    @rule(operation=OF_ONE, size=SIZES)
    def many_are_cancelled_and_repeated(self, operation: Action, size: int) -> None:
        before, expected = self.latest, self._predict_many(operation)[0]
        total = len(self._chosen(operation, 0))

        def cancel(step: BulkStep) -> None:
            if step.result.operation_id is None:
                assert total == 0
            else:
                self.actions.store.cancel(step.result.operation_id)

        result = self._call_of_many(operation, size, 0, prepare=cancel)(self.actions)
        assert result.completed <= size  # the report after the first batch hears of it
        assert result.cancelled == (result.completed < total)
        self.compare_half_way(before, expected)
        self._many(operation, size)

    def _chosen(self, operation: Action, app: int) -> list[str]:
        """The links of a bulk operation, in its order."""
        return in_turns(
            job_id
            for job_id in self.latest.rows
            if qualifies(operation, self.latest, job_id)
            and (operation is not Action.RESYNC or self.known[job_id].app_id == self.apps[app])
        )

    def _predict_many(self, operation: Action) -> tuple[Situation, dict[Outcome, int]]:
        expected = self.latest.copy()
        chosen = self._chosen(operation, 0)
        return expected, predict_many(operation, chosen, expected, None)

    def _call_of_many(self, operation: Action, size: int, app: int, **options: Any) -> Call:
        options["batch_size"] = size
        match operation:
            case Action.RETRY:
                return lambda actions: actions.retry_all(**options)
            case Action.RESYNC:
                return lambda actions: actions.resync_all(self.apps[app], **options)
        return lambda actions: actions.schedule(**options)

    def _compare_progress(self, result: BulkResult, total: int) -> None:
        assert result.total == result.completed == total
        if result.operation_id is not None:
            progress = self.actions.store.read(result.operation_id)
            assert progress.finished
            assert progress.total == total
            assert progress.put_to_work == result.put_to_work
            assert progress.not_queued == len(result.failures)

    # Repair

    @rule(link=World.links, first=HAPPENINGS, is_locked=st.booleans())
    def repair(self, link: TestLink, first: Sequence[Happening], is_locked: bool) -> None:
        self.others_do(first, link)
        before = self.latest
        with self.row_locked(link if is_locked else None) as locked:
            self.actions.repair()
        self.compare_repaired(before, locked)

    @rule(link=World.links, first=HAPPENINGS, cut=CUTS, number=st.integers(1, 4))
    def repair_is_cut_and_repeated(
        self, link: TestLink, first: Sequence[Happening], cut: Cut, number: int
    ) -> None:
        self.others_do(first, link)
        before = self.latest
        self._call_while_cut(lambda actions: actions.repair(), cut, number)
        half_way = self.see_after_us()
        self.compare_live(before, half_way)
        self.actions.repair()
        self.compare_repaired(half_way, None)

    # Reading

    @rule()
    def read(self) -> None:
        now = self.latest
        before = self.docora.dump()
        drift = self.actions.drift().found
        assert drift[DriftKind.LOST] + drift[DriftKind.STUCK] == len(now.without_job)
        choice = api.LinkChoice(statuses=[LinkStatus.FAILED])
        page, _ = api.links(self.actions.docora, choice)
        states = {link.job_id: link.job for link in page.rows}
        assert states == {
            job_id: now.jobs[job_id].state
            for job_id, row in now.rows.items()
            if row.status == "failed"
        }
        for operation in (Action.RETRY, Action.RESYNC, Action.SCHEDULE):
            result = self._call_of_many(operation, 2, 0, dry_run=True)(self.actions)
            assert result.counts == self._predict_many(operation)[1]
        self.actions.repair(dry_run=True)
        self.actions.queue.overview(10)
        assert self.docora.dump() == before

    @rule(link=World.links, first=HAPPENINGS, operation=OF_ONE)
    def read_one(self, link: TestLink, first: Sequence[Happening], operation: Action) -> None:
        self.others_do(first, link)
        before = self.docora.dump()
        predicted = predict_one(operation, link.job_id, self.latest.copy())
        assert_predicted(predicted, self._call_one(link, operation, dry_run=True))
        if link.job_id in self.latest.rows:
            details = api.show(self.actions.docora, *link.ids)
            assert details.job is self.latest.jobs[link.job_id].state
        assert self.docora.dump() == before

    def _call_while_cut(self, call: Call, cut: Cut, number: int) -> bool:
        return call_while_cut(self.docora, self.actions.settings, call, cut, number)


def test_each_action_does_what_is_predicted(
    docora: Docora, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "rq")  # which has a lot to say
    profile = settings.get_current_profile_name()
    chosen = settings()
    if profile in EXAMPLES:
        chosen = settings(max_examples=EXAMPLES[profile], stateful_step_count=25, deadline=None)
    run_state_machine_as_test(
        # Any callable will do, says its documentation.
        cast("type[Actions]", partial(Actions, docora)),
        settings=chosen,
    )
