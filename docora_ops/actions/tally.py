"""The plan of a bulk operation, and the outcomes of its links so far."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from docora_ops.actions.change import Changed
from docora_ops.database import Selection
from docora_ops.links import Action, App, LinkFailure, Outcome, PlannedLink, count_succeeded
from docora_ops.operations import (
    BulkResult,
    Change,
    ChangeOptions,
    LeftToOperation,
    RunningOperation,
    StoppedBy,
)

_BY_OTHERS = (Outcome.ALREADY_QUEUED, Outcome.ALREADY_RUNNING, Outcome.SKIPPED)
"""Outcomes of links that another producer queued first, or that no longer qualified."""


@dataclass(frozen=True)
class Plan:
    """The plan of a bulk operation.

    running: other operations at work on the same links.
    batch_size: the number of links per transaction.
    deliveries: for a resync, the number of delivery records of the links.
    """

    action: Action
    selection: Selection
    change: Change
    options: ChangeOptions
    running: Sequence[RunningOperation]
    batch_size: int
    deliveries: int = 0

    @property
    def is_awaited(self) -> bool:
        """Tells whether the operation waits for the snapshots."""
        return (self.options.wait or self.options.is_paced) and not self.options.dry_run


@dataclass
class Tally:
    """Counts the outcomes of a bulk operation.

    failures: links that were not queued.
    planned_links: the links of a dry run.
    stopped_by: why no further link is changed; None while the operation continues.
    cancelled_by: who cancelled the operation.
    """

    plan: Plan
    operation_id: str | None = None
    counts: Counter[Outcome] = field(default_factory=Counter)
    by_app: dict[App, Counter[Outcome]] = field(default_factory=dict)
    failures: list[LinkFailure] = field(default_factory=list)
    planned_links: list[PlannedLink] = field(default_factory=list)
    deliveries: int = 0
    circuits_reset: set[str] = field(default_factory=set)
    circuits_held: set[str] = field(default_factory=set)
    stopped_by: StoppedBy | None = None
    cancelled_by: str | None = None

    def __post_init__(self) -> None:
        apps = [App(count.app_id, count.app_name) for count in self.plan.selection.by_app]
        self.by_app = {app: Counter() for app in apps}
        self._counts_of = {app.app_id: counts for app, counts in self.by_app.items()}

    def add(self, changed: Changed, failures: Sequence[LinkFailure]) -> None:
        """Counts the outcomes of a batch. `failures`: links of the batch that were not queued."""
        for item in changed.outcomes:
            self.counts[item.outcome] += 1
            self._counts_of[item.ref.app_id][item.outcome] += 1
        self.failures += failures
        self.deliveries += changed.deliveries
        self.circuits_reset |= changed.circuits_reset
        self.circuits_held |= changed.circuits_held

    @property
    def left(self) -> int:
        """Counts the links without an outcome."""
        return self.plan.selection.total - self.counts.total()

    def result(self) -> BulkResult:
        """Returns the result so far."""
        plan, counts, options = self.plan, self.counts, self.plan.options
        is_resync, is_schedule = plan.action is Action.RESYNC, plan.action is Action.SCHEDULE
        is_paced_retry = options.is_paced and plan.action is Action.RETRY
        is_cut_short = self.stopped_by is not None and self.left > 0
        left_to = plan.selection.left_to_operations
        return BulkResult(
            action=plan.action,
            dry_run=options.dry_run,
            operation_id=self.operation_id,
            total=plan.selection.total,
            completed=counts.total(),
            left=self.left,
            put_to_work=count_succeeded(counts),
            cancelled=is_cut_short,
            stopped_by=self.stopped_by if is_cut_short else None,
            cancelled_by=self.cancelled_by if is_cut_short else None,
            **{outcome.value: counts[outcome] for outcome in Outcome},
            deliveries_cleared=self.deliveries if is_resync and not options.update else None,
            deliveries_marked=self.deliveries if is_resync and options.update else None,
            open_circuits_left_out=plan.selection.open_circuits_left_out,
            held_left_out=plan.selection.held_left_out,
            circuits_reset=len(self.circuits_reset) if options.reset_circuit else None,
            circuits_held=len(self.circuits_held) if options.reset_circuit else None,
            in_flight=options.in_flight if options.is_paced else None,
            taken_over=sum(counts[outcome] for outcome in _BY_OTHERS) if is_paced_retry else None,
            left_to_operations=[LeftToOperation(*item) for item in left_to.items()]
            if is_schedule
            else None,
            running_operations=plan.running,
            failures=self.failures,
            planned_links=self.planned_links if options.dry_run else None,
        )
