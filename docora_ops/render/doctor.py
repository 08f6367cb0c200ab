"""`doctor`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from docora_ops.diagnosis import Check, CheckName, CheckState, Diagnosis
from docora_ops.drift import EXAMPLES_SHOWN, Drift, DriftReport
from docora_ops.render.cells import cell, link_name, state, style_of, words
from docora_ops.render.json import Document, fields_of
from docora_ops.render.layout import block, fitting_table, records
from docora_ops.text import amount, inert


def document(diagnosis: Diagnosis) -> Document:
    """Returns the JSON of `doctor`; `drift` is null if it could not be looked for."""
    drift = diagnosis.drift
    return {
        "data": {
            "state": diagnosis.state,
            "checks": [
                {
                    "name": check.name,
                    "state": check.state,
                    "finding": check.finding,
                    "hint": f"{check.hint}: {check.command}" if check.command else check.hint,
                }
                for check in diagnosis.checks
            ],
            "drift": drift
            and {
                "total": drift.total,
                "counts": drift.counts,
                "examples": [
                    {"job_id": example.job_id, **fields_of(example)} for example in drift.examples()
                ],
            },
        }
    }


def screen(diagnosis: Diagnosis, width: int, *, show_all: bool) -> Iterator[RenderableType]:
    """Shows the checks that are not ok, the worst last, examples of drift, and the summary.

    With `show_all`: all checks, in their order, and more examples.
    """
    if show_all:
        yield _table(diagnosis.checks, width)
    else:
        yield from _not_ok(diagnosis, width)
    if diagnosis.drift and (examples := _examples(diagnosis.drift, show_all=show_all)):
        yield ""
        yield _drift_table(examples, width)
        yield from _more(diagnosis, examples)
        yield ""
    for check in diagnosis.checks:
        if check.command:
            # In a group, as rich would wrap a text by itself: it could not be pasted then.
            yield Group(Text(inert(check.command), no_wrap=True, overflow="ignore"))
    yield cell(summary(diagnosis), style_of(diagnosis.state))


def _not_ok(diagnosis: Diagnosis, width: int) -> Iterator[RenderableType]:
    checks = diagnosis.checks
    needs = f"needs {diagnosis.needs}"
    unmade = sum(check.finding == needs for check in checks)
    if unmade:
        verb = "it needs" if unmade == 1 else "they need"
        yield cell(f"{amount(unmade, 'check')} not made: {verb} {diagnosis.needs}", "dim")
    found = [
        check
        for worse in (CheckState.NOT_CHECKED, CheckState.WARNING, CheckState.FAILED)
        for check in checks
        if check.state is worse and check.finding != needs
    ]
    if found:
        yield _table(found, width)
    fine = sum(check.state is CheckState.OK for check in checks)
    if fine:
        yield cell(f"{amount(fine, 'check')} ok; --all shows {'it' if fine == 1 else 'them'}")


def _table(checks: Sequence[Check], width: int) -> RenderableType:
    rows = [(_label(check), state(check.state), _found(check)) for check in checks]
    if table := fitting_table(("Check", "State", "Found"), rows, width, long=2):
        return table
    return Group(*(block(label + cell(": ") + state, found) for label, state, found in rows))


def _label(check: Check) -> Text:
    return cell(words(check.name).capitalize().replace("Bullmq", "BullMQ"))


def _found(check: Check) -> Text:
    text = cell(check.finding)
    if check.hint:
        text.append(f"\n→ {inert(check.hint)}{': see below' if check.command else ''}")
    return text


def _drift_table(examples: Sequence[Drift], width: int) -> RenderableType:
    rows = [
        (
            cell(words(example.kind)),
            cell(link_name(example.app_name, example.repository_name) or example.job_id),
            cell(example.detail),
        )
        for example in examples
    ]
    return records(("Drift", "Link", "Where"), rows, width, long=1)


def _more(diagnosis: Diagnosis, examples: Sequence[Drift]) -> Iterator[RenderableType]:
    """Counts the drift that is not among the examples."""
    total = diagnosis.drift.total if diagnosis.drift else 0
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
        CheckState.FAILED: f"{amount(counts[CheckState.FAILED], 'check')} failed",
        CheckState.WARNING: amount(counts[CheckState.WARNING], "warning"),
        CheckState.NOT_CHECKED: f"{counts[CheckState.NOT_CHECKED]} not checked",
    }
    return ", ".join(text for each, text in parts.items() if counts[each]) + "."


def _examples(drift: DriftReport, *, show_all: bool) -> list[Drift]:
    """Returns some examples of each kind, or about five, so that failures stay in view."""
    kinds = sum(map(bool, drift.counts.values()))
    return drift.examples(EXAMPLES_SHOWN if show_all else max(1, EXAMPLES_SHOWN // max(1, kinds)))
