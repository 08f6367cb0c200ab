"""Bulk operations: which links are chosen, in which order, and what becomes of them."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta

import pytest
from rq.job import Job, JobStatus

from docora_ops.errors import NotFoundError
from docora_ops.links import Action, App, Outcome
from tests.support.docora import Docora
from tests.support.rows import TestLink


def job_ids_in_order(docora: Docora) -> list[str]:
    return [link.job_id for link in docora.links()]


# A world of everything


def add_mixed_world(docora: Docora) -> tuple[dict[str, TestLink], Counter[Outcome]]:
    """Two links of each kind, one of each of two apps, and what should become of them."""
    apps = [docora.add_app("Acme Search", "app_1"), docora.add_app("Borealis", "app_2")]
    links: dict[str, TestLink] = {}
    for kind in (
        "new",
        "failed job",
        "finished job",
        "orphan",
        "hash gone",
        "waiting",
        "scheduled",
        "running",
        "locked",
        "synced",
        "pending",
        "wrong type",
    ):
        repository_id = docora.add_repository(f"octo/{kind.replace(' ', '-')}")
        status = {"synced": "synced", "pending": "pending_snapshot"}.get(kind, "failed")
        for number, app_id in enumerate(apps, 1):
            link = docora.link(app_id, repository_id, status)
            links[f"{kind} {number}"] = link
            match kind:
                case "failed job":
                    docora.leave_job(link.job_id, JobStatus.FAILED)
                case "finished job":
                    docora.leave_job(link.job_id, JobStatus.FINISHED)
                case "orphan":
                    docora.leave_job(link.job_id, JobStatus.QUEUED)
                case "hash gone":
                    docora.redis.rpush(docora.queue.key, link.job_id)
                case "waiting" | "pending":
                    docora.enqueue(link.job_id)
                case "scheduled":
                    docora.schedule_job(link.job_id)
                case "running":
                    docora.start_job(link.job_id)
                case "locked":
                    docora.hold_lock(link.job_id)
                case "wrong type":
                    docora.redis.set(Job.key_for(link.job_id), "not a hash")
    unlinked = docora.add_app("Without links", "app_3")
    assert unlinked
    expected = Counter(
        {
            Outcome.QUEUED: 2,
            Outcome.REPLACED_STALE: 8,
            Outcome.ALREADY_QUEUED: 4,
            Outcome.ALREADY_RUNNING: 4,
            Outcome.FAILED: 2,
        }
    )
    return links, expected


@pytest.mark.parametrize("batch_size", [1, 2, 7, 1000])
def test_each_link_of_a_mixed_world_gets_what_it_needs(docora: Docora, batch_size: int) -> None:
    links, expected = add_mixed_world(docora)
    result = docora.actions().retry_all(batch_size=batch_size)
    assert Counter(result.counts) == expected
    assert result.total == result.completed == 20
    assert result.succeeded == 14
    assert result.failed == 2
    assert result.cancelled is False
    assert result.by_app == {
        App("app_1", "Acme Search"): {outcome: n // 2 for outcome, n in expected.items()},
        App("app_2", "Borealis"): {outcome: n // 2 for outcome, n in expected.items()},
    }
    assert sorted(failure.job_id for failure in result.failures) == sorted(
        links[f"wrong type {number}"].job_id for number in (1, 2)
    )
    assert all("does not hold a job" in failure.error for failure in result.failures)
    for kind, link in links.items():
        reset = kind.rpartition(" ")[0] not in {"running", "locked", "synced", "wrong type"}
        assert (docora.status(link) == "pending_snapshot") == reset, kind
    scheduled = {links[f"scheduled {number}"].job_id for number in (1, 2)}
    assert set(docora.lost_links()) == scheduled  # live in their registry, not in the list
    assert docora.doubled_jobs() == []


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_a_dry_run_foretells_the_real_run_and_changes_nothing(
    docora: Docora, batch_size: int
) -> None:
    _, expected = add_mixed_world(docora)
    before = docora.dump()
    actions = docora.actions()
    plan = actions.retry_all(batch_size=batch_size, dry_run=True)
    assert docora.dump() == before
    assert Counter(plan.counts) == expected
    assert plan.operation_id is None
    assert plan.links is not None
    assert Counter(link.outcome for link in plan.links) == expected
    assert {link.app_name for link in plan.links} == {"Acme Search", "Borealis"}
    assert {link.repository for link in plan.links} >= {"octo/new", "octo/wrong-type"}
    result = actions.retry_all(batch_size=batch_size)
    assert result.counts == plan.counts
    assert result.by_app == plan.by_app
    assert sorted(failure.job_id for failure in result.failures) == sorted(
        link.job_id for link in plan.links if link.error
    )


def test_a_second_run_over_a_mixed_world_queues_nothing_twice(docora: Docora) -> None:
    add_mixed_world(docora)
    actions = docora.actions()
    actions.retry_all()
    waiting = docora.waiting()
    result = actions.retry_all()
    assert result.counts == {Outcome.ALREADY_RUNNING: 4, Outcome.FAILED: 2}
    assert docora.waiting() == waiting


def test_nothing_failed_is_nothing_to_do(docora: Docora) -> None:
    docora.add_link("synced")
    result = docora.actions().retry_all()
    assert (result.total, result.completed, result.counts) == (0, 0, {})
    assert docora.waiting() == []


# Order and choice


@pytest.mark.parametrize("batch_size", [1, 2, 3, 1000])
def test_jobs_stand_in_the_queue_by_app_id_then_repository_id(
    docora: Docora, batch_size: int
) -> None:
    docora.add_links(60, apps=7)
    docora.actions().retry_all(batch_size=batch_size)
    assert docora.waiting() == job_ids_in_order(docora)


def test_the_order_holds_however_rows_lie_in_the_table(docora: Docora) -> None:
    docora.add_links(40, apps=4)
    for link in reversed(docora.links()[::3]):
        docora.connection.execute(
            "UPDATE app_repositories SET retry_count = 3 WHERE app_id = %s AND repository_id = %s",
            (link.app_id, link.repository_id),
        )
    docora.connection.execute("ANALYZE")
    docora.actions().retry_all(batch_size=500)
    assert docora.waiting() == job_ids_in_order(docora)


def test_the_order_holds_though_the_first_batch_takes_longer_than_the_next(docora: Docora) -> None:
    docora.add_links(12)
    docora.connection.execute(
        f"""
        CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN PERFORM pg_sleep(0.2); RETURN new; END $$;
        CREATE TRIGGER dawdle BEFORE UPDATE ON app_repositories FOR EACH ROW
        WHEN (old.repository_id = '{docora.links()[0].repository_id}') EXECUTE FUNCTION dawdle()
        """.encode()
    )
    docora.actions().retry_all(batch_size=3)
    assert docora.waiting() == job_ids_in_order(docora)


@pytest.mark.parametrize(("limit", "queued"), [(1, 1), (7, 7), (10, 10), (11, 10)])
def test_a_limit_takes_the_first_links_in_order(docora: Docora, limit: int, queued: int) -> None:
    docora.add_links(10)
    result = docora.actions().retry_all(limit=limit, batch_size=3)
    assert result.total == result.completed == queued
    assert sorted(docora.waiting()) == job_ids_in_order(docora)[:queued]
    assert sum(sum(counts.values()) for counts in result.by_app.values()) == queued


def test_the_links_of_one_app_are_chosen_by_its_id_or_name(docora: Docora) -> None:
    docora.add_links(8, apps=2)
    actions = docora.actions()
    first = actions.retry_all(app="app 2")
    assert [app.app_name for app in first.by_app] == ["App 2"]
    assert first.counts == {Outcome.QUEUED: 4}
    second = actions.retry_all(app=f"app_{1:024x}")
    assert [app.app_name for app in second.by_app] == ["App 1"]
    assert docora.statuses() == {"pending_snapshot": 8}


def test_an_unknown_app_stops_the_run_before_it_begins(docora: Docora) -> None:
    docora.add_links(2)
    with pytest.raises(NotFoundError, match="no app 'Acme'"):
        docora.actions().retry_all(app="Acme")
    assert docora.statuses() == {"failed": 2}


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("http 500", {"HTTP 500 on created README.md", "http 500"}),
        ("%", {"100% full", "%_\\"}),
        ("_", {"file_name missing", "%_\\"}),
        ("\\", {"C:\\temp\\new", "%_\\"}),
        ("%_\\", {"%_\\"}),
        ("\\n", {"C:\\temp\\new"}),
        ("FALSCHE", {"falsche Größe"}),
        ("größe", {"falsche Größe"}),
        ("it's", {'it\'s "quoted"'}),
        ('"quoted"', {'it\'s "quoted"'}),
        ("💥", {"💥 boom"}),
        ("two\nlines", {"two\nlines"}),
        ("no such text", set()),
    ],
)
def test_an_error_is_chosen_by_any_part_of_its_text_taken_literally(
    docora: Docora, text: str, chosen: set[str]
) -> None:
    errors = [
        "HTTP 500 on created README.md",
        "http 500",
        "100% full",
        "file_name missing",
        "C:\\temp\\new",
        "%_\\",
        "falsche Größe",
        'it\'s "quoted"',
        "💥 boom",
        "two\nlines",
        None,
    ]
    app_id = docora.add_app()
    links = {
        error: docora.link(app_id, docora.add_repository(f"octo/{number}"), last_error=error)
        for number, error in enumerate(errors)
    }
    result = docora.actions().retry_all(error=text)
    assert result.total == len(chosen)
    assert set(docora.waiting()) == {links[error].job_id for error in chosen}


def test_links_with_an_open_circuit_can_be_left_out_and_are_counted(docora: Docora) -> None:
    app_id = docora.add_app()
    for name, circuit in {
        "octo/closed": None,
        "octo/open": timedelta(minutes=20),
        "octo/open-too": timedelta(seconds=30),
        "octo/over": timedelta(seconds=-30),
    }.items():
        docora.link(app_id, docora.add_repository(name, circuit_open_for=circuit))
    synced = docora.add_repository("octo/synced", circuit_open_for=timedelta(minutes=20))
    docora.link(app_id, synced, "synced")
    actions = docora.actions()
    result = actions.retry_all(skip_open_circuits=True)
    assert result.counts == {Outcome.QUEUED: 2}
    assert (result.total, result.open_circuits_left_out) == (2, 2)
    rest = actions.retry_all()
    assert (rest.total, rest.open_circuits_left_out) == (2, None)


def test_only_matching_links_with_an_open_circuit_are_counted_as_left_out(docora: Docora) -> None:
    for number, error in enumerate(["HTTP 500", "HTTP 404"]):
        app_id = docora.add_app(f"App {number}")
        repository_id = docora.add_repository(
            f"octo/{number}", circuit_open_for=timedelta(minutes=20)
        )
        docora.link(app_id, repository_id, last_error=error)
    actions = docora.actions()
    assert actions.retry_all(skip_open_circuits=True, error="404").open_circuits_left_out == 1
    assert actions.retry_all(skip_open_circuits=True, app="App 0").open_circuits_left_out == 1
    assert actions.retry_all(skip_open_circuits=True).open_circuits_left_out == 2
    assert docora.waiting() == []


# Resync


def test_a_resync_of_an_app_takes_every_link_whatever_its_status(docora: Docora) -> None:
    app_id = docora.add_app("Acme Search")
    links = [
        docora.link(app_id, docora.add_repository(f"octo/{status}"), status)
        for status in ("failed", "synced", "scanning", "pending_snapshot")
    ]
    for link in links:
        docora.add_deliveries(link, 10)
    docora.enqueue(links[3].job_id)
    other = docora.add_link("synced")
    docora.add_deliveries(other, 7)
    result = docora.actions().resync_all("acme search", batch_size=3)
    assert result.operation is Action.RESYNC
    assert result.counts == {Outcome.QUEUED: 3, Outcome.ALREADY_QUEUED: 1}
    assert result.deliveries_cleared == 40
    assert all(docora.was_reset(link) for link in links)
    assert [docora.deliveries(link) for link in links] == [0, 0, 0, 0]
    assert (docora.deliveries(other), docora.status(other)) == (7, "synced")
    docora.assert_sound()


def test_a_dry_run_of_a_resync_changes_nothing(docora: Docora) -> None:
    app_id = docora.add_app()
    for number in range(3):
        link = docora.link(app_id, docora.add_repository(f"octo/{number}"), "synced")
        docora.add_deliveries(link, 5)
    before = docora.dump()
    result = docora.actions().resync_all(app_id, dry_run=True)
    assert result.counts == {Outcome.QUEUED: 3}
    assert docora.dump() == before
