"""`repair`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from docora_ops.drift import AppDrift, Repaired, RepairOutcome, RepairResult
from docora_ops.render.columns import ROWS_SHOWN, Column, Listing, cell, link_name, style_of, words


@dataclass(frozen=True)
class RepairData:
    """The result of `repair`: drift by kind, then by outcome, then each with its outcome."""

    message: str
    dry_run: bool
    lost: int
    stuck: int
    orphan: int
    duplicate: int
    stale_entry: int
    queued: int
    reset: int
    removed: int
    left_alone: int
    not_repaired: int
    repaired: Sequence[Repaired]


def repair_data(result: RepairResult) -> RepairData:
    """Returns the JSON data of `repair`."""
    found = {kind.value: count for kind, count in result.found.items()}
    return RepairData(
        message=repair_message(result),
        dry_run=result.dry_run,
        **found,
        **{outcome.value: result.counts.get(outcome, 0) for outcome in RepairOutcome},
        repaired=result.repaired,
    )


def repair_message(result: RepairResult) -> str:
    """Returns the result in a few words."""
    if not result.total or result.dry_run:
        return "Dry run" if result.total else "Nothing to repair"
    return "Repair done" if result.completed >= result.total else "Repair stopped"


FOUND: Sequence[Column[AppDrift]] = (
    Column("App", lambda drift: drift.app_name or drift.app_id),
    Column("Drift", lambda drift: words(drift.kind)),
    Column("Found", lambda drift: drift.found, is_number=True),
)


def repair_screens(result: RepairResult) -> Iterator[object]:
    """Shows the counts by app and kind, and what failed; of a dry run, each mismatch."""
    done = "Would happen" if result.dry_run else "Done"

    def counts(of: Mapping[RepairOutcome, int]) -> str:
        return ", ".join(f"{of[each]} {words(each)}" for each in RepairOutcome if of.get(each))

    by_app = (*FOUND, Column[AppDrift](done, lambda drift: counts(drift.counts)))
    each: Sequence[Column[Repaired]] = (
        Column("Link", lambda item: link_name(item.drift), narrowest=16),
        Column("Drift", lambda item: words(item.drift.kind)),
        Column(done, lambda item: words(item.outcome), lambda item: style_of(item.outcome)),
        Column("Why", lambda item: item.error_message, folds=True),
        Column("Job id", lambda item: item.drift.job_id, left_out=1),
    )
    totals = f"{repair_message(result)}: {counts(result.counts) or 'nothing'}."
    yield from (cell(totals), "", Listing(by_app, result.by_app))
    failed = [item for item in result.repaired if item.outcome is RepairOutcome.NOT_REPAIRED]
    if result.dry_run:
        yield from ("", Listing(each, result.repaired))
    elif failed:
        yield from ("", Listing(each, failed, ROWS_SHOWN))
