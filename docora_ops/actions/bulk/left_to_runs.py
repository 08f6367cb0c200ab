"""Links that `schedule` leaves to the runs with `--in-flight` that are under way."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from docora_ops.database import Database, Selection
from docora_ops.database.link_reports import read_results
from docora_ops.links import AppCount, LinkStatus
from docora_ops.queue import PacedRuns


def without_paced_links(database: Database, runs: PacedRuns, selection: Selection) -> Selection:
    """Leaves out each link whose turn in a run is to come, or that has failed again in it.

    Keeps a link that has had its turn otherwise: its job may be lost, or a rescan due.
    """
    due = {ref.id for ref in selection.refs}
    left_to: dict[str, str] = {}  # operation ids, by row id
    for run in runs.read():
        results = read_results(database, list(due & run.queued)) if due & run.queued else []
        failed_again = {each.id for each in results if each.status == LinkStatus.FAILED}
        left_to |= dict.fromkeys(due & (run.selected - run.queued) | failed_again, run.operation_id)
    refs = [ref for ref in selection.refs if ref.id not in left_to]
    counts = Counter(ref.app_id for ref in refs)
    by_app = [
        AppCount(each.app_id, each.app_name, counts[each.app_id])
        for each in selection.by_app
        if counts[each.app_id]
    ]
    left_out = Counter(left_to.values())
    return replace(selection, refs=refs, by_app=by_app, left_to_operations=dict(left_out))
