"""`repair`."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType

from docora_ops.drift import DriftKind, Repaired, RepairOutcome, RepairResult
from docora_ops.errors import DocoraOpsError
from docora_ops.links import LinkFailure
from docora_ops.render.cells import cell, link_name, style_of, words
from docora_ops.render.json import Document, encode_long, error_document, fields_of
from docora_ops.render.layout import headed, long_table
from docora_ops.text import inert

_KINDS = {
    DriftKind.LOST: "lost: pending, and no job",
    DriftKind.STUCK: "stuck: scanning, and no job",
    DriftKind.ORPHAN: "orphan: a job whose link is gone",
    DriftKind.DUPLICATE: "duplicate: a job queued more than once",
    DriftKind.STALE_ENTRY: "stale entry: of a job that is gone or elsewhere",
}
_DONE = {
    RepairOutcome.QUEUED: "queued",
    RepairOutcome.REMOVED: "removed",
    RepairOutcome.LEFT_ALONE: "left alone: no longer wrong, or running",
    RepairOutcome.FAILED: "not repaired",
}
_PLANNED = _DONE | {
    RepairOutcome.QUEUED: "would queue",
    RepairOutcome.REMOVED: "would remove",
    RepairOutcome.FAILED: "can't be repaired",
}


def message(result: RepairResult) -> str:
    """Returns the result in a few words."""
    if not result.total:
        return "Nothing to repair"
    if result.dry_run:
        return "Dry run"
    return "Repair done" if result.completed >= result.total else "Repair stopped"


def encode(result: RepairResult, error: DocoraOpsError | None = None) -> Iterator[str]:
    """Encodes the JSON of a repair piece by piece, with the error that ended it, if any."""
    data: Document = {"message": message(result)}
    if result.dry_run:
        data["dry_run"] = True
    data |= {kind.value: count for kind, count in result.found.items()}
    data |= {outcome.value: result.counts.get(outcome, 0) for outcome in RepairOutcome}
    data["failures"] = [
        LinkFailure(item.drift.job_id, item.error_message or "")
        for item in result.repaired
        if item.outcome is RepairOutcome.FAILED
    ]
    data["repaired"] = []
    return encode_long(
        {**(error_document(error) if error else {}), "data": data},
        (
            {"outcome": item.outcome, "job_id": item.drift.job_id, **fields_of(item.drift)}
            for item in result.repaired
            if item.outcome is not RepairOutcome.FAILED
        ),
    )


def found(result: RepairResult) -> RenderableType:
    """Counts each kind of drift."""
    shown = headed("Drift", "found", numbers=["found"])
    for kind, count in result.found.items():
        if count:
            shown.add_row(cell(_KINDS[kind]), cell(count))
    return shown


def tables(result: RepairResult, width: int) -> Iterator[RenderableType]:
    """Shows what was done, or would be, about each disagreement."""
    labels = _PLANNED if result.dry_run else _DONE

    def cells(item: Repaired) -> tuple[str, ...]:
        drift = item.drift
        done = labels[item.outcome] + (f": {item.error_message}" if item.error_message else "")
        link = link_name(drift.app_name, drift.repository_name) or drift.job_id
        return tuple(map(inert, (words(drift.kind), link, done, drift.job_id)))

    columns = ("Drift", "Link", "Would happen" if result.dry_run else "Done", "Job")
    return long_table(columns, result.repaired, cells, lambda item: style_of(item.outcome), width)


def summary(result: RepairResult) -> RenderableType:
    """Counts the outcomes in one line."""
    labels = _PLANNED if result.dry_run else _DONE
    done = ", ".join(
        f"{result.counts[outcome]} {label}"
        for outcome, label in labels.items()
        if result.counts[outcome]
    )
    return cell(f"{message(result)}: {done or 'nothing'}.")
