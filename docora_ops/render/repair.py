"""`repair`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rich.console import RenderableType
from rich.text import Text

from docora_ops.drift import DriftKind, Repaired, RepairOutcome, RepairResult
from docora_ops.errors import DocoraOpsError
from docora_ops.links import LinkFailure
from docora_ops.render.cells import cell, link_name, style_of, words
from docora_ops.render.json import Document, encode_long, error_document, fields_of
from docora_ops.render.layout import long_table, records
from docora_ops.render.short_lists import ROWS_SHOWN, failures
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
    RepairOutcome.RESET: "reset",
    RepairOutcome.REMOVED: "removed",
    RepairOutcome.LEFT_ALONE: "left alone",
    RepairOutcome.NOT_REPAIRED: "not repaired",
}
_PLANNED = _DONE | {
    RepairOutcome.QUEUED: "would queue",
    RepairOutcome.RESET: "would reset",
    RepairOutcome.REMOVED: "would remove",
    RepairOutcome.NOT_REPAIRED: "can't be repaired",
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
    data["failures"] = _failures(result)
    data["repaired"] = []
    return encode_long(
        {**(error_document(error) if error else {}), "data": data},
        (
            {"outcome": item.outcome, "job_id": item.drift.job_id, **fields_of(item.drift)}
            for item in result.repaired
            if item.outcome is not RepairOutcome.NOT_REPAIRED
        ),
    )


def found(result: RepairResult, width: int) -> RenderableType:
    """Counts the drift by app and kind for the question: of the first ones, and of the rest."""
    shown, rest = result.by_app[:ROWS_SHOWN], result.by_app[ROWS_SHOWN:]
    rows = [
        (cell(drift.app_name or drift.app_id), cell(_KINDS[drift.kind]), cell(drift.found))
        for drift in shown
    ]
    if rest:
        count = sum(drift.found for drift in rest)
        rows.append((cell("the rest"), cell(""), cell(count)))
    return records(("App", "Drift", "Found"), rows, width, long=1, numbers=["Found"])


def tables(result: RepairResult, width: int, *, with_list: bool) -> Iterator[RenderableType]:
    """Shows the counts by app and kind, what failed and, with `with_list`, each disagreement."""
    labels = _PLANNED if result.dry_run else _DONE
    done = "Would happen" if result.dry_run else "Done"
    rows = [
        (
            cell(drift.app_name or drift.app_id),
            cell(words(drift.kind)),
            cell(drift.found),
            _counts(drift.counts, labels),
        )
        for drift in result.by_app
    ]
    yield from (_summary(result), "")
    yield records(("App", "Drift", "Found", done), rows, width, numbers=["Found"])
    if failed := _failures(result):
        yield from ("", failures(failed, width, heading="Not repaired"))
    if not with_list:
        return

    def cells(item: Repaired) -> tuple[str, ...]:
        outcome = labels[item.outcome] + (f": {item.error_message}" if item.error_message else "")
        link = link_name(item.drift.app_name, item.drift.repository_name) or item.drift.job_id
        return tuple(map(inert, (link, words(item.drift.kind), outcome, item.drift.job_id)))

    yield ""
    yield from long_table(
        ("Link", "Drift", done, "Job"),
        result.repaired,
        cells,
        lambda item: style_of(item.outcome),
        width,
    )


def _counts(counts: Mapping[RepairOutcome, int], labels: Mapping[RepairOutcome, str]) -> Text:
    return Text(", ").join(
        cell(f"{counts[outcome]} {label}", style_of(outcome))
        for outcome, label in labels.items()
        if counts.get(outcome)
    )


def _failures(result: RepairResult) -> list[LinkFailure]:
    return [
        LinkFailure(
            item.drift.job_id,
            item.drift.app_id,
            item.drift.repository_id,
            item.error_message or "",
            item.drift.app_name,
            item.drift.repository_name,
        )
        for item in result.repaired
        if item.outcome is RepairOutcome.NOT_REPAIRED
    ]


def _summary(result: RepairResult) -> RenderableType:
    labels = _PLANNED if result.dry_run else _DONE
    labels = labels | {RepairOutcome.LEFT_ALONE: "left alone (no longer wrong, or running)"}
    done = _counts(result.counts, labels).plain or "nothing"
    return cell(f"{message(result)}: {done}.")
