"""What is seen of the stores while docora-ops is at work, and after it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from docora_ops.actions.batch import STUCK_ERROR
from docora_ops.errors import DocoraOpsError
from docora_ops.jobs import JobState
from docora_ops.links import LinkResult, Outcome
from tests.jobs.machine.situation import LIVE, Situation
from tests.jobs.machine.world import World
from tests.support.row_locks import row_locks
from tests.support.rows import TestLink


class Watch(World):
    """The world, and how it compares with what was predicted."""

    def see_after_us(self) -> Situation:
        """Look at both stores after an action: no link is lost that was not lost before."""
        now = self.see()
        lost = now.lost - self.lost_by_others
        assert not lost, lost
        self.lost_by_others = now.lost
        return now

    def compare(self, expected: Situation) -> None:
        """All is as it should be."""
        differences = expected.differences(self.see_after_us())
        assert not differences, "\n".join(differences)

    def compare_half_way(self, before: Situation, expected: Situation) -> None:
        """Each link is as it was, or as it should be."""
        strange = expected.half_way(before, self.see_after_us())
        assert not strange, "\n".join(strange)

    def compare_repaired(self, before: Situation, locked: str | None) -> None:
        """No link is without a job, what was live is so still, and nothing is left to do."""
        after = self.see_after_us()
        self.compare_live(before, after)
        todo = {job_id for job_id in before.without_job if job_id != locked}
        for job_id, row in before.rows.items():
            if job_id not in todo:
                assert after.rows[job_id] == row
                continue
            changes: dict[str, Any] = {"status": "pending_snapshot"}
            if row.status == "scanning":
                changes |= {"retry_count": row.retry_count + 1, "last_error": STUCK_ERROR}
                if row.retry_count + 1 >= self.docora.settings.max_retry_attempts:
                    assert after.rows[job_id].is_like(row, **(changes | {"status": "failed"}))
                    continue
            assert after.rows[job_id].is_like(row, **changes)
            is_rescan = row.status != "pending_snapshot"
            assert after.jobs[job_id].is_fresh(is_rescan, self.known[job_id])
        if locked is None:
            if any(job.places > 1 for job in after.jobs.values()):
                # A new job was queued for an id that still stood in the list.
                self.actions.repair()
            assert self.actions.drift().total == 0
            dump = self.docora.dump()
            self.actions.repair()
            assert self.docora.dump() == dump

    def compare_live(self, before: Situation, after: Situation) -> None:
        for job_id, job in before.jobs.items():
            if job.state is JobState.RUNNING:
                assert after.jobs[job_id] == job
            elif job.state in LIVE and job_id in before.rows and not job.is_misplaced:
                assert after.jobs[job_id].state is job.state
                assert after.jobs[job_id].fields == job.fields

    @contextmanager
    def row_locked(self, link: TestLink | None) -> Iterator[str | None]:
        """Its job id if another session holds the row of the link meanwhile."""
        if link is None or link.job_id not in self.latest.rows:
            yield None
            return
        with row_locks(self.docora, link):
            yield link.job_id


def assert_predicted(
    predicted: Outcome | DocoraOpsError, result: LinkResult | DocoraOpsError
) -> None:
    """The call has returned this outcome, or raised this error with these details."""
    if isinstance(result, LinkResult) and isinstance(predicted, Outcome):
        assert result.outcome is predicted, f"{predicted} predicted, {result.outcome} found"
    else:
        assert isinstance(result, type(predicted)), f"{predicted!r} predicted, {result!r} found"
        assert isinstance(predicted, DocoraOpsError)
        assert result.details == predicted.details, f"{predicted.details}, {result.details}"
