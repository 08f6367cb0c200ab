"""`doctor` and `repair`."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.text import Text

from docora_ops.diagnosis import Check, CheckState, Diagnosis
from docora_ops.drift import (
    EXAMPLES_SHOWN,
    AppDrift,
    Drift,
    DriftKind,
    Repaired,
    RepairOutcome,
    RepairResult,
)
from docora_ops.render.columns import ROWS_SHOWN, Column, Listing, cell, link_name, style_of, words
from docora_ops.text import amount, inert

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
    found = diagnosis.drift
    drift = DriftData(found.total, found.found, found.examples()) if found else None
    return DoctorData(diagnosis.state, diagnosis.checks, drift)


def _found(check: Check) -> tuple[str, str | None]:
    hint = f"→ {check.hint}{': see below' if check.command else ''}"
    return check.finding, hint if check.hint else None


_CHECKS: Sequence[Column[Check]] = (
    Column("Check", lambda it: words(it.name).capitalize().replace("Bullmq", "BullMQ")),
    Column("State", lambda check: words(check.state), lambda check: style_of(check.state)),
    Column("Found", _found, folds=True),
)
_EXAMPLES: Sequence[Column[Drift]] = (
    Column("Drift", lambda drift: words(drift.kind)),
    Column("Link", link_name, folds=True),
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
    if (drift := diagnosis.drift) and drift.total:
        kinds = sum(map(bool, drift.found.values()))
        # About five, so that failures stay in view.
        examples = drift.examples(EXAMPLES_SHOWN if show_all else max(1, EXAMPLES_SHOWN // kinds))
        yield from ("", Listing(_EXAMPLES, examples))
        if more := drift.total - len(examples):
            yield cell(f"and {more} more: docora-ops repair --dry-run")
        yield ""
    for check in diagnosis.checks:
        if check.command:
            yield Text(inert(check.command), no_wrap=True, overflow="ignore")  # to paste
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


# `repair`.


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
