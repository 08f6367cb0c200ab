"""Links that can't be queued cost a bulk operation only themselves."""

from __future__ import annotations

import time
from typing import cast

import pytest
from rq.job import Job, JobStatus

from docora_ops.errors import InvalidJobIdError
from docora_ops.links import Outcome
from tests.support.docora import Docora
from tests.support.rows import TestLink


def test_links_whose_ids_form_no_job_id_fail_alone(docora: Docora) -> None:
    docora.add_links(4)
    app_id = f"app_{1:024x}"
    bad = [
        docora.link(app_id, docora.add_repository("octo/bad", repository_id))
        for repository_id in ("repo.1", "repo 2", "repo:3", "repö4", "repo/5\n")
    ]
    result = docora.actions().retry_all(batch_size=3)
    assert result.counts == {Outcome.QUEUED: 4, Outcome.FAILED: 5}
    assert {failure.job_id for failure in result.failures} == {link.job_id for link in bad}
    assert all("can't form a job id" in failure.error for failure in result.failures)
    assert {docora.status(link) for link in bad} == {"failed"}
    assert len(docora.waiting()) == 4
    docora.assert_sound()


def add_colliding_links(docora: Docora) -> tuple[TestLink, TestLink]:
    first = docora.link(docora.add_app("One", "a-b"), docora.add_repository("octo/one", "c"))
    second = docora.link(docora.add_app("Two", "a"), docora.add_repository("octo/two", "b-c"))
    assert first.job_id == second.job_id == "a-b-c"
    return first, second


@pytest.mark.parametrize("batch_size", [1, 2, 1000])
def test_of_two_links_with_one_job_id_only_one_is_queued(docora: Docora, batch_size: int) -> None:
    docora.add_links(3)
    colliding = add_colliding_links(docora)
    actions = docora.actions()
    plan = actions.retry_all(batch_size=batch_size, dry_run=True)
    result = actions.retry_all(batch_size=batch_size)
    assert result.counts == plan.counts == {Outcome.QUEUED: 4, Outcome.FAILED: 1}
    assert [failure.job_id for failure in result.failures] == ["a-b-c"]
    assert "held by the job of another link" in result.failures[0].error
    assert docora.waiting().count("a-b-c") == 1
    made_for = Job.fetch("a-b-c", connection=docora.redis).kwargs["app_id"]
    assert [link.app_id for link in colliding if docora.was_reset(link)] == [made_for]
    docora.assert_sound()


@pytest.mark.parametrize("live", ["waiting", "running", "scheduled"])
@pytest.mark.parametrize("command", ["retry", "resync", "retry_all"])
def test_a_link_whose_job_id_a_live_job_of_another_has_is_left_as_it_is(
    docora: Docora, live: str, command: str
) -> None:
    first, second = add_colliding_links(docora)
    actions = docora.actions()
    actions.retry(first)
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
        result = actions.retry_all()
        assert result.counts == {Outcome.FAILED: 1}
        assert "held by the job of another link" in result.failures[0].error
    else:
        with pytest.raises(InvalidJobIdError, match="held by the job of another link"):
            getattr(actions, command)(second)
    assert (docora.waiting(), docora.job_hash("a-b-c"), docora.row(second)) == before


@pytest.mark.parametrize("status", [JobStatus.FAILED, JobStatus.FINISHED, JobStatus.CANCELED])
def test_a_dead_job_of_the_other_link_is_replaced(docora: Docora, status: JobStatus) -> None:
    first, second = add_colliding_links(docora)
    actions = docora.actions()
    actions.retry(first)
    docora.connection.execute("UPDATE app_repositories SET status = 'synced' WHERE app_id = 'a-b'")
    docora.redis.lrem(docora.queue.key, 0, "a-b-c")
    docora.redis.hset(Job.key_for("a-b-c"), "status", status.value)
    result = actions.retry_all()
    assert result.counts == {Outcome.REPLACED_STALE: 1}
    assert docora.job(second).kwargs["app_id"] == "a"


def test_a_live_job_of_the_link_itself_is_kept_though_it_shares_its_id(docora: Docora) -> None:
    first, second = add_colliding_links(docora)
    actions = docora.actions()
    actions.retry(first)
    docora.connection.execute("UPDATE app_repositories SET status = 'failed' WHERE app_id = 'a-b'")
    assert actions.retry(first).outcome is Outcome.ALREADY_QUEUED
    assert docora.was_reset(first)
    assert docora.status(second) == "failed"


