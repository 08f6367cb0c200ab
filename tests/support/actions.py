"""The functions of docora-ops without a command around them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from docora_ops.actions import link_change as single
from docora_ops.actions import selecting
from docora_ops.actions.bulk.run import BulkRun
from docora_ops.actions.repair.find import find_drift
from docora_ops.actions.repair.fix import Repair
from docora_ops.audit import ChangeNote
from docora_ops.bulk import BulkResult
from docora_ops.database import Database
from docora_ops.database.selection import Selection
from docora_ops.drift import DriftReport, RepairResult
from docora_ops.links import Action, LinkRef, LinkResult
from docora_ops.queue import LinkQueue, ProgressStore, connect
from docora_ops.settings import Settings
from tests.support.rows import TestLink

_RUN_OPTIONS = {"dry_run", "note", "prepare"}


class Actions:
    """The functions of docora-ops on connections of their own, without a command around them."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.redis = connect(settings)
        self.database = Database(settings)
        self.queue = LinkQueue(settings, self.redis)
        self.store = ProgressStore(settings, self.redis)

    def close(self) -> None:
        self.database.close()
        self.redis.close()

    def ref(self, link: TestLink) -> LinkRef:
        row = self.database.row(
            "SELECT id::text FROM app_repositories"
            " WHERE app_id = %(app_id)s AND repository_id = %(repository_id)s",
            {"app_id": link.app_id, "repository_id": link.repository_id},
        )
        assert row is not None
        return LinkRef(row[0], link.app_id, link.repository_id)

    def retry(self, link: TestLink, **options: Any) -> LinkResult:
        return single.retry(self.database, self.queue, self.ref(link), **options)

    def resync(self, link: TestLink, **options: Any) -> LinkResult:
        return single.resync(self.database, self.queue, self.ref(link), **options)

    def retry_all(self, *, batch_size: int = 500, **options: Any) -> BulkResult:
        """A bulk retry; options of `_run`, and `app`, `error`, ... choose links."""
        run = {name: options.pop(name) for name in _RUN_OPTIONS & options.keys()}
        selection = selecting.failed_links(self.database, **options)
        return self._run(Action.RETRY, selection, batch_size, **run)

    def resync_all(self, app_id: str, *, batch_size: int = 50, **options: Any) -> BulkResult:
        _, selection, _ = selecting.links_of_app(self.database, app_id)
        return self._run(Action.RESYNC, selection, batch_size, **options)

    def schedule(self, *, batch_size: int = 500, **options: Any) -> BulkResult:
        selection = selecting.due_links(self.database, self.settings.rescan_interval_ms)
        return self._run(Action.SCHEDULE, selection, batch_size, **options)

    def _run(
        self,
        action: Action,
        selection: Selection,
        batch_size: int,
        *,
        dry_run: bool = False,
        note: ChangeNote | None = None,
        prepare: Callable[[BulkRun], object] = lambda run: None,
    ) -> BulkResult:
        """A bulk action; `prepare` gets the run when its links are chosen and none is done."""
        run = BulkRun(action, self.database, self.queue, self.store, selection, batch_size, note)
        if not dry_run and action is not Action.SCHEDULE:
            run.start()
        prepare(run)
        return run.plan() if dry_run else run.run()

    def drift(self) -> DriftReport:
        return find_drift(self.database, self.queue, grace_seconds=0)

    def repair(
        self,
        *,
        dry_run: bool = False,
        prepare: Callable[[Repair], object] = lambda repair: None,
        **scope: Any,
    ) -> RepairResult:
        """A repair without grace; `prepare` gets it when all is found and nothing mended."""
        scope = {"remove_unknown_jobs": True} | scope
        repair = Repair(self.database, self.queue, self.store, grace_seconds=0, **scope)
        repair.find()
        prepare(repair)
        return repair.plan() if dry_run else repair.run()
