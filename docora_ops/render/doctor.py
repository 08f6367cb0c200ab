"""What `doctor` found, for a person and for a script."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from docora_ops.diagnosis import Check, CheckState, Diagnosis
from docora_ops.drift import DriftKind, DriftReport, Finding
from docora_ops.render.cells import cell
from docora_ops.render.documents import Document
from docora_ops.text import inert

_WIDTH_OF_COLUMNS = 72
_STYLES = {
    CheckState.OK: "green",
    CheckState.WARNING: "yellow",
    CheckState.FAILED: "bold red",
    CheckState.NOT_CHECKED: "dim",
}


def document(diagnosis: Diagnosis) -> Document:
    """Of `doctor`. `drift` is null where it could not be looked for."""
    drift = diagnosis.drift
    return {
        "data": {
            "state": diagnosis.state,
            "checks": [
                {
                    "name": check.name,
                    "state": check.state,
                    "finding": check.finding,
                    "what_to_do": check.what_to_do,
                }
                for check in diagnosis.checks
            ],
            "drift": None if drift is None else _drift_document(drift),
        }
    }


def _drift_document(drift: DriftReport) -> Document:
    return {
        "total": drift.total,
        "counts": {kind: drift.counts.get(kind, 0) for kind in DriftKind},
        "examples": [
            {
                "kind": finding.kind,
                "job_id": finding.job_id,
                "app_id": finding.app_id,
                "app_name": finding.app_name,
                "repository_id": finding.repository_id,
                "repository": finding.repository,
                "detail": finding.detail,
            }
            for finding in _examples(drift)
        ],
    }


def checks(diagnosis: Diagnosis, width: int) -> RenderableType:
    """A row for each check, and what to do below it; where `width` is too small, a paragraph."""
    if width < _WIDTH_OF_COLUMNS:
        return Group(*(line for check in diagnosis.checks for line in _paragraph(check)))
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1))
    table.add_column("Check", no_wrap=True)
    table.add_column("State", no_wrap=True)
    table.add_column("Found", overflow="fold")
    for check in diagnosis.checks:
        table.add_row(cell(_label(check)), _state(check), _found(check))
    return table


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
    """The first things of each kind that are out of step, if any are."""
    examples = _examples(drift)
    if not examples:
        return None
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1))
    for heading in ("Drift", "Link", "Where"):
        table.add_column(heading, overflow="fold")
    for finding in examples:
        link = finding.job_id
        if finding.app_name and finding.repository:
            link = f"{finding.app_name} ← {finding.repository}"
        table.add_row(cell(finding.kind.replace("_", " ")), cell(link), cell(finding.detail))
    return table


def summary(diagnosis: Diagnosis) -> str:
    """How many checks are not well, in a sentence."""
    states = [check.state for check in diagnosis.checks]
    failed, warnings, left_out = (
        states.count(state)
        for state in (CheckState.FAILED, CheckState.WARNING, CheckState.NOT_CHECKED)
    )
    if diagnosis.state is CheckState.OK:
        return "All is well."
    parts = [
        f"{failed} {'check' if failed == 1 else 'checks'} failed" if failed else "",
        f"{warnings} {'warning' if warnings == 1 else 'warnings'}" if warnings else "",
        f"{left_out} not checked" if left_out else "",
    ]
    return ", ".join(part for part in parts if part) + "."


def _examples(drift: DriftReport) -> Sequence[Finding]:
    return [finding for kind in DriftKind for finding in drift.examples.get(kind, ())]
