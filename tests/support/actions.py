"""The functions of docora-ops without a command around them."""

from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from typing import Any
from unittest.mock import patch

from docora_ops import actions
from docora_ops.actions import BulkStep, ChangeOptions, Docora, LinkChoice, bulk, one_link
from docora_ops.actions.drift import Finding, Suspects, find_drift
from docora_ops.actions.repairs import RepairResult, plan_repair, repair_found
from docora_ops.links import Action, LinkRef, LinkResult
from docora_ops.operations import BulkResult
from docora_ops.settings import Settings
from tests.support.rows import TestLink

Look = Callable[[BulkStep], object]
_RUN_OPTIONS = {"batch_size", "prepare", "each"}
_OPTIONS = {"front", "reset_circuit", "in_flight", "max_failures", "dry_run", "wait"}


def both_looks(
    looks: Generator[Suspects, None, Iterator[Finding]], between: Callable[[Suspects], object]
) -> list[Finding]:
    """Returns the drift that both looks find; something may happen between them."""
    while True:
        try:
            between(next(looks))
        except StopIteration as end:
            return list(end.value)


class Actions:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.docora = Docora(settings)
        self.redis = self.docora.redis
        self.database = self.docora.database
        self.queue = self.docora.queue

    def close(self) -> None:
        self.database.close()
        self.redis.close()

    def ref(self, link: TestLink) -> LinkRef:
        which = "WHERE app_id = %(app_id)s AND repository_id = %(repository_id)s"
        query = f"SELECT id::text FROM docora.app_repositories {which}"
        [[row_id]] = self.database.rows(query, asdict(link))
        return LinkRef(row_id, *link.ids)

    def retry(self, link: TestLink, **options: Any) -> LinkResult:
        return self.change(Action.RETRY, link, **options)

    def resync(self, link: TestLink, **options: Any) -> LinkResult:
        return self.change(Action.RESYNC, link, **options)

    def change(self, action: Action, link: TestLink, **options: Any) -> LinkResult:
        call = actions.retry if action is Action.RETRY else actions.resync
        with _unchecked():
            return call(self.docora, *link.ids, ChangeOptions(**options))

    def retry_all(
        self, *, app: str | None = None, limit: int | None = None, **options: Any
    ) -> BulkResult:
        """A bulk retry; options of `_run` and `ChangeOptions`, and `errors`, ... choose links."""
        run = {name: options.pop(name) for name in _RUN_OPTIONS & options.keys()}
        bulk = ChangeOptions(**{name: options.pop(name) for name in _OPTIONS & options.keys()})
        choice = LinkChoice(apps=[app] if app else [], **options)
        steps = actions.retry_all_failed(self.docora, choice, bulk, limit=limit)
        return self._run(steps, bulk, **run)

    def resync_all(self, app_id: str, **options: Any) -> BulkResult:
        run = {name: options.pop(name) for name in _RUN_OPTIONS & options.keys()}
        bulk = ChangeOptions(**options)
        return self._run(actions.resync_all(self.docora, app_id, bulk), bulk, **run)

    def schedule(self, *, dry_run: bool = False, front: bool = False, **run: Any) -> BulkResult:
        assert not front
        steps = actions.schedule(self.docora, dry_run=dry_run)
        return self._run(steps, ChangeOptions(dry_run=dry_run), **run)

    def _run(
        self,
        steps: Generator[BulkStep],
        options: ChangeOptions,
        *,
        batch_size: int | None = None,
        prepare: Look = lambda step: None,
        each: Look = lambda step: None,
    ) -> BulkResult:
        """`prepare` gets the step when its links are chosen and none is done, `each` later ones."""
        with _unchecked(), ExitStack() as stack:
            if batch_size is not None:
                smaller = self.settings.model_copy(update={"batch_size": batch_size})
                stack.enter_context(patch.object(self.docora, "settings", smaller))
            step = next(steps)
            if step.result.total and not options.dry_run:
                step = next(steps)
            prepare(step)
            for step in steps:
                each(step)
        return step.result

    def drift(self) -> RepairResult:
        return self.repair(dry_run=True)

    def find(
        self, *, between_looks: Callable[[], object] = lambda: None, **scope: Any
    ) -> list[Finding]:
        """Looks for drift twice, without a pause; something may happen between the looks."""
        at_once = self.settings.model_copy(update={"drift_grace": 0})
        with patch.object(self.docora, "settings", at_once):
            return both_looks(find_drift(self.docora, **scope), lambda _: between_looks())

    def repair(
        self, *, dry_run: bool = False, prepare: Callable[[], object] = lambda: None, **scope: Any
    ) -> RepairResult:
        findings = self.find(**scope)
        prepare()
        if dry_run:
            return plan_repair(self.queue, findings)
        change = self.docora.describe_change("repair", None)
        *_, result = repair_found(self.docora, findings, change)
        return result


@contextmanager
def _unchecked() -> Iterator[None]:
    with ExitStack() as stack:
        for module in (bulk, one_link):
            stack.enter_context(patch.object(module, "require_pair"))
            stack.enter_context(patch.object(module, "warn_of_workers", return_value=1))
            stack.enter_context(patch.object(module, "require_right_workers"))
        yield
