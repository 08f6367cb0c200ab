"""Bulk operations: what is selected, what becomes of each link, and what everybody can see."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, cast

import psycopg
import pytest
from rq.job import Job, JobStatus

from docora_ops.actions import bulk, operations, single
from docora_ops.actions.bulk import BulkRun
from docora_ops.errors import (
    InvalidJobIdError,
    NotFoundError,
    OperationFinishedError,
    PostgresError,
    RedisError,
)
from docora_ops.models import App, BulkResult, Operation, Outcome, Progress
from tests.harness import Docora, Rooms, TestLink


@pytest.fixture(autouse=True)
def second_look_comes_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(single, "SECOND_LOOK_DELAY", 0.05)
    monkeypatch.setattr(bulk, "SECOND_LOOK_DELAY", 0.05)


def links_in_order(docora: Docora) -> list[TestLink]:
    rows = docora.connection.execute("SELECT app_id, repository_id FROM app_repositories")
    return sorted(
        (TestLink(**row) for row in rows), key=lambda link: (link.app_id, link.repository_id)
    )


def job_ids_in_order(docora: Docora) -> list[str]:
    return [link.job_id for link in links_in_order(docora)]


def hold_lock(docora: Docora, link: TestLink) -> None:
    docora.connection.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", (link.job_id,))


@contextmanager
def row_locks(docora: Docora, *links: TestLink) -> Iterator[psycopg.Connection]:
    """Another session that holds these rows until the block ends, or it commits."""
    with psycopg.connect(docora.database_url) as other:
        for link in links:
            other.execute(
                "SELECT FROM app_repositories WHERE app_id = %s AND repository_id = %s FOR UPDATE",
                (link.app_id, link.repository_id),
            )
        yield other


def on_progress(step: Callable[[int], object]) -> Callable[[BulkRun], None]:
    """For `prepare`: call `step` with the number of links done, after each batch."""

    def prepare(run: BulkRun) -> None:
        run.on_progress = lambda done: cast("None", step(done))

    return prepare


def between_rounds(monkeypatch: pytest.MonkeyPatch, happen: Callable[[], object]) -> None:
    """Let something happen between a run's first look at its links and the second."""
    monkeypatch.setattr(BulkRun, "_pause", lambda run, seconds: happen())


def progress_hash(docora: Docora, result: BulkResult) -> dict[str, str]:
    fields = cast("dict[bytes, bytes]", docora.redis.hgetall(f"docora:bulk:{result.operation_id}"))
    return {name.decode(): value.decode() for name, value in fields.items()}


def assert_sound(docora: Docora) -> None:
    assert docora.lost_links() == []
    assert docora.doubled_jobs() == []


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
                    hold_lock(docora, link)
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
    result = docora.rooms().retry_all(batch_size=batch_size)
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
    rooms = docora.rooms()
    plan = rooms.retry_all(batch_size=batch_size, dry_run=True)
    assert docora.dump() == before
    assert Counter(plan.counts) == expected
    assert plan.operation_id is None
    assert plan.links is not None
    assert Counter(link.outcome for link in plan.links) == expected
    assert {link.app_name for link in plan.links} == {"Acme Search", "Borealis"}
    assert {link.repository for link in plan.links} >= {"octo/new", "octo/wrong-type"}
    result = rooms.retry_all(batch_size=batch_size)
    assert result.counts == plan.counts
    assert result.by_app == plan.by_app
    assert sorted(failure.job_id for failure in result.failures) == sorted(
        link.job_id for link in plan.links if link.error
    )


def test_a_second_run_over_a_mixed_world_queues_nothing_twice(docora: Docora) -> None:
    add_mixed_world(docora)
    rooms = docora.rooms()
    rooms.retry_all()
    waiting = docora.waiting()
    result = rooms.retry_all()
    assert result.counts == {Outcome.ALREADY_RUNNING: 4, Outcome.FAILED: 2}
    assert docora.waiting() == waiting


def test_nothing_failed_is_nothing_to_do(docora: Docora) -> None:
    docora.add_link("synced")
    result = docora.rooms().retry_all()
    assert (result.total, result.completed, result.counts) == (0, 0, {})
    assert docora.waiting() == []


# Order and choice


@pytest.mark.parametrize("batch_size", [1, 2, 3, 1000])
def test_jobs_stand_in_the_queue_by_app_id_then_repository_id(
    docora: Docora, batch_size: int
) -> None:
    docora.add_links(60, apps=7)
    docora.rooms().retry_all(batch_size=batch_size)
    assert docora.waiting() == job_ids_in_order(docora)


def test_the_order_holds_however_rows_lie_in_the_table(docora: Docora) -> None:
    docora.add_links(40, apps=4)
    for link in reversed(links_in_order(docora)[::3]):
        docora.connection.execute(
            "UPDATE app_repositories SET retry_count = 3 WHERE app_id = %s AND repository_id = %s",
            (link.app_id, link.repository_id),
        )
    docora.connection.execute("ANALYZE")
    docora.rooms().retry_all(batch_size=500)
    assert docora.waiting() == job_ids_in_order(docora)


