"""`doctor`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.console import RenderableType
from rich.text import Text

from docora_ops.diagnosis import Check, CheckState, Diagnosis
from docora_ops.drift import Drift, DriftKind, DriftReport
from docora_ops.render.cells import amount, cell, link_name, state, words
from docora_ops.render.json import Document, fields_of
from docora_ops.render.layout import headed, records
from docora_ops.text import inert


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
    """Shows the result of each check."""
    rows = [(_label(check), state(check.state), _found(check)) for check in diagnosis.checks]
    return records(("Check", "State", "Found"), rows, width, long=2)


def _label(check: Check) -> Text:
    return cell(words(check.name).capitalize().replace("Bullmq", "BullMQ"))


def _found(check: Check) -> Text:
    text = cell(check.finding)
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
        shown.add_row(cell(words(example.kind)), cell(link), cell(example.detail))
    return shown


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


def _examples(drift: DriftReport) -> Sequence[Drift]:
    return [example for kind in DriftKind for example in drift.examples.get(kind, ())]
