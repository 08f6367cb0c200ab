"""Each state of a job in BullMQ, and what each change makes of it."""

from collections.abc import Callable

import pytest

from tests.support.bullmq import Bullmq
from tests.support.rows import TestLink

Arrange = Callable[[Bullmq, TestLink], None]

STATES: dict[str, tuple[Arrange, str, str, str]] = {
    "none": (lambda _bullmq, _link: None, "none", "reset", "Link reset"),
    "waiting": (Bullmq.add, "waiting", "already_queued", "Retry queued"),
    "paused": (Bullmq.pause, "waiting", "already_queued", "Retry queued"),
    "delayed": (Bullmq.delay, "waiting", "already_queued", "Retry queued"),
    "completed": (Bullmq.complete, "finished", "reset", "Link reset"),
    "failed": (Bullmq.fail, "stale", "reset", "Link reset"),
    "failed once": (Bullmq.fail_once, "waiting", "already_queued", "Retry queued"),
    "active": (Bullmq.start, "running", "already_running", "Snapshot already running"),
    "stalled": (Bullmq.stall, "running", "already_running", "Snapshot already running"),
}
"""Per state: how it comes about, our word for it, the outcome of a retry, and its message."""
IN_SHORT = {"none", "waiting", "active"}
"""The states that `make test` looks at."""


@pytest.mark.parametrize(
    "state",
    [
        state if state in IN_SHORT else pytest.param(state, marks=pytest.mark.matrix)
        for state in STATES
    ],
)
def test_each_state_has_its_outcome_and_nothing_is_written_to_bullmq(
    bullmq: Bullmq, state: str
) -> None:
    docora = bullmq.docora
    link = docora.add_link()
    arrange, ours, outcome, message = STATES[state]
    arrange(bullmq, link)
    row, keys = docora.row(link), bullmq.kept_keys()

    shown = bullmq.run("show", *link.ids, "--json").data
    planned = bullmq.run("retry", *link.ids, "--dry-run", "--json")
    result = bullmq.run("retry", *link.ids, "--json")

    assert shown["job"] == ours
    assert planned.data["outcome"] == result.data["outcome"] == outcome, result
    assert (result.code, result.data["job_id"]) == (0, link.job_id)
    assert result.data["message"].startswith(message)
    assert bullmq.kept_keys() == keys
    if outcome == "already_running":
        resynced = bullmq.run("resync", *link.ids, "--yes", "--json")
        assert (resynced.code, resynced.json["code"]) == (4, "snapshot_running"), resynced
        assert docora.row(link) == row
    else:
        assert docora.was_reset(link)
    assert docora.redis.keys("rq:*") == []
