"""Which links are due for the schedule. It makes their jobs and changes nothing else."""

from datetime import timedelta

from rq.job import Job

from docora_ops.links import Action, LinkStatus, Outcome
from tests.support.docora import Docora

STATUSES = (*LinkStatus, "archived")
CIRCUITS = {
    "never open": None,
    "closed again": timedelta(minutes=-1),
    "open": timedelta(minutes=20),
}
SCANS = {"never": None, "recently": timedelta(minutes=4), "long ago": timedelta(minutes=6)}
NOT_OPEN = ("never open", "closed again")
DUE = {
    **{("pending_snapshot", circuit, scan): False for circuit in NOT_OPEN for scan in SCANS},
    **{("synced", circuit, scan): True for circuit in NOT_OPEN for scan in ("never", "long ago")},
    **{("failed", "never open", scan): True for scan in SCANS},
}
"""Whether the job is a rescan, by the status, circuit and scan of each link that is due."""


def rescans(docora: Docora) -> dict[str, bool]:
    """The rescan flag of each job in the queue, by its id."""
    return {
        job_id: Job.fetch(job_id, connection=docora.redis).kwargs["is_rescan"]
        for job_id in docora.waiting()
    }


def test_exactly_the_links_that_are_due_get_a_job_and_no_row_is_written(docora: Docora) -> None:
    app_id = docora.add_app("Acme Search")
    expected = {}
    for status in STATUSES:
        for circuit, open_for in CIRCUITS.items():
            for scan, ago in SCANS.items():
                name = f"octo/{status}-{circuit}-{scan}".replace(" ", "-")
                repository_id = docora.add_repository(name, circuit_open_for=open_for)
                link = docora.link(app_id, repository_id, status, scanned=ago)
                docora.add_deliveries(link, 1)
                if (status, circuit, scan) in DUE:
                    expected[link.job_id] = DUE[status, circuit, scan]
    assert len(expected) == 13
    before = docora.dump()[0]
    actions = docora.actions()

    result = actions.schedule()
    assert rescans(docora) == expected
    assert docora.waiting() == sorted(expected)
    assert docora.dump()[0] == before
    assert result.action is Action.SCHEDULE
    assert result.counts == {Outcome.QUEUED: 13}
    assert (result.total, result.operation_id, list(result.failures)) == (13, None, [])

    again = actions.schedule()
    assert again.counts == {Outcome.ALREADY_QUEUED: 13}
    assert rescans(docora) == expected
    assert docora.dump()[0] == before
    assert docora.redis.keys("docora:*") == []


def test_the_interval_decides_which_links_in_sync_are_due(docora: Docora) -> None:
    old, new = (docora.add_link("synced", scanned=timedelta(hours=age)) for age in (6, 4))
    future = docora.add_link("synced", scanned=timedelta(hours=-1))
    never = docora.add_link("synced")
    docora.actions(rescan_interval_ms=10 * 365 * 86_400_000).schedule()
    assert docora.waiting() == [never.job_id]
    docora.actions(rescan_interval_ms=5 * 3_600_000).schedule()
    assert docora.waiting() == [never.job_id, old.job_id]
    docora.actions(rescan_interval_ms=0).schedule()
    assert set(docora.waiting()) == {never.job_id, old.job_id, new.job_id}
    assert future.job_id not in docora.waiting()
