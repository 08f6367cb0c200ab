"""Many commands, and other producers, at the same links at once."""

from dataclasses import replace

import pytest

from tests.support.bulk_actions import RESYNC, RETRY, BulkAction
from tests.support.docora import Docora, finish
from tests.support.running_commands import PATIENT, starting_line

PROCESSES = 10
TOTAL = 600
AT_ONCE = {**PATIENT, "DOCORA_OPS_DRIFT_GRACE": "0"}


def test_ten_processes_that_retry_one_link_at_once_leave_one_job(docora: Docora) -> None:
    link = docora.add_link()
    with starting_line(docora, PROCESSES, "SELECT 1 FROM app_repositories FOR UPDATE"):
        command = ("retry", *link.ids, "--json")
        processes = [docora.start(*command, env=PATIENT) for _ in range(PROCESSES)]
    results = [finish(process) for process in processes]
    outcomes = [result.data["outcome"] for result in results if result.code == 0]
    assert outcomes == ["queued"], "the first found the link failed, the others found it pending"
    for result in results:
        if result.code:
            refusal = [result.json[name] for name in ("code", "status", "job")]
            assert (result.code, refusal) == (4, ["not_failed", "pending_snapshot", "waiting"])
    assert docora.waiting() == [link.job_id]
    assert docora.registries(link.job_id) == set()
    assert docora.was_reset(link)


@pytest.mark.parametrize(
    "together",
    [
        [
            replace(RETRY, command=("retry-all-failed", "--batch-size", size))
            for size in ("500", "100", "70", "30")
        ],
        [RETRY, RESYNC],
    ],
    ids=["four retries", "retry and resync"],
)
def test_bulk_actions_at_once_leave_one_job_for_each_link(
    docora: Docora, together: list[BulkAction]
) -> None:
    together[0].add_links(docora, TOTAL)
    with starting_line(docora, len(together)):
        processes = [docora.start(*bulk.command, "--json", env=AT_ONCE) for bulk in together]
    results = [finish(process) for process in processes]
    for result in results:
        assert result.code == 0, result
        # One that wakes up late finds fewer links.
        assert result.data["total"] == result.data["completed"]
        assert result.data["put_to_work"] + result.data["skipped"] == result.data["total"]
    assert sum(result.data["queued"] for result in results) == TOTAL
    assert sorted(docora.waiting()) == [link.job_id for link in docora.links()]
    docora.assert_sound()
    assert docora.statuses() == {"pending_snapshot": TOTAL}
