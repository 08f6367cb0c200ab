"""A pass of the schedule: which links are due, and that nothing but their jobs comes of it."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta

import pytest
from rq.job import Job, JobStatus

from docora_ops.links import Action, App, LinkStatus, Outcome
from tests.schedule.checks import jobs, rows, set_all
from tests.support.docora import Docora
from tests.support.rows import AUTH_KEY, GITHUB_TOKEN, TestLink

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


# What is due


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
    before = rows(docora)
    actions = docora.actions()

    result = actions.schedule()
    assert jobs(docora) == expected
    assert docora.waiting() == sorted(expected)
    assert rows(docora) == before
    assert result.operation is Action.SCHEDULE
    assert result.counts == {Outcome.QUEUED: 13}
    assert result.by_app == {App(app_id, "Acme Search"): {Outcome.QUEUED: 13}}
    assert (result.total, result.operation_id, result.failures) == (13, None, ())

    again = actions.schedule()
    assert again.counts == {Outcome.ALREADY_QUEUED: 13}
    assert jobs(docora) == expected
    assert rows(docora) == before
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


def test_nothing_due_is_nothing_to_do(docora: Docora) -> None:
    docora.add_link("scanning")
    docora.add_link("synced", scanned=timedelta(minutes=1))
    before = docora.dump()
    result = docora.actions().schedule()
    assert (result.total, result.completed, result.counts) == (0, 0, {})
    assert docora.dump() == before


@pytest.mark.parametrize("batch_size", [1, 3, 1000])
def test_jobs_stand_in_the_queue_by_app_id_then_repository_id(
    docora: Docora, batch_size: int
) -> None:
    docora.add_links(40, apps=4, status="pending_snapshot")
    set_all(docora, "status = 'synced'", "right(repository_id, 1) < '5'")
    docora.actions().schedule(batch_size=batch_size)
    assert docora.waiting() == [link.job_id for link in docora.links()]
    assert set(jobs(docora).values()) == {True, False}


# Jobs that are there already


def add_every_job(docora: Docora) -> dict[str, TestLink]:
    """Links that are due, in turn pending, in sync and failed, each with another kind of job."""
    kinds = (
        *("none", "failed job", "finished job", "orphan", "dead heartbeat", "hash gone"),
        *("waiting", "waiting, expires", "scheduled", "deferred", "running", "lock held"),
        *("locked and waiting", "wrong type", "bad id"),
    )
    app_id = docora.add_app("Acme Search")
    links = {}
    for number, kind in enumerate(kinds):
        given = "repo.bad" if kind == "bad id" else None
        repository_id = docora.add_repository(f"octo/{number}", given)
        status = ("pending_snapshot", "synced", "failed")[number % 3]
        links[kind] = link = docora.link(app_id, repository_id, status)
        match kind:
            case "failed job":
                docora.leave_job(link.job_id, JobStatus.FAILED)
            case "finished job":
                docora.leave_job(link.job_id, JobStatus.FINISHED)
            case "orphan":
                docora.leave_job(link.job_id, JobStatus.QUEUED)
            case "dead heartbeat":
                docora.start_job(link.job_id, heartbeat=-30)
            case "hash gone":
                docora.redis.rpush(docora.queue.key, link.job_id)
            case "waiting":
                docora.enqueue(link.job_id)
            case "waiting, expires":
                docora.enqueue(link.job_id)
                docora.redis.expire(Job.key_for(link.job_id), 300)
            case "scheduled":
                docora.schedule_job(link.job_id)
            case "deferred":
                docora.leave_job(link.job_id, JobStatus.DEFERRED)
            case "running":
                docora.start_job(link.job_id)
            case "lock held":
                docora.hold_lock(link.job_id)
            case "locked and waiting":
                docora.enqueue(link.job_id)
                docora.hold_lock(link.job_id)
            case "wrong type":
                docora.redis.set(Job.key_for(link.job_id), "not a hash")
    return links


LEFTOVERS = ("failed job", "finished job", "orphan", "dead heartbeat", "hash gone")
LIVE = (
    *("waiting", "waiting, expires", "scheduled", "deferred", "running", "lock held"),
    "locked and waiting",
)
EXPECTED = {
    Outcome.QUEUED: 1,
    Outcome.REPLACED_STALE: 5,
    Outcome.ALREADY_QUEUED: 4,
    Outcome.ALREADY_RUNNING: 3,
    Outcome.FAILED: 2,
}


@pytest.mark.parametrize("batch_size", [1, 2, 7, 1000])
def test_live_jobs_are_kept_and_leftovers_replaced(docora: Docora, batch_size: int) -> None:
    links = add_every_job(docora)
    before = rows(docora)
    live = {kind: docora.job_hash(links[kind].job_id) for kind in LIVE}
    standing = {kind: docora.registries(links[kind].job_id) for kind in LIVE}
    result = docora.actions().schedule(batch_size=batch_size)
    assert result.counts == EXPECTED
    assert rows(docora) == before
    for kind in LIVE:
        assert docora.job_hash(links[kind].job_id) == live[kind], kind
        assert docora.registries(links[kind].job_id) == standing[kind], kind
    assert docora.redis.ttl(Job.key_for(links["waiting, expires"].job_id)) == -1
    fresh = ["none", *LEFTOVERS]
    for kind in fresh:
        job = docora.job(links[kind])
        assert job.kwargs["is_rescan"] is (docora.status(links[kind]) != "pending_snapshot"), kind
        assert docora.registries(job.id) == set(), kind
    expected = [*fresh, "waiting", "waiting, expires", "locked and waiting"]
    assert sorted(docora.waiting()) == sorted(links[kind].job_id for kind in expected)
    reasons = {failure.job_id: failure.error for failure in result.failures}
    assert reasons.keys() == {links["wrong type"].job_id, links["bad id"].job_id}
    assert "WRONGTYPE" in reasons[links["wrong type"].job_id]
    assert "can't form a job id" in reasons[links["bad id"].job_id]


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_a_dry_run_foretells_the_pass_and_changes_nothing(docora: Docora, batch_size: int) -> None:
    add_every_job(docora)
    before = docora.dump()
    actions = docora.actions()
    plan = actions.schedule(batch_size=batch_size, dry_run=True)
    assert docora.dump() == before
    assert plan.counts == EXPECTED
    assert plan.links is not None
    assert Counter(link.outcome for link in plan.links) == EXPECTED
    result = actions.schedule(batch_size=batch_size)
    assert (result.counts, result.by_app) == (plan.counts, plan.by_app)


def test_of_two_links_with_one_job_id_only_one_gets_a_job(docora: Docora) -> None:
    docora.add_links(3, status="synced")
    first = docora.link(docora.add_app("One", "a-b"), docora.add_repository("octo/1", "c"))
    second = docora.link(docora.add_app("Two", "a"), docora.add_repository("octo/2", "b-c"))
    assert first.job_id == second.job_id == "a-b-c"
    actions = docora.actions()
    plan = actions.schedule(dry_run=True)
    result = actions.schedule()
    assert result.counts == plan.counts == {Outcome.QUEUED: 4, Outcome.FAILED: 1}
    assert "held by the job of another link" in result.failures[0].error
    assert docora.waiting().count("a-b-c") == 1
    again = actions.schedule()
    assert again.counts == {Outcome.ALREADY_QUEUED: 4, Outcome.FAILED: 1}


def test_thousands_of_waiting_jobs_are_all_kept(docora: Docora) -> None:
    docora.add_links(5_000, apps=4, status="synced")
    actions = docora.actions()
    assert actions.schedule(batch_size=1000).counts == {Outcome.QUEUED: 5_000}
    waiting = docora.waiting()
    assert actions.schedule().counts == {Outcome.ALREADY_QUEUED: 5_000}
    assert docora.waiting() == waiting
