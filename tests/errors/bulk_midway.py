"""A bulk retry that is held in the middle, and what it then has done."""

from typing import Any

from tests.support.docora import Docora, Result
from tests.support.proxy import PUSH, Fault, Plan, Proxy, eventually


def hold_bulk(docora: Docora, proxy: Proxy, links: int) -> tuple[Any, Plan]:
    """A bulk retry in batches of ten, four of them done, the fifth reset but not pushed."""
    docora.add_links(links, apps=2)
    push = proxy.plan(PUSH, Fault.HOLD_REQUEST, number=5)
    process = docora.start(
        *("retry-all-failed", "--batch-size", "10", "--json"),
        env={"REDIS_URL": proxy.url, "DOCORA_OPS_CONNECT_TIMEOUT": "1"},
    )
    push.wait()
    eventually(lambda: docora.statuses().get("pending_snapshot") == 40, "four batches committed")
    return process, push


def tells_what_was_done(docora: Docora, document: Any, result: Result, done: int) -> None:
    data = document["data"]
    assert (data["total"], data["completed"]) == (200, done)
    assert data["succeeded"] == data["queued"] + data["already_queued"] == done
    assert data["operation_id"].startswith("bulk_")
    assert f"Stopped after {done} of 200 links." in result.stderr
    assert docora.statuses() == {"failed": 200 - done, "pending_snapshot": done}


def rest_is_finished(docora: Docora, already_queued: int) -> None:
    """By the same command again."""
    left = docora.statuses()["failed"]
    rest = docora.run("retry-all-failed", "--json")
    assert rest.code == 0, rest
    assert rest.data["total"] == rest.data["succeeded"] == left
    assert rest.data["already_queued"] == already_queued
    assert docora.statuses() == {"pending_snapshot": 200}
    assert len(docora.waiting()) == 200
    docora.assert_sound()
