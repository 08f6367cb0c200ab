"""A stuck link gets one answer, whoever finds it: `repair`, or a worker that tidies up."""

from collections.abc import Callable

import pytest

from docora_ops.actions.fix_drift import recover_abandoned
from tests.support.docora import Docora

ATTEMPTS = 5


def by_repair(docora: Docora) -> str | None:
    result = docora.run("repair", "--json", env={"DOCORA_OPS_DRIFT_GRACE": "0"})
    assert result.data["stuck"] == 1
    failures = [each for each in result.data["repaired"] if each["outcome"] == "not_repaired"]
    assert result.code == (6 if failures else 0), result
    return str(failures) if failures else None


def by_a_worker(docora: Docora) -> str | None:
    actions = docora.actions()
    [recovered] = recover_abandoned(actions.database, actions.queue, ATTEMPTS)
    return recovered.error_message


@pytest.mark.parametrize("recover", [by_repair, by_a_worker])
def test_a_stuck_link_counts_a_failure_and_is_queued_again(
    docora: Docora, recover: Callable[[Docora], str | None]
) -> None:
    link = docora.add_link("scanning", retry_count=ATTEMPTS - 2, last_error=None)
    assert recover(docora) is None
    row = docora.row(link)
    assert (row["status"], row["retry_count"]) == ("pending_snapshot", ATTEMPTS - 1)
    assert row["last_error"] == "the snapshot was cut off: its worker was killed"
    assert docora.waiting() == [link.job_id]
    assert docora.job(link).kwargs["is_rescan"] is True


@pytest.mark.parametrize("recover", [by_repair, by_a_worker])
def test_a_link_that_was_stuck_too_often_is_failed_and_not_queued(
    docora: Docora, recover: Callable[[Docora], str | None]
) -> None:
    link = docora.add_link("scanning", retry_count=ATTEMPTS - 1)
    error = recover(docora)
    assert error is not None
    assert "cut off too often: the link is failed now" in error
    row = docora.row(link)
    assert (row["status"], row["retry_count"]) == ("failed", ATTEMPTS)
    assert row["last_error"] == "the snapshot was cut off: its worker was killed"
    assert docora.waiting() == []
    # As for any failed link, a retry brings it back.
    assert docora.run("retry", *link.ids).code == 0
    assert docora.waiting() == [link.job_id]
