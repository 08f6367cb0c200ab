"""`doctor`."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from docora_ops.diagnosis import Check, CheckState, Diagnosis
from docora_ops.drift import Drift, DriftKind, DriftReport
from docora_ops.render.cells import amount, cell, link_name
from docora_ops.render.json import Document, fields_of
from docora_ops.render.layout import headed
from docora_ops.text import inert

_NARROWEST_TABLE = 72
_STYLES = {
    CheckState.OK: "green",
    CheckState.WARNING: "yellow",
    CheckState.FAILED: "bold red",
    CheckState.NOT_CHECKED: "dim",
}


def document(diagnosis: Diagnosis) -> Document:
    """Returns the JSON of `doctor`; `drift` is null if it could not be looked for."""
    drift = diagnosis.drift
    return {
        "data": {
            "state": diagnosis.state,
            "checks": diagnosis.checks,
            "drift": drift
            and {
                "total": drift.total,
                "counts": {kind: drift.counts.get(kind, 0) for kind in DriftKind},
                "examples": [
                    {"job_id": example.job_id, **fields_of(example)} for example in _examples(drift)
                ],
            },
        }
    }


def checks(diagnosis: Diagnosis, width: int) -> RenderableType:
    """Shows a row for each check, or a paragraph if `width` is too small."""
    if width < _NARROWEST_TABLE:
        return Group(*(line for check in diagnosis.checks for line in _paragraph(check)))
    shown = headed("Check", "State", "Found")
    for column in shown.columns[:2]:
        column.no_wrap = True
    for check in diagnosis.checks:
        shown.add_row(cell(_label(check)), _state(check), _found(check))
    return shown


def _paragraph(check: Check) -> tuple[RenderableType, RenderableType]:
    heading = Text.assemble(_label(check), ": ", _state(check))
    return heading, Padding(_found(check), (0, 0, 0, 2))


def _label(check: Check) -> str:
    return check.name.replace("_", " ").capitalize().replace("Bullmq", "BullMQ")


def _state(check: Check) -> Text:
    return cell(check.state.replace("_", " "), _STYLES[check.state])


def _found(check: Check) -> Text:
    style = "dim" if check.state is CheckState.NOT_CHECKED else ""
    text = cell(check.finding, style)
    if check.what_to_do:
        text.append(f"\n→ {inert(check.what_to_do)}")
    return text


def drift_examples(drift: DriftReport) -> RenderableType | None:
    """Shows the first examples of each kind of drift, if there are any."""
    examples = _examples(drift)
    if not examples:
        return None
    shown = headed("Drift", "Link", "Where")
    for example in examples:
        link = link_name(example.app_name, example.repository_name) or example.job_id
        shown.add_row(cell(example.kind.replace("_", " ")), cell(link), cell(example.detail))
    return shown


def summary(diagnosis: Diagnosis) -> str:
    """Counts the checks that are not well, in a sentence."""
    if diagnosis.state is CheckState.OK:
        return "All is well."
    states = [check.state for check in diagnosis.checks]
    failed, warnings, left_out = (
        states.count(state)
        for state in (CheckState.FAILED, CheckState.WARNING, CheckState.NOT_CHECKED)
    )
    parts = [
        f"{amount(failed, 'check')} failed" if failed else "",
        amount(warnings, "warning") if warnings else "",
        f"{left_out} not checked" if left_out else "",
    ]
    return ", ".join(filter(None, parts)) + "."


def _examples(drift: DriftReport) -> Sequence[Drift]:
    return [example for kind in DriftKind for example in drift.examples.get(kind, ())]