@pytest.mark.parametrize(("limit", "queued"), [(1, 1), (7, 7), (10, 10), (11, 10)])
def test_a_limit_takes_the_first_links_in_order(docora: Docora, limit: int, queued: int) -> None:
    docora.add_links(10, apps=2)
    result = docora.rooms().retry_all(limit=limit, batch_size=3)
    assert result.total == result.completed == queued
    assert sorted(docora.waiting()) == job_ids_in_order(docora)[:queued]
    assert sum(sum(counts.values()) for counts in result.by_app.values()) == queued


def test_the_links_of_one_app_are_chosen_by_its_id_or_name(docora: Docora) -> None:
    docora.add_links(8, apps=2)
    rooms = docora.rooms()
    first = rooms.retry_all(app="app 2")
    assert [app.app_name for app in first.by_app] == ["App 2"]
    assert first.counts == {Outcome.QUEUED: 4}
    second = rooms.retry_all(app=f"app_{1:024x}")
    assert [app.app_name for app in second.by_app] == ["App 1"]
    assert docora.statuses() == {"pending_snapshot": 8}


def test_an_unknown_app_stops_the_run_before_it_begins(docora: Docora) -> None:
    docora.add_links(2)
    with pytest.raises(NotFoundError, match="no app 'Acme'"):
        docora.rooms().retry_all(app="Acme")
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
    result = docora.rooms().retry_all(error=text)
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
    rooms = docora.rooms()
    result = rooms.retry_all(skip_open_circuits=True)
    assert result.counts == {Outcome.QUEUED: 2}
    assert (result.total, result.open_circuits_left_out) == (2, 2)
    rest = rooms.retry_all()
    assert (rest.total, rest.open_circuits_left_out) == (2, None)


def test_only_matching_links_with_an_open_circuit_are_counted_as_left_out(docora: Docora) -> None:
    for number, error in enumerate(["HTTP 500", "HTTP 404"]):
        app_id = docora.add_app(f"App {number}")
        repository_id = docora.add_repository(
            f"octo/{number}", circuit_open_for=timedelta(minutes=20)
        )
        docora.link(app_id, repository_id, last_error=error)
    rooms = docora.rooms()
    assert rooms.retry_all(skip_open_circuits=True, error="404").open_circuits_left_out == 1
    assert rooms.retry_all(skip_open_circuits=True, app="App 0").open_circuits_left_out == 1
    assert rooms.retry_all(skip_open_circuits=True).open_circuits_left_out == 2
    assert docora.waiting() == []


# What changes while it runs


@pytest.mark.parametrize("status", ["synced", "scanning", "pending_snapshot"])
def test_a_link_whose_status_changes_before_its_turn_is_skipped(
    docora: Docora, status: str
) -> None:
    docora.add_links(6)
    last = links_in_order(docora)[-1]

    def prepare(run: BulkRun) -> None:
        docora.connection.execute(
            "UPDATE app_repositories SET status = %s, last_error = 'new' WHERE repository_id = %s",
            (status, last.repository_id),
        )

    result = docora.rooms().retry_all(batch_size=2, prepare=prepare)
    assert result.counts == {Outcome.QUEUED: 5, Outcome.SKIPPED: 1}
    assert result.completed == result.total
    assert (docora.status(last), docora.row(last)["last_error"]) == (status, "new")
    assert last.job_id not in docora.waiting()


def test_a_link_that_is_deleted_before_its_turn_is_skipped(docora: Docora) -> None:
    docora.add_links(6)
    gone = links_in_order(docora)[3]
    result = docora.rooms().retry_all(
        batch_size=2,
        prepare=lambda run: docora.connection.execute(
            "DELETE FROM app_repositories WHERE repository_id = %s", (gone.repository_id,)
        ),
    )
    assert result.counts == {Outcome.QUEUED: 5, Outcome.SKIPPED: 1}
    assert gone.job_id not in docora.waiting()
    assert not docora.redis.exists(Job.key_for(gone.job_id))


def test_a_link_that_fails_after_the_choice_is_left_for_the_next_run(docora: Docora) -> None:
    docora.add_links(3)
    late = links_in_order(docora)[1]
    docora.connection.execute(
        "UPDATE app_repositories SET status = 'synced' WHERE repository_id = %s",
        (late.repository_id,),
    )
    result = docora.rooms().retry_all(
        prepare=lambda run: docora.connection.execute(
            "UPDATE app_repositories SET status = 'failed'"
        )
    )
    assert result.total == result.completed == 2
    assert docora.status(late) == "failed"


