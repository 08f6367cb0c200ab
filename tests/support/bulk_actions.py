"""The actions on many links, for tests of what is the same in all of them."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from docora_ops.actions import job_watch, snapshot_results
from docora_ops.links import Action
from docora_ops.operations import BulkResult
from tests.support.actions import Actions
from tests.support.docora import Docora

APP = f"app_{1:024x}"  # the first app of `Docora.add_links`, whose links a resync is about


@dataclass(frozen=True)
class BulkAction:
    action: Action
    command: tuple[str, ...]
    status: str
    done_status: str
    batch: int

    def __str__(self) -> str:
        return self.command[0]

    def add_links(self, docora: Docora, amount: int, **options: Any) -> None:
        docora.add_links(amount, **{"status": self.status, **options})

    def run(self, actions: Actions, **options: Any) -> BulkResult:
        match self.action:
            case Action.RETRY:
                return actions.retry_all(**options)
            case Action.RESYNC:
                return actions.resync_all(APP, **options)
        return actions.schedule(**options)


_RETRY, _RESYNC = ("retry-all-failed", "--batch-size", "10"), ("resync", APP, "--all", "--yes")
RETRY = BulkAction(Action.RETRY, _RETRY, "failed", "pending_snapshot", batch=10)
RESYNC = BulkAction(Action.RESYNC, _RESYNC, "synced", "pending_snapshot", batch=50)
SCHEDULE = BulkAction(Action.SCHEDULE, ("schedule",), "synced", "synced", batch=500)
every_bulk_action = pytest.mark.parametrize("bulk", [RETRY, RESYNC, SCHEDULE], ids=str)


OPERATION_ID = re.compile(r"bulk_[0-9a-f]{16}")
COUNTS = (
    *("queued", "replaced_stale", "reset", "already_queued", "already_running", "skipped"),
    "not_queued",
)


def bulk_document(message: str, operation_id: str | None = None, **changed: Any) -> dict[str, Any]:
    counts = {name: changed.pop(name, 0) for name in COUNTS}
    total = sum(counts.values())
    is_schedule = message in {"Schedule pass done", "Nothing is due"}
    action = "schedule" if is_schedule else "resync" if "re-sync" in message else "retry"
    without_value = (
        *("deliveries_cleared", "open_circuits_left_out", "circuits_reset"),
        *("circuits_locked", "in_flight", "taken_over", "planned_links", "waited"),
        *("stopped_by", "cancelled_by"),
    )
    data = {
        **dict.fromkeys(without_value),
        "action": action,
        "message": message,
        "operation_id": operation_id,
        "put_to_work": counts["queued"] + counts["replaced_stale"] + counts["already_queued"],
        "failures": [],
        "running_operations": [],
        "held_left_out": [],
        "left_to_operations": [] if is_schedule else None,
    }
    data |= {"total": total, "completed": total, "left": 0, "dry_run": False, "cancelled": False}
    return {"data": data | counts | changed}


def sleep_by(monkeypatch: pytest.MonkeyPatch, sleep: Callable[[float], None]) -> None:
    """Whoever waits for results in this process sleeps like this between two looks."""
    clock = SimpleNamespace(monotonic=time.monotonic, sleep=sleep)
    monkeypatch.setattr(job_watch, "time", clock)
    monkeypatch.setattr(snapshot_results, "time", clock)
