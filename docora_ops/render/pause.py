"""`pause` and `resume`."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType

from docora_ops.jobs import RqWorkers, Suspension
from docora_ops.render.cells import cell
from docora_ops.render.json import Document
from docora_ops.render.layout import pairs
from docora_ops.text import moment


def pause_document(paused: RqWorkers, queues: Sequence[str]) -> Document:
    """Returns the JSON of `pause`; `queues`: the other queues that workers listen on."""
    return {
        "data": {
            "message": "Workers suspended",
            "suspension": paused.suspension,
            "other_queues": queues,
            "workers": paused.workers,
        }
    }


def pause_table(paused: RqWorkers) -> RenderableType:
    """Shows the end of the suspension, and what the workers do."""
    workers = paused.workers
    ends_at = paused.suspension.ends_at if paused.suspension else None
    busy = sum(worker.state == "busy" for worker in workers)
    stopped = sum(worker.is_stopped for worker in workers)
    states = (
        (stopped - busy, "suspended"),
        (busy, "busy: each finishes its job first"),
        (len(workers) - stopped, "waiting for a job: each may take one more"),
    )
    found = [f"{count} {state}" for count, state in states if count]
    return pairs(
        [
            ("Suspended", cell(f"until {moment(ends_at) or 'docora-ops resume'}")),
            *((("" if number else "Workers"), cell(text)) for number, text in enumerate(found)),
            *(() if found else [("Workers", cell("none"))]),
        ]
    )


def resume_document(suspension: Suspension | None) -> Document:
    """Returns the JSON of `resume`; `suspension`: the one that has ended, if there was one."""
    return {
        "data": {
            "message": "Workers resumed" if suspension else "Nothing to resume",
            "resumed": suspension is not None,
            "suspension": suspension,
        }
    }
