"""The functions of docora-ops without a command around them."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from docora_ops.actions import Docora, LinkChoice
from docora_ops.actions.bulk.audit_entries import AuditEntries
from docora_ops.actions.bulk.left_to_runs import without_paced_links
from docora_ops.actions.bulk.run import BulkRun
from docora_ops.actions.find_drift import Findings, find_drift
from docora_ops.actions.fix_drift import plan_repair, repair
from docora_ops.actions.link_change import change_one
from docora_ops.actions.lookup import choose_links
from docora_ops.audit import Change
from docora_ops.bulk import BulkResult
from docora_ops.database.selection import Selection, select_due, select_failed, select_of_app
from docora_ops.drift import DriftReport, RepairResult
from docora_ops.links import Action, LinkRef, LinkResult
from docora_ops.queue import PacedRuns
from docora_ops.settings import Settings
from tests.support.rows import TestLink

_RUN_OPTIONS = {"change", "dry_run", "prepare", "front", "reset_circuit"}
_SELECTION_OPTIONS = {"limit", "skip_open_circuits"}


class Actions:
    """The functions of docora-ops on connections of their own, without a command around them."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.docora = Docora(settings)
        self.redis = self.docora.redis
        self.database = self.docora.database
        self.queue = self.docora.queue
        self.store = self.docora.store

    def close(self) -> None:
        self.database.close()
        self.redis.close()

    def ref(self, link: TestLink) -> LinkRef:
        row = self.database.row(
            "SELECT id::text FROM docora.app_repositories"
            " WHERE app_id = %(app_id)s AND repository_id = %(repository_id)s",
            asdict(link),
        )
        assert row is not None
        return LinkRef(row[0], *link.ids)

    def retry(self, link: TestLink, **options: Any) -> LinkResult:
        return self.change(Action.RETRY, link, **options)

    def resync(self, link: TestLink, **options: Any) -> LinkResult:
        return self.change(Action.RESYNC, link, **options)

    def change(self, action: Action, link: TestLink, **options: Any) -> LinkResult:
        return change_one(self.database, self.queue, action, self.ref(link), **options)

    def failed_links(self, *, app: str | None = None, **choice: Any) -> Selection:
        """Chooses the failed links of a bulk retry."""
        options = {name: choice.pop(name) for name in _SELECTION_OPTIONS & choice.keys()}
        chosen = choose_links(self.docora, LinkChoice(apps=[app] if app else [], **choice))
        return select_failed(self.database, chosen.which, **options)

    def retry_all(self, *, batch_size: int = 500, **options: Any) -> BulkResult:
        """A bulk retry; options of `_run`, and `app`, `errors`, ... choose links."""
        run = {name: options.pop(name) for name in _RUN_OPTIONS & options.keys()}
        return self._run(Action.RETRY, self.failed_links(**options), batch_size, **run)

    def resync_all(self, app_id: str, *, batch_size: int = 50, **options: Any) -> BulkResult:
        selection = select_of_app(self.database, app_id)
        return self._run(Action.RESYNC, selection, batch_size, **options)

    def schedule(self, *, batch_size: int = 500, **options: Any) -> BulkResult:
        selection = select_due(self.database, self.settings.rescan_interval_ms)
        selection = without_paced_links(self.database, PacedRuns(self.redis), selection)
        return self._run(Action.SCHEDULE, selection, batch_size, **options)

    def _run(
        self,
        action: Action,
        selection: Selection,
        batch_size: int,
        *,
        dry_run: bool = False,
        change: Change | None = None,
        prepare: Callable[[BulkRun], object] = lambda run: None,
        front: bool = False,
        reset_circuit: bool = False,
    ) -> BulkResult:
        """A bulk action; `prepare` gets the run when its links are chosen and none is done."""
        audit = AuditEntries(change, selection.total) if change else None
        run = BulkRun(
            action,
            self.database,
            self.queue,
            self.store,
            selection,
            batch_size,
            audit,
            front,
            reset_circuit,
        )
        if not dry_run and action is not Action.SCHEDULE:
            run.start()
        prepare(run)
        return run.plan() if dry_run else run.run()

    def drift(self) -> DriftReport:
        return self.find().report

    def find(self, *, between_looks: Callable[[], object] = lambda: None, **scope: Any) -> Findings:
        """Looks for drift twice, without a pause; something may happen between the looks."""
        for event in find_drift(self.database, self.queue, delay=0, **scope):
            if isinstance(event, Findings):
                return event
            between_looks()
        raise AssertionError

    def repair(
        self,
        *,
        dry_run: bool = False,
        prepare: Callable[[], object] = lambda: None,
        **scope: Any,
    ) -> RepairResult:
        """A repair without a pause; `prepare` comes when all is found and nothing repaired."""
        found = self.find(**scope)
        prepare()
        if dry_run:
            return plan_repair(self.queue, found)
        attempts = self.settings.max_retry_attempts
        *_, result = repair(self.database, self.queue, self.store, found, max_attempts=attempts)
        return result
