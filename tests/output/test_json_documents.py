"""The field names of the JSON documents, which scripts rely on."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

import pytest

from docora_ops.audit import HistoryEntry, HistoryState
from docora_ops.bulk import BulkResult, KnownOperation, OperationState, Progress
from docora_ops.errors import NotFailedError, PostgresError, UsageError
from docora_ops.links import (
    Action,
    App,
    Link,
    LinkFailure,
    LinkRef,
    LinkResult,
    Outcome,
    Payload,
    PlannedLink,
)
from docora_ops.render import bulk, history, link_result, operations
from docora_ops.render.json import Document, encode, error_document

LINK = Link(
    LinkRef("row-id", "app_1", "repo_1"),
    Payload(
        app_id="app_1",
        app_name="Acme Search",
        repository_id="repo_1",
        github_url="https://github.com/octo/api",
        owner="octo",
        name="api",
        base_url="https://acme.example",
        github_token_encrypted="secret-token",
        client_auth_key_encrypted="secret-key",
    ),
    "failed",
    5,
    "HTTP 500",
    datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
)
RESULT = LinkResult(Action.RETRY, LINK, Outcome.QUEUED, LINK.circuit_open_until)
COUNTS = {
    Outcome.QUEUED: 6,
    Outcome.REPLACED_STALE: 5,
    Outcome.ALREADY_QUEUED: 4,
    Outcome.ALREADY_RUNNING: 3,
    Outcome.SKIPPED: 2,
    Outcome.FAILED: 1,
}
BULK = BulkResult(
    action=Action.RETRY,
    operation_id="bulk_0123456789abcdef",
    total=21,
    counts=COUNTS,
    by_app={App("app_1", "Acme Search"): COUNTS},
    failures=(LinkFailure("app_1-repo_1", "HTTP 500"),),
)
COUNT_FIELDS = {
    "total": 21,
    "completed": 21,
    "succeeded": 15,
    "failed": 1,
    "cancelled": False,
    "queued": 6,
    "replaced_stale": 5,
    "already_queued": 4,
    "already_running": 3,
    "skipped": 2,
}


def decoded(document: Document) -> Any:
    """As a script gets it."""
    text = encode(document)
    assert text.isascii()
    assert "\n" not in text
    assert "secret" not in text
    return json.loads(text)


def test_a_retry() -> None:
    assert decoded(link_result.document(RESULT, workers=2)) == {
        "data": {
            "message": "Retry queued",
            "job_id": "app_1-repo_1",
            "outcome": "queued",
            "app_id": "app_1",
            "app_name": "Acme Search",
            "repository_id": "repo_1",
            "repository_name": "octo/api",
            "previous": {"status": "failed", "retry_count": 5, "error_message": "HTTP 500"},
            "circuit_open_until": "2026-01-02T03:04:05.000Z",
            "workers": 2,
        }
    }


def test_a_resync_says_in_addition_what_was_forgotten() -> None:
    retry = decoded(link_result.document(RESULT, workers=0))["data"]
    resynced = replace(RESULT, action=Action.RESYNC, deliveries_cleared=7)
    assert decoded(link_result.document(resynced, workers=0))["data"] == {
        **retry,
        "message": "Re-sync queued",
        "deliveries_cleared": 7,
    }


@pytest.mark.parametrize("outcome", ["queued", "replaced_stale", "already_queued"])
def test_a_link_that_has_a_job_waiting_was_queued_in_docoras_words(outcome: str) -> None:
    result = replace(RESULT, outcome=Outcome(outcome))
    data = decoded(link_result.document(result, workers=0))["data"]
    assert (data["message"], data["outcome"]) == ("Retry queued", outcome)


def test_a_running_snapshot_was_not_queued() -> None:
    result = replace(RESULT, outcome=Outcome.ALREADY_RUNNING)
    data = decoded(link_result.document(result, workers=0))["data"]
    assert data["outcome"] == "already_running"
    assert "queued" not in data["message"]


def test_a_closed_circuit_and_no_error_are_null() -> None:
    result = replace(RESULT, link=replace(LINK, error_message=None), circuit_open_until=None)
    data = decoded(link_result.document(result, workers=0))["data"]
    assert (data["circuit_open_until"], data["previous"]["error_message"]) == (None, None)


def test_a_bulk_retry() -> None:
    assert decoded(bulk.document(BULK)) == {
        "data": {
            "message": "Bulk retry started",
            "operation_id": "bulk_0123456789abcdef",
            **COUNT_FIELDS,
            "failures": [{"job_id": "app_1-repo_1", "error_message": "HTTP 500"}],
        }
    }


def test_a_bulk_retry_that_found_nothing() -> None:
    empty = BulkResult(Action.RETRY, None, 0, {}, {})
    assert decoded(bulk.document(empty)) == {
        "data": {
            "message": "No failed notifications found",
            "operation_id": None,
            **dict.fromkeys(COUNT_FIELDS, 0),
            "cancelled": False,
            "failures": [],
        }
    }


def test_a_bulk_retry_that_left_open_circuits_out_says_how_many() -> None:
    data = decoded(bulk.document(replace(BULK, open_circuits_left_out=4)))["data"]
    assert data["open_circuits_left_out"] == 4


def test_a_bulk_resync() -> None:
    resynced = replace(BULK, action=Action.RESYNC, deliveries_cleared=9)
    retry = decoded(bulk.document(BULK))["data"]
    assert decoded(bulk.document(resynced))["data"] == {
        **retry,
        "message": "Bulk re-sync started",
        "deliveries_cleared": 9,
    }


SCHEDULED = replace(BULK, action=Action.SCHEDULE, operation_id=None)


def test_a_pass_of_the_schedule() -> None:
    assert decoded(bulk.document(SCHEDULED)) == {
        "data": {
            "message": "Schedule pass done",
            "operation_id": None,
            **COUNT_FIELDS,
            "failures": [{"job_id": "app_1-repo_1", "error_message": "HTTP 500"}],
        }
    }


def test_a_pass_of_the_schedule_that_found_nothing() -> None:
    empty = BulkResult(Action.SCHEDULE, None, 0, {}, {})
    assert decoded(bulk.document(empty)) == {
        "data": {
            "message": "Nothing is due",
            "operation_id": None,
            **dict.fromkeys(COUNT_FIELDS, 0),
            "cancelled": False,
            "failures": [],
        }
    }


def test_a_pass_of_the_schedule_that_was_stopped_is_not_done() -> None:
    data = decoded(bulk.document(replace(SCHEDULED, total=22, cancelled=True)))["data"]
    assert data == {
        **decoded(bulk.document(SCHEDULED))["data"],
        "message": "Schedule pass stopped",
        "total": 22,
        "cancelled": True,
    }


def test_all_failures_are_in_the_document() -> None:
    failures = tuple(LinkFailure(f"job-{number}", "error") for number in range(500))
    data = decoded(bulk.document(replace(BULK, failures=failures)))["data"]
    assert len(data["failures"]) == 500


def test_a_dry_run() -> None:
    planned = [
        PlannedLink("app_1", "Acme Search", "repo_1", "octo/api", Outcome.QUEUED),
        PlannedLink("app_1", "Acme Search", "repo 2", "octo/web", Outcome.FAILED, "no job id"),
    ]
    document = json.loads("".join(bulk.encode_plan(replace(BULK, operation_id=None), planned)))
    assert document == {
        "data": {
            "message": "Dry run",
            "dry_run": True,
            **COUNT_FIELDS,
            "links": [
                {
                    "job_id": "app_1-repo_1",
                    "outcome": "queued",
                    "app_id": "app_1",
                    "app_name": "Acme Search",
                    "repository_id": "repo_1",
                    "repository_name": "octo/api",
                    "error_message": None,
                },
                {
                    "job_id": "app_1-repo 2",
                    "outcome": "failed",
                    "app_id": "app_1",
                    "app_name": "Acme Search",
                    "repository_id": "repo 2",
                    "repository_name": "octo/web",
                    "error_message": "no job id",
                },
            ],
        }
    }


def test_progress() -> None:
    operation = Progress("bulk_0", total=10, completed=4, succeeded=3, failed=1, cancelled=True)
    expected: dict[str, Any] = {
        "operation_id": "bulk_0",
        "total": 10,
        "completed": 4,
        "succeeded": 3,
        "failed": 1,
        "cancelled": True,
        "failures": [],
    }
    assert decoded(operations.progress_document(operation, [], 0)) == {"data": expected}
    expected["failures"] = [{"job_id": "app_1-repo_1", "error_message": "no job id"}]
    expected["failures_not_kept"] = 2
    failures = [LinkFailure("app_1-repo_1", "no job id")]
    assert decoded(operations.progress_document(operation, failures, 3)) == {"data": expected}


def test_operations() -> None:
    step = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    operation = Progress("bulk_0", total=10, completed=4, succeeded=3, failed=1, cancelled=False)
    known = [
        KnownOperation(**asdict(operation), state=OperationState.OWNER_GONE, last_step_at=step),
        KnownOperation(**asdict(operation), state=OperationState.RUNNING, last_step_at=None),
    ]
    common = {
        "operation_id": "bulk_0",
        "total": 10,
        "completed": 4,
        "succeeded": 3,
        "failed": 1,
        "cancelled": False,
    }
    assert decoded(operations.list_document(known)) == {
        "data": [
            common | {"state": "owner_gone", "last_step_at": "2026-01-02T03:04:05.000Z"},
            common | {"state": "running", "last_step_at": None},
        ]
    }


def test_history() -> None:
    when = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    selection: dict[str, str | int] = {"error": "HTTP 502", "limit": 5}
    counts = {"total": 2, "queued": 2}
    run = HistoryEntry(
        when, "kim@ops1", "retry-all-failed", selection, "why", "bulk_0", counts, HistoryState.DONE
    )
    single = replace(run, reason=None, operation_id=None, state=HistoryState.NOT_FINISHED)
    expected = {
        "started_at": "2026-01-02T03:04:05.000Z",
        "who": "kim@ops1",
        "command": "retry-all-failed",
        "selection": {"error": "HTTP 502", "limit": 5},
        "reason": "why",
        "operation_id": "bulk_0",
        "counts": {"total": 2, "queued": 2},
        "state": "done",
    }
    assert decoded(history.document([run, single])) == {
        "data": [
            expected,
            expected | {"reason": None, "operation_id": None, "state": "not_finished"},
        ]
    }


def test_a_cancellation() -> None:
    assert decoded(operations.cancel_document("bulk_0")) == {
        "data": {"message": "Cancellation requested", "operation_id": "bulk_0"}
    }


def test_an_error() -> None:
    assert decoded(error_document(UsageError("no such option: --frunt"))) == {
        "error": "no such option: --frunt",
        "code": "usage",
    }


def test_a_refusal_shows_the_status_of_link_and_job() -> None:
    refusal = NotFailedError(
        "Only failed entries can be retried",
        hint="wait",
        details={"status": "scanning", "job": "running"},
    )
    assert decoded(error_document(refusal)) == {
        "error": "Only failed entries can be retried",
        "code": "not_failed",
        "hint": "wait",
        "status": "scanning",
        "job": "running",
    }


def test_a_bulk_run_that_lost_its_server_shows_what_was_done() -> None:
    document = decoded(error_document(PostgresError("gone", hint="look"), bulk.document(BULK)))
    assert document == {
        "error": "gone",
        "code": "postgres",
        "hint": "look",
        "data": decoded(bulk.document(BULK))["data"],
    }


def test_nothing_in_a_document_can_act_on_a_terminal() -> None:
    hostile = replace(LINK, error_message="\x1b[2J\n\u202e💥")
    data = decoded(link_result.document(replace(RESULT, link=hostile), workers=0))["data"]
    assert data["previous"]["error_message"] == "\x1b[2J\n\u202e💥"


def test_a_dry_run_is_encoded_in_pieces_whatever_the_names_are() -> None:
    links = [
        PlannedLink("app_1", "[]", f"repo_{number}", 'o/"[]"', Outcome.QUEUED)
        for number in range(3)
    ]
    result = BulkResult(Action.RETRY, None, 3, {Outcome.QUEUED: 3}, {})
    for some in (links, []):
        data = json.loads("".join(bulk.encode_plan(result, some)))["data"]
        assert data["links"] == [{"job_id": link.job_id, **asdict(link)} for link in some]
