"""JSON for a script. The field names are a promise."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict

from docora_ops.audit import HistoryEntry
from docora_ops.bulk import BulkResult, KeptFailures, KnownOperation, Progress
from docora_ops.errors import DocoraOpsError
from docora_ops.links import Action, LinkFailure, LinkResult, Outcome, PlannedLink
from docora_ops.text import moment
from docora_ops.waits import BulkWait, LinkWait

Document = dict[str, object]

_LINK_MESSAGES = {Action.RETRY: "Retry queued", Action.RESYNC: "Re-sync queued"}
_BULK_MESSAGES = {
    Action.RETRY: "Bulk retry started",
    Action.RESYNC: "Bulk re-sync started",
    Action.SCHEDULE: "Schedule pass done",
}
_NOTHING_MESSAGES = {
    Action.RETRY: "No failed notifications found",
    Action.RESYNC: "No links found",
    Action.SCHEDULE: "Nothing is due",
}


def encode(document: Document) -> str:
    """One line of ASCII, so that nothing in it can act on a terminal."""
    return json.dumps(document)


def link_message(result: LinkResult) -> str:
    """What happened, in the dashboard's words where it has them."""
    if result.outcome is Outcome.ALREADY_RUNNING:
        return "Snapshot already running"
    return _LINK_MESSAGES[result.operation]


def bulk_message(result: BulkResult) -> str:
    """The same for a bulk operation."""
    if result.operation is Action.SCHEDULE and result.completed < result.total:
        return "Schedule pass stopped"
    messages = _BULK_MESSAGES if result.total else _NOTHING_MESSAGES
    return messages[result.operation]


def link_result(result: LinkResult, workers: int, wait: LinkWait | None = None) -> Document:
    """Of `retry` and `resync`."""
    link = result.link
    data: Document = {
        "message": link_message(result),
        "job_id": link.ref.job_id,
        "outcome": result.outcome,
        "app_id": link.ref.app_id,
        "app_name": link.payload.app_name,
        "repository_id": link.ref.repository_id,
        "repository": link.payload.repository,
        "previous": {
            "status": link.status,
            "retry_count": link.retry_count,
            "last_error": link.last_error,
        },
        "circuit_open_until": moment(result.circuit_open_until),
        "workers": workers,
    }
    if result.operation is Action.RESYNC:
        data["deliveries_cleared"] = result.deliveries_cleared
    if wait is not None:
        data["waited"] = {
            "result": wait.end,
            "status": wait.status,
            "error": wait.error,
            "seconds": round(wait.seconds, 1),
        }
    return {"data": data}


def bulk_result(result: BulkResult, wait: BulkWait | None = None) -> Document:
    """Of `retry-all-failed`, `resync --all` and `schedule`."""
    data: Document = {
        "message": bulk_message(result),
        "operation_id": result.operation_id,
        **_counts(result),
        "failures": _failures(result.failures),
        **_optional(result),
    }
    if wait is not None:
        data["waited"] = {
            "synced": wait.synced,
            "failed": wait.failed,
            "gone": wait.gone,
            "running": wait.running,
            "jobs": asdict(wait.jobs),
            "seconds": round(wait.seconds, 1),
        }
        data["failed_links"] = _failures(wait.failures)
    return {"data": data}


def dry_run(result: BulkResult, links: Iterable[PlannedLink]) -> Document:
    """Of any command with `--dry-run`."""
    return {
        "data": {
            "message": "Dry run",
            "dry_run": True,
            **_counts(result),
            **_optional(result),
            "links": [_planned(link) for link in links],
        }
    }


def encode_dry_run(result: BulkResult, links: Iterable[PlannedLink]) -> Iterator[str]:
    """The same, encoded piece by piece: there may be a million links."""
    return encode_long(dry_run(result, []), map(_planned, links))


def encode_long(document: Document, items: Iterable[Document]) -> Iterator[str]:
    """A document piece by piece: the items go into its last empty list."""
    head, tail = encode(document).rsplit("[]", 1)
    yield head + "["
    separator = ""
    for item in items:
        yield separator + json.dumps(item)
        separator = ", "
    yield "]" + tail


def progress(operation: Progress, failures: KeptFailures) -> Document:
    """Of `progress`."""
    data = _progress(operation) | {"failures": _failures(failures.items)}
    if failures.not_kept:
        data["failures_not_kept"] = failures.not_kept
    return {"data": data}


def operations(known: Iterable[KnownOperation]) -> Document:
    """Of `operations`."""
    return {
        "data": [
            _progress(operation.progress)
            | {"state": operation.state, "last_step_at": moment(operation.last_step_at)}
            for operation in known
        ]
    }


def history(entries: Iterable[HistoryEntry]) -> Document:
    """Of `history`."""
    return {
        "data": [
            {
                "when": moment(entry.when),
                "who": entry.who,
                "command": entry.command,
                "selection": entry.selection,
                "reason": entry.reason,
                "operation_id": entry.operation_id,
                "counts": entry.counts,
                "state": entry.state,
            }
            for entry in entries
        ]
    }


def cancelled(operation_id: str) -> Document:
    """Of `cancel`."""
    return {"data": {"message": "Cancellation requested", "operation_id": operation_id}}


def error(problem: DocoraOpsError, done: Document | None = None) -> Document:
    """Of any command that failed; `done`: the document of what had been done by then."""
    document: Document = {"error": _text(problem.message), "code": problem.code}
    if problem.hint:
        document["hint"] = _text(problem.hint)
    if done is not None:
        document |= done
    return document | problem.details


def _text(argument: str) -> str:
    """Without the stray bytes that an argument may have: they are in no valid document."""
    return argument.encode(errors="backslashreplace").decode()


def _progress(operation: Progress) -> Document:
    return {
        "operation_id": operation.operation_id,
        "total": operation.total,
        "completed": operation.completed,
        "succeeded": operation.succeeded,
        "failed": operation.failed,
        "cancelled": operation.cancelled,
    }


def _failures(failures: Iterable[LinkFailure]) -> list[Document]:
    return [{"job_id": failure.job_id, "error": failure.error} for failure in failures]


def _counts(result: BulkResult) -> Document:
    return {
        "total": result.total,
        "completed": result.completed,
        "succeeded": result.succeeded,
        "failed": result.failed,
        "cancelled": result.cancelled,
        **{
            outcome.value: result.counts.get(outcome, 0)
            for outcome in Outcome
            if outcome is not Outcome.FAILED
        },
    }


def _optional(result: BulkResult) -> Document:
    """What only a resync, or only `--skip-open-circuits`, has to say."""
    fields: Document = {}
    if result.operation is Action.RESYNC:
        fields["deliveries_cleared"] = result.deliveries_cleared
    if result.open_circuits_left_out is not None:
        fields["open_circuits_left_out"] = result.open_circuits_left_out
    return fields


def _planned(link: PlannedLink) -> Document:
    return {
        "job_id": link.job_id,
        "outcome": link.outcome,
        "app_id": link.app_id,
        "app_name": link.app_name,
        "repository_id": link.repository_id,
        "repository": link.repository,
        "error": link.error,
    }