def test_links_that_are_all_queued_by_somebody_else_meanwhile_are_not_doubled(
    docora: Docora,
) -> None:
    docora.add_links(20)

    def prepare(run: BulkRun) -> None:
        for link in links_in_order(docora):
            docora.enqueue(link.job_id)

    result = docora.rooms().retry_all(batch_size=3, prepare=prepare)
    assert result.counts == {Outcome.ALREADY_QUEUED: 20}
    assert docora.waiting() == job_ids_in_order(docora)
    assert docora.statuses() == {"pending_snapshot": 20}


def test_a_job_that_comes_to_life_after_the_look_undoes_only_its_own_link(
    docora: Docora, monkeypatch: pytest.MonkeyPatch
) -> None:
    docora.add_links(5)
    links = links_in_order(docora)
    rooms = docora.rooms()
    push = rooms.queue.push
    once = iter([True])

    def start_one_then_push(*arguments: Any, **options: Any) -> Any:
        if next(once, False):
            docora.start_job(links[2].job_id)
        return push(*arguments, **options)

    monkeypatch.setattr(rooms.queue, "push", start_one_then_push)
    result = rooms.retry_all()
    assert result.counts == {Outcome.QUEUED: 4, Outcome.ALREADY_RUNNING: 1}
    assert docora.status(links[2]) == "failed"
    assert docora.row(links[2])["retry_count"] == 5
    assert sorted(docora.waiting()) == [link.job_id for link in links if link != links[2]]
    assert_sound(docora)


@pytest.mark.parametrize("after", ["runs", "ends", "fails"])
def test_a_waiting_job_that_a_worker_takes_after_the_look_is_not_doubled(
    docora: Docora, monkeypatch: pytest.MonkeyPatch, after: str
) -> None:
    docora.add_links(3)
    links = links_in_order(docora)
    for link in links:
        docora.enqueue(link.job_id)
    rooms = docora.rooms()
    push = rooms.queue.push
    once = iter([True])

    def take_one_then_push(*arguments: Any, **options: Any) -> Any:
        if next(once, False):
            docora.redis.lrem(docora.queue.key, 0, links[0].job_id)
            if after == "runs":
                docora.start_job(links[0].job_id)
            else:
                docora.leave_job(
                    links[0].job_id, JobStatus.FINISHED if after == "ends" else JobStatus.FAILED
                )
        return push(*arguments, **options)

    monkeypatch.setattr(rooms.queue, "push", take_one_then_push)
    result = rooms.retry_all()
    if after == "runs":
        assert result.counts == {Outcome.ALREADY_QUEUED: 2, Outcome.ALREADY_RUNNING: 1}
        assert docora.status(links[0]) == "failed"
    else:
        assert result.counts == {Outcome.ALREADY_QUEUED: 2, Outcome.REPLACED_STALE: 1}
        assert docora.was_reset(links[0])
    assert_sound(docora)


def test_all_doubtful_links_share_one_second_look(
    docora: Docora, monkeypatch: pytest.MonkeyPatch
) -> None:
    docora.add_links(30)
    for link in links_in_order(docora):
        docora.leave_job(link.job_id, JobStatus.QUEUED)
    pauses: list[float] = []
    monkeypatch.setattr(BulkRun, "_pause", lambda run, seconds: pauses.append(seconds))
    result = docora.rooms().retry_all(batch_size=4)
    assert result.counts == {Outcome.REPLACED_STALE: 30}
    assert pauses == [0.05]
    assert_sound(docora)


def test_without_doubtful_links_there_is_no_second_look(
    docora: Docora, monkeypatch: pytest.MonkeyPatch
) -> None:
    docora.add_links(3)
    pauses: list[float] = []
    monkeypatch.setattr(BulkRun, "_pause", lambda run, seconds: pauses.append(seconds))
    docora.rooms().retry_all()
    assert pauses == []


# Rows that others hold


def test_a_row_that_is_locked_for_a_while_is_queued_at_the_end(
    docora: Docora, monkeypatch: pytest.MonkeyPatch
) -> None:
    docora.add_links(6)
    links = links_in_order(docora)
    with row_locks(docora, links[0], links[3]) as other:
        between_rounds(monkeypatch, other.commit)
        result = docora.rooms(lock_timeout=1).retry_all(batch_size=2)
    assert result.counts == {Outcome.QUEUED: 6}
    assert set(docora.waiting()[-2:]) == {links[0].job_id, links[3].job_id}
    assert_sound(docora)


def test_a_row_whose_holder_changed_it_is_skipped(
    docora: Docora, monkeypatch: pytest.MonkeyPatch
) -> None:
    docora.add_links(3)
    links = links_in_order(docora)
    with row_locks(docora, links[1]) as other:
        other.execute(
            "UPDATE app_repositories SET status = 'synced' WHERE repository_id = %s",
            (links[1].repository_id,),
        )
        between_rounds(monkeypatch, other.commit)
        result = docora.rooms(lock_timeout=1).retry_all()
    assert result.counts == {Outcome.QUEUED: 2, Outcome.SKIPPED: 1}
    assert docora.status(links[1]) == "synced"


