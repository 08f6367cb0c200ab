"""Everybody who has to do with links beside docora-ops, for Hypothesis to make stories of."""

from collections.abc import Sequence
from datetime import timedelta
from itertools import cycle
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    initialize,
    multiple,
    precondition,
    rule,
)

from docora_ops.links import LinkRef
from tests.jobs.machine.happenings import ALL, STATUSES, Happening
from tests.jobs.machine.led_worker import LedWorker
from tests.jobs.machine.situation import Situation
from tests.support.actions import Actions
from tests.support.docora import Docora
from tests.support.rows import TestLink

HAPPENINGS = st.lists(st.sampled_from(ALL), max_size=3)
_MOST_LINKS = 4


class World(RuleBasedStateMachine):
    """A few links of two apps, and what others do with them."""

    links = Bundle("links")

    def __init__(self, docora: Docora) -> None:
        super().__init__()
        self.docora = docora
        for table in ("app_delivered_files", "app_repositories", "repositories", "apps"):
            docora.connection.execute(f"DELETE FROM {table}".encode())
        docora.connection.execute("SELECT pg_advisory_unlock_all()")
        docora.redis.flushdb()
        self.actions = Actions(docora.settings.model_copy(update={"lock_timeout": 0.1}))
        self.apps = [docora.add_app(), docora.add_app()]
        self.known: dict[str, TestLink] = {}
        self.refs: dict[str, LinkRef] = {}
        self.led_workers: list[LedWorker] = []
        self.verdicts = cycle(("failed", "synced", "pending_snapshot"))
        self.latest = Situation.of(docora, ())
        self.lost_by_others: set[str] = set()

    def teardown(self) -> None:
        for worker in self.led_workers:
            worker.die()
        self.actions.close()

    @initialize(target=links, statuses=st.lists(st.sampled_from(STATUSES), min_size=1, max_size=3))
    def begin(self, statuses: Sequence[str]) -> MultipleResults[TestLink]:
        links = [
            self.add_link(status, number % 2, 2, None, None)
            for number, status in enumerate(statuses)
        ]
        return multiple(*links)

    @rule(
        target=links,
        status=st.sampled_from(STATUSES),
        app=st.integers(0, 1),
        files=st.integers(0, 2),
        scanned=st.sampled_from([None, timedelta(0), timedelta(hours=1)]),
        circuit=st.sampled_from([None, timedelta(hours=1), timedelta(hours=-1)]),
    )
    @precondition(lambda self: len(self.known) < _MOST_LINKS)
    def a_link_is_added(self, **what: Any) -> TestLink:
        return self.add_link(**what)

    @rule(link=links, happenings=HAPPENINGS)
    def something_happens(self, link: TestLink, happenings: Sequence[Happening]) -> None:
        self.others_do(happenings, link)

    def add_link(
        self,
        status: str,
        app: int,
        files: int,
        scanned: timedelta | None,
        circuit: timedelta | None,
    ) -> TestLink:
        repository_id = self.docora.add_repository(circuit_open_for=circuit)
        link = self.docora.link(self.apps[app], repository_id, status, scanned=scanned)
        self.docora.add_deliveries(link, files)
        self.note_row(link)
        self.lost_by_others = self.see().lost
        return link

    def note_row(self, link: TestLink) -> None:
        """A link has a new row; it is not so new that nothing is expected of it yet."""
        self.docora.age_links()
        self.known[link.job_id] = link
        self.refs[link.job_id] = self.actions.ref(link)

    def others_do(self, happenings: Sequence[Happening], link: TestLink) -> None:
        """Have these happen; what is lost after them is not lost by us."""
        for happening in happenings:
            happening(self, link)
            self.lost_by_others = self.see().lost

    def see(self) -> Situation:
        """Look at both stores."""
        self.latest = Situation.of(self.docora, self.known.values())
        return self.latest

    def worker_of(self, link: TestLink) -> LedWorker | None:
        """The worker that has the link's job, or else any."""
        mine = [worker for worker in self.led_workers if worker.job_id == link.job_id]
        return next(iter(mine or self.led_workers), None)
