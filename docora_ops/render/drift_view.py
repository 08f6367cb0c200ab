"""`doctor` and `repair`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.text import Text

from docora_ops.diagnosis import Check, CheckName, CheckState, Diagnosis
from docora_ops.drift import (
    EXAMPLES_SHOWN,
    AppDrift,
    Drift,
    DriftKind,
    DriftReport,
    Repaired,
    RepairOutcome,
    RepairResult,
)
from docora_ops.render.columns import Column, Listing, cell, style_of, unbroken, words
from docora_ops.render.link_view import ROWS_SHOWN, link_name
from docora_ops.text import amount


def _name(drift: Drift) -> str:
    return link_name(drift.app_name, drift.repository_name) or drift.job_id


# `doctor`.


@dataclass(frozen=True)
class DriftData:
    """The drift that was found. `examples`: the first five of each kind."""

    total: int
    counts: Mapping[DriftKind, int]
    examples: Sequence[Drift]


@dataclass(frozen=True)
class DoctorData:
    """The result of `doctor`. `drift` is null if it could not be looked for."""

    state: CheckState
    checks: Sequence[Check]
    drift: DriftData | None


def doctor_data(diagnosis: Diagnosis) -> DoctorData:
    """Returns the JSON data of `doctor`."""
    drift = None
    if found := diagnosis.drift:
        drift = DriftData(found.total, found.found, found.examples())
    return DoctorData(diagnosis.state, diagnosis.checks, drift)


def _label(check: Check) -> str:
    return words(check.name).capitalize().replace("Bullmq", "BullMQ")


def _found(check: Check) -> tuple[str, str | None]:
    hint = f"→ {check.hint}{': see below' if check.command else ''}"
    return check.finding, hint if check.hint else None


_CHECKS: tuple[Column[Check], ...] = (
    Column("Check", _label),
    Column("State", lambda check: words(check.state), lambda check: style_of(check.state)),
    Column("Found", _found, folds=True),
)
_EXAMPLES: tuple[Column[Drift], ...] = (
    Column("Drift", lambda drift: words(drift.kind)),
    Column("Link", _name, folds=True),
    Column("Where", lambda drift: drift.detail),
)


def doctor_screens(diagnosis: Diagnosis, *, show_all: bool) -> Iterator[object]:
    """Shows the checks that are not ok, the worst last, examples of drift, and the summary.

    With `show_all`: all checks, in their order, and more examples.
    """
    if show_all:
        yield Listing(_CHECKS, diagnosis.checks)
    else:
        yield from _not_ok(diagnosis)
    if diagnosis.drift and (examples := _examples(diagnosis.drift, show_all=show_all)):
        yield from ("", Listing(_EXAMPLES, examples))
        yield from _more(diagnosis, diagnosis.drift.total, examples)
        yield ""
    for check in diagnosis.checks:
        if check.command:
            yield unbroken(check.command)
    yield cell(summary(diagnosis), style_of(diagnosis.state))


def _not_ok(diagnosis: Diagnosis) -> Iterator[object]:
    checks = diagnosis.checks
    needs = f"needs {diagnosis.needs}"
    unmade = sum(check.finding == needs for check in checks)
    if unmade:
        verb = "it needs" if unmade == 1 else "they need"
        yield cell(f"{amount(unmade, 'check')} not made: {verb} {diagnosis.needs}", "dim")
    found = [
        check
        for worse in (CheckState.NOT_CHECKED, CheckState.WARNING, CheckState.CRITICAL)
        for check in checks
        if check.state is worse and check.finding != needs
    ]
    if found:
        yield Listing(_CHECKS, found)
    fine = sum(check.state is CheckState.OK for check in checks)
    if fine:
        yield cell(f"{amount(fine, 'check')} ok; --all shows {'it' if fine == 1 else 'them'}")


def _more(diagnosis: Diagnosis, total: int, examples: Sequence[Drift]) -> Iterator[Text]:
    """Counts the drift that is not among the examples."""
    more = total - len(examples)
    if more:
        match = next(check for check in diagnosis.checks if check.name is CheckName.SERVERS_MATCH)
        # Servers that do not belong together are no reason to look at a repair.
        command = ": docora-ops repair --dry-run --list" if match.state is CheckState.OK else ""
        yield cell(f"and {more} more{command}")


def summary(diagnosis: Diagnosis) -> str:
    """Counts the checks that are not well, in a sentence."""
    if diagnosis.state is CheckState.OK:
        return "All is well."
    counts = Counter(check.state for check in diagnosis.checks)
    parts = {
        CheckState.CRITICAL: f"{counts[CheckState.CRITICAL]} critical",
        CheckState.WARNING: amount(counts[CheckState.WARNING], "warning"),
        CheckState.NOT_CHECKED: f"{counts[CheckState.NOT_CHECKED]} not checked",
    }
    return ", ".join(text for each, text in parts.items() if counts[each]) + "."


def _examples(drift: DriftReport, *, show_all: bool) -> list[Drift]:
    """Returns some examples of each kind, or about five, so that failures stay in view."""
    kinds = sum(map(bool, drift.found.values()))
    return drift.examples(EXAMPLES_SHOWN if show_all else max(1, EXAMPLES_SHOWN // max(1, kinds)))


# `repair`.

_PLANNED = {
    RepairOutcome.QUEUED: "would queue",
    RepairOutcome.RESET: "would reset",
    RepairOutcome.REMOVED: "would remove",
    RepairOutcome.NOT_REPAIRED: "can't be repaired",
}


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
    found, counts = result.found, result.counts
    return RepairData(
        message=repair_message(result),
        dry_run=result.dry_run,
        lost=found[DriftKind.LOST],
        stuck=found[DriftKind.STUCK],
        orphan=found[DriftKind.ORPHAN],
        duplicate=found[DriftKind.DUPLICATE],
        stale_entry=found[DriftKind.STALE_ENTRY],
        queued=counts.get(RepairOutcome.QUEUED, 0),
        reset=counts.get(RepairOutcome.RESET, 0),
        removed=counts.get(RepairOutcome.REMOVED, 0),
        left_alone=counts.get(RepairOutcome.LEFT_ALONE, 0),
        not_repaired=counts.get(RepairOutcome.NOT_REPAIRED, 0),
        repaired=result.repaired,
    )


def repair_message(result: RepairResult) -> str:
    """Returns the result in a few words."""
    if not result.total:
        return "Nothing to repair"
    if result.dry_run:
        return "Dry run"
    return "Repair done" if result.completed >= result.total else "Repair stopped"


_FOUND: tuple[Column[AppDrift], ...] = (
    Column("App", lambda drift: drift.app_name or drift.app_id),
    Column("Drift", lambda drift: words(drift.kind)),
    Column("Found", lambda drift: drift.found, is_number=True),
)


def found_list(result: RepairResult) -> Listing[AppDrift]:
    """Counts the drift by app and kind for the question."""
    return Listing(_FOUND, result.by_app, ROWS_SHOWN)


def repair_screens(result: RepairResult, *, with_list: bool) -> Iterator[object]:
    """Shows the counts by app and kind, what failed and, with `with_list`, each disagreement."""
    done = "Would happen" if result.dry_run else "Done"

    def label(outcome: RepairOutcome) -> str:
        return (result.dry_run and _PLANNED.get(outcome)) or words(outcome)

    def counts(of: Mapping[RepairOutcome, int]) -> str:
        return ", ".join(f"{of[each]} {label(each)}" for each in RepairOutcome if of.get(each))

    by_app = (*_FOUND, Column[AppDrift](done, lambda drift: counts(drift.counts)))
    each: tuple[Column[Repaired], ...] = (
        Column("Link", lambda item: _name(item.drift)),
        Column("Drift", lambda item: words(item.drift.kind)),
        Column(
            done,
            lambda item: ": ".join(filter(None, (label(item.outcome), item.error_message))),
            lambda item: style_of(item.outcome),
            folds=True,
        ),
        Column("Job id", lambda item: item.drift.job_id, left_out=1),
    )
    left_alone = "left alone (no longer wrong, or running)"
    totals = counts(result.counts).replace("left alone", left_alone) or "nothing"
    yield from (cell(f"{repair_message(result)}: {totals}."), "", Listing(by_app, result.by_app))
    failed = [item for item in result.repaired if item.outcome is RepairOutcome.NOT_REPAIRED]
    if with_list:
        yield from ("", Listing(each, result.repaired))
    elif failed:
        yield from ("", Listing(each, failed, ROWS_SHOWN))
