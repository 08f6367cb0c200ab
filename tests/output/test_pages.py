"""Long lists have pages, with the same options, JSON and footer in each command."""

from __future__ import annotations

import pytest

from docora_ops.audit import Change
from docora_ops.queue import audit_stream as audit
from tests.support.docora import Docora

DONE = audit.AuditEvent.DONE
NO_DATABASE = {"DATABASE_URL": None}


@pytest.mark.parametrize(("command", "noun"), [("operations", "operation"), ("history", "change")])
def test_a_list_is_shown_page_by_page(docora: Docora, command: str, noun: str) -> None:
    store = docora.actions().store
    for number in range(5):
        docora.redis.hset(f"docora:bulk:bulk_{number}", "total", "9")
        change = Change("kim@ops1", "cancel", {})
        store.record(audit.audit_entry(change, DONE, operation_id=f"bulk_{number}"))
    every, last, past, shown_last, shown_past = docora.run_together(
        (command, "--json"),
        (command, "--limit", "2", "--page", "3", "--json"),
        (command, "--limit", "2", "--page", "4", "--json"),
        (command, "--limit", "2", "--page", "3"),
        (command, "--limit", "2", "--page", "4"),
        env=NO_DATABASE,
    )
    ids = [each["operation_id"] for each in every.data]
    assert sorted(ids) == [f"bulk_{number}" for number in range(5)]
    assert [each["operation_id"] for each in last.data] == ids[4:]
    counts = {"limit": 2, "total": 5, "total_pages": 3}
    assert last.json["pagination"] == {"page": 3, **counts}
    assert (past.data, past.json["pagination"]) == ([], {"page": 4, **counts})
    assert [each for each in ids if each in shown_last.stdout] == ids[4:]
    assert shown_last.stderr.endswith(f": 5 {noun}s, page 3 of 3.\n")
    assert shown_past.stderr.startswith("Redis ")
    assert shown_past.stderr.endswith(f": 5 {noun}s, and no page 4: the last one is 3.\n")
    assert (shown_past.stdout.count("\t") > 0, shown_past.stdout.count("\n")) == (True, 1)
    assert not any(each.stderr for each in (last, past))