def test_a_row_whose_holder_commits_while_the_run_waits_for_it_is_queued(docora: Docora) -> None:
    docora.add_links(3)
    links = links_in_order(docora)
    rooms = docora.rooms(lock_timeout=10)
    with row_locks(docora, links[1]) as other:
        waiter = threading.Thread(target=lambda: release_when_waited_for(docora, other))
        waiter.start()
        result = rooms.retry_all()
        waiter.join()
    assert result.counts == {Outcome.QUEUED: 3}
    assert docora.waiting()[-1] == links[1].job_id


def release_when_waited_for(docora: Docora, holder: psycopg.Connection) -> None:
    """Commit as soon as a session of docora-ops waits for a lock."""
    with psycopg.connect(docora.database_url, autocommit=True) as observer:
        end = time.monotonic() + 20
        while time.monotonic() < end:
            row = observer.execute(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE application_name = 'docora-ops' AND wait_event_type = 'Lock'"
            ).fetchone()
            if row and row[0]:
                break
    holder.commit()


def test_a_row_that_is_locked_for_good_fails_and_the_others_go_on(docora: Docora) -> None:
    docora.add_links(6)
    links = links_in_order(docora)
    with row_locks(docora, links[2]):
        result = docora.rooms(lock_timeout=1).retry_all(batch_size=2)
    assert result.counts == {Outcome.QUEUED: 5, Outcome.FAILED: 1}
    assert [failure.job_id for failure in result.failures] == [links[2].job_id]
    assert "lock" in result.failures[0].error
    assert docora.status(links[2]) == "failed"
    assert result.completed == result.total
    assert_sound(docora)


def test_a_locked_row_fails_alone_even_if_statements_may_not_take_as_long_as_locks(
    docora: Docora,
) -> None:
    docora.add_links(3)
    links = links_in_order(docora)
    with row_locks(docora, links[0]):
        result = docora.rooms(lock_timeout=5, statement_timeout=1).retry_all()
    assert result.counts == {Outcome.QUEUED: 2, Outcome.FAILED: 1}


def test_many_locked_rows_cost_one_wait_only(docora: Docora) -> None:
    docora.add_links(40)
    links = links_in_order(docora)
    rooms = docora.rooms(lock_timeout=1)
    with row_locks(docora, *links[10:]):
        begin = time.monotonic()
        result = rooms.retry_all(batch_size=5)
        took = time.monotonic() - begin
    assert result.counts == {Outcome.QUEUED: 10, Outcome.FAILED: 30}
    assert all("lock" in failure.error for failure in result.failures)
    assert took < 4  # two batches at once, each of which may wait a second
    assert docora.statuses() == {"pending_snapshot": 10, "failed": 30}


# Poison


def test_links_whose_ids_form_no_job_id_fail_alone(docora: Docora) -> None:
    docora.add_links(4)
    app_id = f"app_{1:024x}"
    bad = [
        docora.link(app_id, docora.add_repository("octo/bad", repository_id))
        for repository_id in ("repo.1", "repo 2", "repo:3", "repö4", "repo/5\n")
    ]
    result = docora.rooms().retry_all(batch_size=3)
    assert result.counts == {Outcome.QUEUED: 4, Outcome.FAILED: 5}
    assert {failure.job_id for failure in result.failures} == {link.job_id for link in bad}
    assert all("can't form a job id" in failure.error for failure in result.failures)
    assert {docora.status(link) for link in bad} == {"failed"}
    assert len(docora.waiting()) == 4
    assert_sound(docora)


def add_colliding_links(docora: Docora) -> tuple[TestLink, TestLink]:
    first = docora.link(docora.add_app("One", "a-b"), docora.add_repository("octo/one", "c"))
    second = docora.link(docora.add_app("Two", "a"), docora.add_repository("octo/two", "b-c"))
    assert first.job_id == second.job_id == "a-b-c"
    return first, second


@pytest.mark.parametrize("batch_size", [1, 2, 1000])
def test_of_two_links_with_one_job_id_only_one_is_queued(docora: Docora, batch_size: int) -> None:
    docora.add_links(3)
    colliding = add_colliding_links(docora)
    rooms = docora.rooms()
    plan = rooms.retry_all(batch_size=batch_size, dry_run=True)
    result = rooms.retry_all(batch_size=batch_size)
    assert result.counts == plan.counts == {Outcome.QUEUED: 4, Outcome.FAILED: 1}
    assert [failure.job_id for failure in result.failures] == ["a-b-c"]
    assert "held by the job of another link" in result.failures[0].error
    assert docora.waiting().count("a-b-c") == 1
    made_for = Job.fetch("a-b-c", connection=docora.redis).kwargs["app_id"]
    assert [link.app_id for link in colliding if docora.was_reset(link)] == [made_for]
    assert_sound(docora)