def test_a_link_whose_job_id_another_takes_after_the_check_is_not_lost(
    docora: Docora, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = add_colliding_links(docora)
    actions, rival = docora.actions(), docora.actions()
    check = actions.queue.is_made_for

    def check_then_be_overtaken(job_id: str, app_id: str) -> bool:
        answer = check(job_id, app_id)
        if docora.status(second) == "failed":
            rival.retry(second)
        return answer

    monkeypatch.setattr(actions.queue, "is_made_for", check_then_be_overtaken)
    with pytest.raises(InvalidJobIdError):
        actions.retry(first)
    assert docora.status(first) == "failed"
    assert docora.was_reset(second)
    assert docora.job(second).kwargs["app_id"] == second.app_id


@pytest.mark.parametrize("kind", ["string", "list", "set", "zset"])
def test_a_job_key_of_the_wrong_type_fails_alone(docora: Docora, kind: str) -> None:
    docora.add_links(5)
    links = docora.links()
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
    result = docora.actions().retry_all()
    assert result.counts == {Outcome.QUEUED: 4, Outcome.FAILED: 1}
    assert [failure.job_id for failure in result.failures] == [links[2].job_id]
    assert "WRONGTYPE" in result.failures[0].error
    assert docora.status(links[2]) == "failed"
    assert docora.redis.dump(key) == before
    docora.assert_sound()


def test_an_executions_key_of_the_wrong_type_fails_alone(docora: Docora) -> None:
    docora.add_links(3)
    links = docora.links()
    docora.redis.set(f"rq:executions:{links[1].job_id}", "x")
    result = docora.actions().retry_all()
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
    links = docora.links()
    forbid(docora, links[4], sqlstate)
    result = docora.actions().retry_all(batch_size=batch_size)
    assert result.counts == {Outcome.QUEUED: 7, Outcome.FAILED: 1}
    assert [failure.job_id for failure in result.failures] == [links[4].job_id]
    assert "the row is cursed" in result.failures[0].error
    assert docora.status(links[4]) == "failed"
    assert links[4].job_id not in docora.waiting()
    assert not docora.redis.exists(Job.key_for(links[4].job_id))
    docora.assert_sound()


def test_a_commit_that_fails_leaves_the_links_as_they_were_and_no_row_is_lost(
    docora: Docora,
) -> None:
    docora.add_links(4)
    links = docora.links()
    docora.connection.execute(
        f"""
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN RAISE EXCEPTION 'refused at commit'; END $$;
        CREATE CONSTRAINT TRIGGER refuse AFTER UPDATE ON app_repositories
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
        WHEN (old.repository_id = '{links[1].repository_id}') EXECUTE FUNCTION refuse()
        """.encode()
    )
    result = docora.actions().retry_all()
    assert result.failed == 1
    assert result.succeeded == 3
    assert docora.row(links[1])["last_error"] == "HTTP 500"
    assert docora.status(links[1]) == "failed"
    docora.assert_sound()


def test_hostile_names_and_errors_are_queued_like_any_other(docora: Docora) -> None:
    names = ["'; DROP TABLE apps; --", "100% %s {} {0}", "[red]x[/red]", "\x1b[31m", "💥" * 50]
    for number, name in enumerate(names):
        app_id = docora.add_app(name)
        repository_id = docora.add_repository(f"{name[:40]}/{'n' * 200}{number}")
        docora.link(app_id, repository_id, last_error=name * 1000)
    result = docora.actions().retry_all()
    assert result.counts == {Outcome.QUEUED: len(names)}
    kwargs = [Job.fetch(job_id, connection=docora.redis).kwargs for job_id in docora.waiting()]
    assert sorted(call["app_name"] for call in kwargs) == sorted(names)


def test_a_resync_that_is_undone_forgets_no_delivery(docora: Docora) -> None:
    app_id = docora.add_app()
    links = [docora.link(app_id, docora.add_repository(f"octo/{n}"), "synced") for n in range(4)]
    for link in links:
        docora.add_deliveries(link, 5)
    forbid(docora, links[1], "P0001")
    docora.start_job(links[2].job_id)
    result = docora.actions().resync_all(app_id)
    assert result.counts == {
        Outcome.QUEUED: 2,
        Outcome.FAILED: 1,
        Outcome.ALREADY_RUNNING: 1,
    }
    assert result.deliveries_cleared == 10
    assert [docora.deliveries(link) for link in links] == [0, 5, 5, 0]
    assert {failure.job_id for failure in result.failures} == {links[1].job_id, links[2].job_id}


def test_a_batch_that_fails_link_by_link_does_not_cost_the_next_its_transaction(
    docora: Docora, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A session that is idle in a transaction for so long is ended.
    monkeypatch.setattr("docora_ops.database.postgres._IDLE_LIMIT", 2)
    docora.add_links(12)
    docora.connection.execute(
        f"""
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN PERFORM pg_sleep(0.3); RAISE EXCEPTION 'the row is cursed'; END $$;
        CREATE TRIGGER refuse BEFORE UPDATE ON app_repositories FOR EACH ROW
        WHEN (old.repository_id <= '{docora.links()[5].repository_id}') EXECUTE FUNCTION refuse()
        """.encode()
    )
    result = docora.actions(statement_timeout=1).retry_all(batch_size=6)
    assert (result.failed, result.succeeded) == (6, 6)
    assert docora.statuses() == {"failed": 6, "pending_snapshot": 6}
    docora.assert_sound()
