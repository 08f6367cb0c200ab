"""Which links are due for the schedule. It makes their jobs and changes nothing else."""

from datetime import timedelta

import pytest
from rq.job import Job, JobStatus

from docora_ops.links import Action, LinkStatus, Outcome
from tests.support.docora import Docora
from tests.support.rows import AUTH_KEY, GITHUB_TOKEN

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


@pytest.mark.parametrize(
    ("interval", "due"),
    [
        (0, {"a minute", "4 hours", "6 hours"}),
        (5 * 3_600_000, {"6 hours"}),
        (10 * 365 * 86_400_000, set()),
    ],
)
def test_the_interval_decides_which_links_in_sync_are_due(
    docora: Docora, interval: int, due: set[str]
) -> None:
    ages = {
        "a minute": timedelta(minutes=1),
        "4 hours": timedelta(hours=4),
        "6 hours": timedelta(hours=6),
    }
    links = {age: docora.add_link("synced", scanned=ago) for age, ago in ages.items()}
    future = docora.add_link("synced", scanned=timedelta(hours=-1))
    never = docora.add_link("synced")
    docora.actions(rescan_interval_ms=interval).schedule()
    assert set(docora.waiting()) == {never.job_id, *(links[age].job_id for age in due)}
    assert future.job_id not in docora.waiting()


@pytest.mark.parametrize("status", ["pending_snapshot", "synced", "failed"])
def test_the_job_carries_the_link_as_it_is(docora: Docora, status: str) -> None:
    app_id = docora.add_app("Grüße 💥")
    repository_id = docora.add_repository("octo/api", url="https://github.com/octo/api")
    link = docora.link(app_id, repository_id, status)
    docora.actions().schedule()
    job = docora.job(link)
    assert job.kwargs == {
        "app_id": app_id,
        "app_name": "Grüße 💥",
        "repository_id": repository_id,
        "github_url": "https://github.com/octo/api",
        "owner": "octo",
        "name": "api",
        "base_url": "https://acme.example/docora",
        "github_token_encrypted": GITHUB_TOKEN,
        "client_auth_key_encrypted": AUTH_KEY,
        "is_rescan": status != "pending_snapshot",
    }
    assert (job.get_status(), job.description) == (JobStatus.QUEUED, "octo/api → Grüße 💥")
    assert job.retries_left == 4