@pytest.mark.parametrize("live", ["waiting", "running", "scheduled"])
@pytest.mark.parametrize("command", ["retry", "resync", "retry_all"])
def test_a_link_whose_job_id_a_live_job_of_another_has_is_left_as_it_is(
    docora: Docora, live: str, command: str
) -> None:
    first, second = add_colliding_links(docora)
    rooms = docora.rooms()
    rooms.retry(first)
    if live != "waiting":
        docora.redis.lrem(docora.queue.key, 0, "a-b-c")
    if live == "running":
        data = docora.redis.hget(Job.key_for("a-b-c"), "data")
        docora.start_job("a-b-c")
        docora.redis.hset(Job.key_for("a-b-c"), "data", cast("bytes", data))
    if live == "scheduled":
        docora.redis.zadd(f"rq:scheduled:{docora.queue.name}", {"a-b-c": time.time() + 60})
    before = docora.waiting(), docora.job_hash("a-b-c"), docora.row(second)
    if command == "retry_all":
        result = rooms.retry_all()
        assert result.counts == {Outcome.FAILED: 1}
        assert "held by the job of another link" in result.failures[0].error
    else:
        with pytest.raises(InvalidJobIdError, match="held by the job of another link"):
            getattr(rooms, command)(second)
    assert (docora.waiting(), docora.job_hash("a-b-c"), docora.row(second)) == before


@pytest.mark.parametrize("status", [JobStatus.FAILED, JobStatus.FINISHED, JobStatus.CANCELED])
def test_a_dead_job_of_the_other_link_is_replaced(docora: Docora, status: JobStatus) -> None:
    first, second = add_colliding_links(docora)
    rooms = docora.rooms()
    rooms.retry(first)
    docora.connection.execute("UPDATE app_repositories SET status = 'synced' WHERE app_id = 'a-b'")
    docora.redis.lrem(docora.queue.key, 0, "a-b-c")
    docora.redis.hset(Job.key_for("a-b-c"), "status", status.value)
    result = rooms.retry_all()
    assert result.counts == {Outcome.REPLACED_STALE: 1}
    assert docora.job(second).kwargs["app_id"] == "a"


def test_a_live_job_of_the_link_itself_is_kept_though_it_shares_its_id(docora: Docora) -> None:
    first, second = add_colliding_links(docora)
    rooms = docora.rooms()
    rooms.retry(first)
    docora.connection.execute("UPDATE app_repositories SET status = 'failed' WHERE app_id = 'a-b'")
    assert rooms.retry(first).outcome is Outcome.ALREADY_QUEUED
    assert docora.was_reset(first)
    assert docora.status(second) == "failed"


