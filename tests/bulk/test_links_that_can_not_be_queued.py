"""Links that can't be queued cost a bulk operation only themselves."""

from __future__ import annotations

import pytest
from rq.job import Job

from docora_ops.drift import RepairOutcome
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
    assert all("can't form a job id" in failure.error_message for failure in result.failures)
    assert {docora.status(link) for link in bad} == {"failed"}
    assert len(docora.waiting()) == 4
    docora.assert_sound()


@pytest.mark.parametrize("status", ["failed", "pending_snapshot", "scanning", "synced"])
def test_a_link_whose_ids_contain_a_dash_is_left_alone_with_its_job(
    docora: Docora, status: str
) -> None:
    docora.add_links(1)
    link = docora.link(docora.add_app("One", "a-b"), docora.add_repository("octo/one", "c"), status)
    docora.age_links()
    docora.enqueue(link.job_id)
    before = docora.row(link), docora.job_hash(link.job_id), docora.deliveries(link)
    actions = docora.actions()
    for change in (actions.retry, actions.resync):
        for dry_run in (True, False):
            with pytest.raises(InvalidJobIdError, match="'a-b' and 'c' can't form a job id"):
                change(link, dry_run=dry_run)
    for result in (actions.retry_all(), actions.resync_all("a-b"), actions.schedule()):
        for failure in result.failures:
            assert failure.job_id == link.job_id
            assert "can't form a job id" in failure.error_message
    for repair in (actions.repair(), actions.repair(app_id="a-b")):
        assert repair.counts[RepairOutcome.FAILED] == (status in {"pending_snapshot", "scanning"})
        assert repair.counts[RepairOutcome.REMOVED] == 0
    after = docora.row(link), docora.job_hash(link.job_id), docora.deliveries(link)
    assert after == before
    assert docora.waiting().count(link.job_id) == 1


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
    assert "WRONGTYPE" in result.failures[0].error_message
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
    assert "the row is cursed" in result.failures[0].error_message
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
