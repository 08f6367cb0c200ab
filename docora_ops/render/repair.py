"""What `repair` found and did, for a person and for a script."""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.console import RenderableType
from rich.table import Table

from docora_ops.drift import DriftKind, Mended, Mending, RepairResult
from docora_ops.errors import DocoraOpsError
from docora_ops.render import documents
from docora_ops.render.cells import cell
from docora_ops.render.documents import Document
from docora_ops.render.tables import long_table
from docora_ops.text import inert

_KINDS = {
    DriftKind.LOST: "lost: pending, and no job",
    DriftKind.STUCK: "stuck: scanning, and no job",
    DriftKind.ORPHAN: "orphan: a job whose link is gone",
    DriftKind.DUPLICATE: "duplicate: a job queued more than once",
    DriftKind.STALE_ENTRY: "stale entry: of a job that is gone or elsewhere",
}
_DONE = {
    Mending.QUEUED: "queued",
    Mending.REMOVED: "removed",
    Mending.LEFT_ALONE: "left alone: well by now, or running",
    Mending.FAILED: "not mended",
}
_PLANNED = _DONE | {
    Mending.QUEUED: "would queue",
    Mending.REMOVED: "would remove",
    Mending.FAILED: "can't be mended",
}
_STYLES = {
    Mending.QUEUED: "green",
    Mending.REMOVED: "green",
    Mending.LEFT_ALONE: "cyan",
    Mending.FAILED: "bold red",
}


def message(result: RepairResult) -> str:
    """What happened, in a few words."""
    if not result.total:
        return "Nothing to repair"
    if result.dry_run:
        return "Dry run"
    return "Repair done" if result.complete else "Repair stopped"


def found(result: RepairResult) -> RenderableType:
    """How often each kind of drift is there."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1))
    table.add_column("Drift", overflow="fold")
    table.add_column("found", justify="right", no_wrap=True)
    for kind, count in result.found.items():
        if count:
            table.add_row(cell(_KINDS[kind]), cell(count))
    return table


def mended(result: RepairResult, width: int) -> Iterator[RenderableType]:
    """What was done, link by link, some hundred rows at a time."""
    labels = _PLANNED if result.dry_run else _DONE

    def short_cells(item: Mended) -> tuple[str, ...]:
        finding = item.finding
        done = labels[item.mending] + (f": {item.error}" if item.error else "")
        link = finding.job_id
        if finding.app_name and finding.repository:
            link = f"{finding.app_name} ← {finding.repository}"
        return inert(finding.kind.replace("_", " ")), inert(link), inert(done)

    def cells(item: Mended) -> tuple[str, ...]:
        return *short_cells(item), inert(item.finding.job_id)

    columns = ("Drift", "Link", "Would happen" if result.dry_run else "Done", "Job")
    return long_table(
        [(columns, cells), (columns[:3], short_cells)],
        result.mended,
        lambda item: _STYLES[item.mending],
        width,
    )


def summary(result: RepairResult) -> RenderableType:
    """How many came to what."""
    labels = _PLANNED if result.dry_run else _DONE
    counts = result.counts
    done = ", ".join(
        f"{counts[mending]} {labels[mending]}" for mending in Mending if counts[mending]
    )
    return cell(f"{message(result)}: {done or 'nothing'}.")


def encoded(result: RepairResult, error: DocoraOpsError | None = None) -> Iterator[str]:
    """Of `repair`, piece by piece; `error`: what has broken it off."""
    counts = result.counts
    data: Document = {
        "message": message(result),
        **({"dry_run": True} if result.dry_run else {}),
        **{kind.value: count for kind, count in result.found.items()},
        **{mending.value: counts.get(mending, 0) for mending in Mending},
        "failures": [
            {"job_id": item.finding.job_id, "error": item.error}
            for item in result.mended
            if item.mending is Mending.FAILED
        ],
        "repaired": [],
    }
    document = documents.error(error) if error else {}
    return documents.encode_long(
        document | {"data": data},
        (_repaired(item) for item in result.mended if item.mending is not Mending.FAILED),
    )


def _repaired(item: Mended) -> Document:
    finding = item.finding
    return {
        "kind": finding.kind,
        "outcome": item.mending,
        "job_id": finding.job_id,
        "app_id": finding.app_id,
        "app_name": finding.app_name,
        "repository_id": finding.repository_id,
        "repository": finding.repository,
        "detail": finding.detail,
    }