def test_a_link_whose_job_id_another_takes_after_the_check_is_not_lost(
    docora: Docora, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = add_colliding_links(docora)
    rooms, rival = docora.rooms(), docora.rooms()
    check = rooms.queue.is_made_for

    def check_then_be_overtaken(job_id: str, app_id: str) -> bool:
        answer = check(job_id, app_id)
        if docora.status(second) == "failed":
            rival.retry(second)
        return answer

    monkeypatch.setattr(rooms.queue, "is_made_for", check_then_be_overtaken)
    with pytest.raises(InvalidJobIdError):
        rooms.retry(first)
    assert docora.status(first) == "failed"
    assert docora.was_reset(second)
    assert docora.job(second).kwargs["app_id"] == second.app_id


@pytest.mark.parametrize("kind", ["string", "list", "set", "zset"])
def test_a_job_key_of_the_wrong_type_fails_alone(docora: Docora, kind: str) -> None:
    docora.add_links(5)
    links = links_in_order(docora)
    key = Job.key_for(links[2].job_id)
    match kind:
        case "string":
            docora.redis.set(key, "x")
        case "list":
            docora.redis.rpush(key, "x")
        case "set":
            docora.redis.sadd(key, "x")
        case _:
            docora.redis.zadd(key, {"x": 1})
    before = docora.redis.dump(key)
    result = docora.rooms().retry_all()
    assert result.counts == {Outcome.QUEUED: 4, Outcome.FAILED: 1}
    assert [failure.job_id for failure in result.failures] == [links[2].job_id]
    assert "WRONGTYPE" in result.failures[0].error
    assert docora.status(links[2]) == "failed"
    assert docora.redis.dump(key) == before
    assert_sound(docora)


def test_an_executions_key_of_the_wrong_type_fails_alone(docora: Docora) -> None:
    docora.add_links(3)
    links = links_in_order(docora)
    docora.redis.set(f"rq:executions:{links[1].job_id}", "x")
    result = docora.rooms().retry_all()
    assert result.counts == {Outcome.QUEUED: 2, Outcome.FAILED: 1}
    assert docora.status(links[1]) == "failed"


def forbid(docora: Docora, link: TestLink, sqlstate: str) -> None:
    docora.connection.execute(
        f"""
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN RAISE EXCEPTION 'the row is cursed' USING ERRCODE = '{sqlstate}'; END $$;
        CREATE TRIGGER refuse BEFORE UPDATE ON app_repositories FOR EACH ROW
        WHEN (old.repository_id = '{link.repository_id}') EXECUTE FUNCTION refuse()
        """.encode()
    )


@pytest.mark.parametrize(
    "sqlstate", ["P0001", "23514", "22000", "40001", "40P01"], ids=lambda code: f"sqlstate {code}"
)
@pytest.mark.parametrize("batch_size", [2, 1000])
def test_a_row_that_postgres_refuses_to_change_fails_alone(
    docora: Docora, sqlstate: str, batch_size: int
) -> None:
    docora.add_links(8)
    links = links_in_order(docora)
    forbid(docora, links[4], sqlstate)
    result = docora.rooms().retry_all(batch_size=batch_size)
    assert result.counts == {Outcome.QUEUED: 7, Outcome.FAILED: 1}
    assert [failure.job_id for failure in result.failures] == [links[4].job_id]
    assert "the row is cursed" in result.failures[0].error
    assert docora.status(links[4]) == "failed"
    assert links[4].job_id not in docora.waiting()
    assert not docora.redis.exists(Job.key_for(links[4].job_id))
    assert_sound(docora)


def test_a_commit_that_fails_leaves_the_links_as_they_were_and_no_row_is_lost(
    docora: Docora,
) -> None:
    docora.add_links(4)
    links = links_in_order(docora)
    docora.connection.execute(
        f"""
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN RAISE EXCEPTION 'refused at commit'; END $$;
        CREATE CONSTRAINT TRIGGER refuse AFTER UPDATE ON app_repositories
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
        WHEN (old.repository_id = '{links[1].repository_id}') EXECUTE FUNCTION refuse()
        """.encode()
    )
    result = docora.rooms().retry_all()
    assert result.failed == 1
    assert result.succeeded == 3
    assert docora.row(links[1])["last_error"] == "HTTP 500"
    assert docora.status(links[1]) == "failed"
    assert_sound(docora)


def test_hostile_names_and_errors_are_queued_like_any_other(docora: Docora) -> None:
    names = ["'; DROP TABLE apps; --", "100% %s {} {0}", "[red]x[/red]", "\x1b[31m", "💥" * 50]
    for number, name in enumerate(names):
        app_id = docora.add_app(name)
        repository_id = docora.add_repository(f"{name[:40]}/{'n' * 200}{number}")
        docora.link(app_id, repository_id, last_error=name * 1000)
    result = docora.rooms().retry_all()
    assert result.counts == {Outcome.QUEUED: len(names)}
    kwargs = [Job.fetch(job_id, connection=docora.redis).kwargs for job_id in docora.waiting()]
    assert sorted(call["app_name"] for call in kwargs) == sorted(names)


# Cancelling and stopping


def test_an_operation_cancelled_in_redis_stops_before_its_next_batch(docora: Docora) -> None:
    docora.add_links(40)
    rooms, dashboard = docora.rooms(), docora.rooms()

    def prepare(run: BulkRun) -> None:
        def step(done: int) -> None:
            if done == 4:
                operations.cancel(dashboard.store, run.operation_id or "")

        run.on_progress = step

    result = rooms.retry_all(batch_size=2, prepare=prepare)
    assert result.cancelled is True
    assert result.total == 40
    # What was in hand when the cancellation came is finished.
    assert 4 <= result.completed <= 4 + bulk.BATCHES_IN_FLIGHT * 2
    assert docora.statuses() == {
        "pending_snapshot": result.completed,
        "failed": 40 - result.completed,
    }
    assert progress_hash(docora, result) == {
        "total": "40",
        "completed": str(result.completed),
        "succeeded": str(result.completed),
        "failed": "0",
        "cancelled": "true",
    }
    assert_sound(docora)
    rest = rooms.retry_all(batch_size=2)
    assert rest.counts == {Outcome.QUEUED: 40 - result.completed}


def test_an_operation_cancelled_before_its_first_batch_changes_nothing(docora: Docora) -> None:
    docora.add_links(5)
    rooms = docora.rooms()
    result = rooms.retry_all(
        batch_size=1, prepare=lambda run: rooms.store.cancel(run.operation_id or "")
    )
    assert result.cancelled is True
    # The runner looks when it reports, which it does after its first batches.
    assert result.completed <= bulk.BATCHES_IN_FLIGHT
    assert docora.statuses()["failed"] == 5 - result.completed
    assert_sound(docora)


def test_a_stop_finishes_what_is_in_hand_and_marks_the_operation_cancelled(
    docora: Docora,
) -> None:
    docora.add_links(40)

    def prepare(run: BulkRun) -> None:
        def step(done: int) -> None:
            run.stop.requested = run.stop.requested or done >= 6

        run.on_progress = step

    result = docora.rooms().retry_all(batch_size=3, prepare=prepare)
    assert result.cancelled is True
    assert 6 <= result.completed <= 6 + bulk.BATCHES_IN_FLIGHT * 3
    assert docora.statuses()["pending_snapshot"] == result.completed
    assert progress_hash(docora, result)["cancelled"] == "true"
    assert progress_hash(docora, result)["completed"] == str(result.completed)
    assert_sound(docora)


def test_a_stop_that_comes_before_the_first_batch_changes_nothing(docora: Docora) -> None:
    docora.add_links(5)

    def prepare(run: BulkRun) -> None:
        run.stop.requested = True

    result = docora.rooms().retry_all(prepare=prepare)
    assert (result.cancelled, result.completed) == (True, 0)
    assert docora.statuses() == {"failed": 5}
    assert docora.waiting() == []
    assert progress_hash(docora, result)["cancelled"] == "true"


def test_a_stop_ends_the_wait_for_the_second_look(
    docora: Docora, monkeypatch: pytest.MonkeyPatch
) -> None:
    docora.add_links(2)
    for link in links_in_order(docora):
        docora.leave_job(link.job_id, JobStatus.QUEUED)
    monkeypatch.setattr(bulk, "SECOND_LOOK_DELAY", 3600)

    def prepare(run: BulkRun) -> None:
        monkeypatch.setattr(
            "docora_ops.actions.bulk.time.sleep",
            lambda seconds: setattr(run.stop, "requested", True),
        )

    result = docora.rooms().retry_all(prepare=prepare)
    assert (result.cancelled, result.completed) == (True, 0)
    assert docora.statuses() == {"failed": 2}


# Progress


def test_progress_is_as_docoras_dashboard_expects_it(docora: Docora) -> None:
    docora.add_links(5)
    docora.start_job(links_in_order(docora)[0].job_id)
    docora.redis.set(Job.key_for(links_in_order(docora)[1].job_id), "not a hash")
    result = docora.rooms().retry_all(batch_size=2)
    operation_id = result.operation_id or ""
    prefix, _, digits = operation_id.partition("_")
    assert prefix == "bulk"
    assert len(digits) == 16
    assert set(digits) <= set("0123456789abcdef")
    assert progress_hash(docora, result) == {
        "total": "5",
        "completed": "5",
        "succeeded": "3",
        "failed": "1",
        "cancelled": "false",
    }
    assert 3590 <= docora.redis.ttl(f"docora:bulk:{operation_id}") <= 3600
    assert operations.progress(docora.rooms().store, operation_id) == Progress(
        operation_id, total=5, completed=5, succeeded=3, failed=1, cancelled=False
    )


def test_progress_is_there_before_the_first_link_and_grows_batch_by_batch(docora: Docora) -> None:
    docora.add_links(10)
    rooms, dashboard = docora.rooms(), docora.rooms()
    seen: list[int] = []
    reported: list[int] = []

    def prepare(run: BulkRun) -> None:
        assert operations.progress(dashboard.store, run.operation_id or "") == Progress(
            run.operation_id or "", total=10, completed=0, succeeded=0, failed=0, cancelled=False
        )

        def step(done: int) -> None:
            # Called before Redis is told, so it still shows the batch before.
            seen.append(operations.progress(dashboard.store, run.operation_id or "").completed)
            reported.append(done)

        run.on_progress = step

    rooms.retry_all(batch_size=3, prepare=prepare)
    assert reported == [3, 6, 9, 10]
    assert seen == [0, 3, 6, 9]


def test_each_batch_renews_the_life_of_the_progress(docora: Docora) -> None:
    docora.add_links(4)
    lives: list[int] = []

    def prepare(run: BulkRun) -> None:
        key = f"docora:bulk:{run.operation_id}"

        def step(done: int) -> None:
            lives.append(docora.redis.ttl(key))
            docora.redis.expire(key, 5)

        run.on_progress = step

    result = docora.rooms().retry_all(batch_size=1, prepare=prepare)
    assert all(life >= 3590 for life in lives)
    assert docora.redis.ttl(f"docora:bulk:{result.operation_id}") >= 3590


def test_progress_is_absolute_whatever_somebody_wrote_into_it(docora: Docora) -> None:
    docora.add_links(4)

    def prepare(run: BulkRun) -> None:
        docora.redis.hset(f"docora:bulk:{run.operation_id}", "completed", "1000")

    result = docora.rooms().retry_all(prepare=prepare)
    assert progress_hash(docora, result)["completed"] == "4"


def test_progress_that_has_expired_midway_comes_back(docora: Docora) -> None:
    docora.add_links(6)

    def prepare(run: BulkRun) -> None:
        run.on_progress = lambda done: cast(
            "None", docora.redis.delete(f"docora:bulk:{run.operation_id}")
        )

    result = docora.rooms().retry_all(batch_size=2, prepare=prepare)
    assert progress_hash(docora, result) == {
        "total": "6",
        "completed": "6",
        "succeeded": "6",
        "failed": "0",
        "cancelled": "false",
    }


def test_an_unknown_operation_is_not_found_and_not_created(docora: Docora) -> None:
    store = docora.rooms().store
    for ask in (operations.progress, operations.cancel):
        with pytest.raises(NotFoundError, match="Operation not found or expired"):
            cast("Callable[[Any, str], object]", ask)(store, "bulk_0123456789abcdef")
    assert docora.redis.keys() == []


def test_an_operation_that_has_finished_cannot_be_cancelled(docora: Docora) -> None:
    docora.add_links(1)
    rooms = docora.rooms()
    result = rooms.retry_all()
    with pytest.raises(OperationFinishedError):
        operations.cancel(rooms.store, result.operation_id or "")
    assert progress_hash(docora, result)["cancelled"] == "false"


def test_an_operation_of_docora_itself_can_be_followed_and_cancelled(docora: Docora) -> None:
    key = "docora:bulk:bulk_00000000000000ff"
    docora.redis.hset(
        key,
        mapping={
            "total": "10",
            "completed": "3",
            "succeeded": "2",
            "failed": "1",
            "cancelled": "false",
        },
    )
    docora.redis.expire(key, 100)
    store = docora.rooms().store
    assert operations.progress(store, "bulk_00000000000000ff").completed == 3
    operations.cancel(store, "bulk_00000000000000ff")
    assert operations.progress(store, "bulk_00000000000000ff").cancelled is True
    assert 0 < docora.redis.ttl(key) <= 100


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
    result = docora.rooms().resync_all("acme search", batch_size=3)
    assert result.operation is Operation.RESYNC
    assert result.counts == {Outcome.QUEUED: 3, Outcome.ALREADY_QUEUED: 1}
    assert result.deliveries_cleared == 40
    assert all(docora.was_reset(link) for link in links)
    assert [docora.deliveries(link) for link in links] == [0, 0, 0, 0]
    assert (docora.deliveries(other), docora.status(other)) == (7, "synced")
    assert_sound(docora)


def test_a_resync_that_is_undone_forgets_no_delivery(docora: Docora) -> None:
    app_id = docora.add_app()
    links = [docora.link(app_id, docora.add_repository(f"octo/{n}"), "synced") for n in range(4)]
    for link in links:
        docora.add_deliveries(link, 5)
    forbid(docora, links[1], "P0001")
    docora.start_job(links[2].job_id)
    result = docora.rooms().resync_all(app_id)
    assert result.counts == {
        Outcome.QUEUED: 2,
        Outcome.FAILED: 1,
        Outcome.ALREADY_RUNNING: 1,
    }
    assert result.deliveries_cleared == 10
    assert [docora.deliveries(link) for link in links] == [0, 5, 5, 0]
    assert {failure.job_id for failure in result.failures} == {links[1].job_id, links[2].job_id}


def test_a_dry_run_of_a_resync_changes_nothing(docora: Docora) -> None:
    app_id = docora.add_app()
    for number in range(3):
        link = docora.link(app_id, docora.add_repository(f"octo/{number}"), "synced")
        docora.add_deliveries(link, 5)
    before = docora.dump()
    result = docora.rooms().resync_all(app_id, dry_run=True)
    assert result.counts == {Outcome.QUEUED: 3}
    assert docora.dump() == before


# Servers that are lost midway


def run_until_broken(
    rooms: Rooms, breaking: Callable[[], object], at: int, error: type[Exception]
) -> BulkResult:
    """Run batches of two, let a server be lost when `at` links are done; what was done by then."""
    runs: list[BulkRun] = []

    def prepare(run: BulkRun) -> None:
        runs.append(run)

        def step(done: int) -> None:
            if done == at:
                breaking()

        run.on_progress = step

    with pytest.raises(error):
        rooms.retry_all(batch_size=2, prepare=prepare)
    return runs[0].result()


def test_when_postgres_cuts_the_connections_the_result_says_what_was_done(docora: Docora) -> None:
    docora.add_links(30)
    rooms = docora.rooms()
    result = run_until_broken(
        rooms,
        lambda: docora.connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'docora-ops'"
        ),
        6,
        PostgresError,
    )
    # A batch that was committed just before may not have been counted any more.
    assert 6 <= result.completed <= docora.statuses()["pending_snapshot"] < 30
    assert_sound(docora)
    rooms = docora.rooms()
    rest = rooms.retry_all()
    assert rest.failed == 0
    assert docora.statuses() == {"pending_snapshot": 30}
    assert_sound(docora)


def test_when_the_queues_key_breaks_nothing_more_is_reset(docora: Docora) -> None:
    docora.add_links(30)
    rooms = docora.rooms()

    def break_the_queue() -> None:
        with docora.redis.pipeline() as pipeline:
            pipeline.rename(docora.queue.key, "kept")
            pipeline.set(docora.queue.key, "not a list")
            pipeline.execute()

    result = run_until_broken(rooms, break_the_queue, 6, RedisError)
    assert result.completed >= 6
    docora.redis.rename("kept", docora.queue.key)
    assert docora.statuses()["pending_snapshot"] < 30
    assert_sound(docora)
    rooms.retry_all()
    assert docora.statuses() == {"pending_snapshot": 30}
    assert_sound(docora)
