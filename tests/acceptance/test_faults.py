"""Servers that are gone, refuse, hang, or lose a reply: a sentence, a code, nothing half done."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import psycopg
import pytest
from rq.job import JobStatus

from tests.conftest import with_database
from tests.harness import Docora, Result, TestLink, finish
from tests.prescribed import Access
from tests.proxy import (
    COMMIT,
    PUSH,
    Fault,
    OwnRedis,
    Plan,
    Proxy,
    Role,
    eventually,
    own_redis,
    refused_port,
    role,
)

HURRIED = {
    "DOCORA_OPS_CONNECT_TIMEOUT": "1",
    "DOCORA_OPS_STATEMENT_TIMEOUT": "1",
    "DOCORA_OPS_LOCK_TIMEOUT": "1",
}
SECRET = "5ecr3t@passw0rd/t0ken?#%"
ENCODED = "5ecr3t%40passw0rd%2Ft0ken%3F%23%25"
PIECES = ("5ecr3t", "passw0rd", "t0ken")
"""Of the secret: a URL whose password is not encoded falls apart in odd places."""
ONE = ["retry", "resync"]
ALL = [*ONE, "retry-all-failed", "resync --all"]


@pytest.fixture
def link(docora: Docora) -> TestLink:
    """A failed link with deliveries, over the leftover of a dead job."""
    link = docora.add_link()
    docora.add_deliveries(link, 3)
    docora.leave_job(link.job_id, JobStatus.FAILED)
    return link


@pytest.fixture
def own(tmp_path: Path) -> Iterator[OwnRedis]:
    """A Redis that this test may stop and spoil."""
    with own_redis(tmp_path) as own:
        yield own


@pytest.fixture
def redis_access(redis_access: Access, request: pytest.FixtureRequest) -> Access:
    """That of the test's own Redis, where it asks for one."""
    if "own" in request.fixturenames:
        own = request.getfixturevalue("own")
        assert isinstance(own, OwnRedis)
        return own.access
    return redis_access


@pytest.fixture
def powerless(docora: Docora, worker_number: int) -> Iterator[Role]:
    """A role that may do everything with Docora's tables, until the test takes that away."""
    with role(docora, f"docora_powerless_{worker_number}", SECRET) as powerless:
        docora.connection.execute(
            f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {powerless.name}".encode()
        )
        yield powerless


def arguments(command: str, link: TestLink) -> list[str]:
    """The command line of a change to the link, or to all."""
    match command:
        case "retry-all-failed":
            return [command, "--json"]
        case "resync --all":
            return ["resync", link.app_id, "--all", "--yes", "--json"]
        case "progress" | "cancel":
            return [command, "bulk_0123456789abcdef", "--json"]
    return [command, link.app_id, link.repository_id, "--json"]


def refuses(result: Result, code: str, *sentences: str, exit_code: int = 5) -> Any:
    """The command has failed as it should; returns its JSON document."""
    assert result.code == exit_code, result
    shows_no_secret(result)
    document = result.json
    assert document["code"] == code, result
    assert f"Error: {document['error']}\n" in result.stderr
    assert document["hint"]
    for sentence in sentences:
        assert sentence in document["error"], document
    return document


def shows_no_secret(result: Result) -> None:
    for text in (result.stdout, result.stderr):
        assert "Traceback" not in text
        assert 'File "' not in text
        for piece in PIECES:
            assert piece not in text


def nothing_lost_nothing_twice(docora: Docora) -> None:
    assert docora.lost_links() == []
    assert docora.doubled_jobs() == []


def progress_of(docora: Docora, operation_id: str) -> dict[str, str]:
    found = cast("dict[bytes, bytes]", docora.redis.hgetall(f"docora:bulk:{operation_id}"))
    return {name.decode(): value.decode() for name, value in found.items()}


def forget_operations(docora: Docora) -> None:
    """A bulk operation that changed nothing may still be known, and is in the audit trail."""
    for key in docora.redis.keys("docora:bulk:*"):
        assert docora.redis.hget(key, "completed") == b"0"
        docora.redis.delete(key)
    assert all(entry["operation_id"] for entry in docora.audit_trail())
    docora.redis.delete("docora-ops:audit")


# Redis


@pytest.mark.parametrize("command", [*ALL, "progress"])
def test_a_redis_that_is_not_there_changes_nothing(
    docora: Docora, link: TestLink, command: str
) -> None:
    before = docora.dump()
    url = f"redis://someone:{ENCODED}@127.0.0.1:{refused_port()}/3"
    result = docora.run(*arguments(command, link), env={"REDIS_URL": url})
    refuses(result, "redis", "Redis at 127.0.0.1:", "/3 can't be reached")
    assert docora.dump() == before


@pytest.mark.parametrize("command", ALL)
@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        pytest.param(OwnRedis.run_out_of_memory, "it is out of memory", id="out of memory"),
        pytest.param(OwnRedis.become_replica, "it is a read-only replica", id="read-only"),
    ],
)
def test_a_redis_that_refuses_writes_changes_nothing(
    docora: Docora,
    own: OwnRedis,
    link: TestLink,
    command: str,
    spoil: Callable[[OwnRedis], None],
    sentence: str,
) -> None:
    before = docora.dump()
    spoil(own)
    refuses(docora.run(*arguments(command, link)), "redis", sentence)
    assert docora.dump() == before


@pytest.mark.parametrize("command", ["retry", "retry-all-failed", "progress"])
def test_a_redis_that_hangs_is_given_up(
    docora: Docora, own: OwnRedis, link: TestLink, command: str
) -> None:
    before = docora.dump()
    own.hang()
    since = time.monotonic()
    result = docora.run(*arguments(command, link), env=HURRIED)
    assert time.monotonic() - since < 12
    refuses(result, "redis", "did not answer in time")
    own.go_on()
    assert docora.dump() == before


def test_a_redis_that_hangs_at_the_push_is_given_up_and_the_link_rolled_back(
    docora: Docora, link: TestLink
) -> None:
    before = docora.dump()
    with Proxy.before_redis(docora.redis_url) as proxy:
        proxy.plan(PUSH, Fault.HOLD_REQUEST)
        result = docora.run(*arguments("retry", link), env={"REDIS_URL": proxy.url, **HURRIED})
    refuses(result, "redis", "did not answer in time")
    assert docora.dump() == before


@pytest.mark.parametrize("command", ONE)
def test_a_reply_that_is_lost_after_the_push_leaves_one_job_and_the_next_try_keeps_it(
    docora: Docora, link: TestLink, command: str
) -> None:
    row = docora.row(link)
    with Proxy.before_redis(docora.redis_url) as proxy:
        push = proxy.plan(PUSH, Fault.LOSE_REPLY)
        result = docora.run(*arguments(command, link), env={"REDIS_URL": proxy.url})
        assert push.requests == 1, "sent again"
    refuses(result, "redis", "broke the connection")
    assert docora.waiting() == [link.job_id]
    assert docora.row(link) == row
    assert docora.deliveries(link) == 3

    again = docora.run(*arguments(command, link))
    assert again.code == 0, again
    assert again.data["outcome"] == "already_queued"
    assert docora.waiting() == [link.job_id]
    assert docora.was_reset(link)
    assert docora.deliveries(link) == (3 if command == "retry" else 0)


@pytest.mark.parametrize(
    ("key", "kind"), [("rq:queue:snapshot-queue", "list"), ("rq:wip:snapshot-queue", "registry")]
)
def test_a_queue_key_of_the_wrong_type_changes_nothing(
    docora: Docora, link: TestLink, key: str, kind: str
) -> None:
    docora.redis.set(key, "something else")
    before = docora.dump()
    for command in ("retry", "retry-all-failed"):
        refuses(docora.run(*arguments(command, link)), "redis", "wrong type")
    forget_operations(docora)
    assert docora.dump() == before


@pytest.mark.parametrize(
    "login",
    ["", f"default:{ENCODED}@", f"nobody:{ENCODED}@", f":{ENCODED}@"],
    ids=["no password", "wrong password", "unknown user", "password alone"],
)
def test_a_wrong_redis_password_changes_nothing_and_is_not_shown(
    docora: Docora, own: OwnRedis, link: TestLink, login: str
) -> None:
    before = docora.dump()
    own.client.config_set("requirepass", "the right one")
    url = own.access.owner.replace("redis://", f"redis://{login}")
    result = docora.run(*arguments("retry", link), env={"REDIS_URL": url})
    refuses(result, "redis", "refuses our user or password")
    assert docora.dump() == before


# Redis, midway in a bulk operation


def hold_bulk(docora: Docora, proxy: Proxy, links: int) -> tuple[Any, Plan]:
    """A bulk retry in batches of ten, four of them done, the fifth reset but not pushed."""
    docora.add_links(links, apps=2)
    push = proxy.plan(PUSH, Fault.HOLD_REQUEST, number=5)
    process = docora.start(
        *("retry-all-failed", "--batch-size", "10", "--json"),
        env={"REDIS_URL": proxy.url, "DOCORA_OPS_CONNECT_TIMEOUT": "1"},
    )
    push.wait()
    eventually(lambda: docora.statuses().get("pending_snapshot") == 40, "four batches committed")
    return process, push


def tells_what_was_done(docora: Docora, document: Any, result: Result, done: int) -> None:
    data = document["data"]
    assert (data["total"], data["completed"]) == (200, done)
    assert data["succeeded"] == data["queued"] + data["already_queued"] == done
    assert data["operation_id"].startswith("bulk_")
    assert f"Stopped after {done} of 200 links." in result.stderr
    assert docora.statuses() == {"failed": 200 - done, "pending_snapshot": done}


def rest_is_finished(docora: Docora, already_queued: int) -> None:
    """By the same command again."""
    left = docora.statuses()["failed"]
    rest = docora.run("retry-all-failed", "--json")
    assert rest.code == 0, rest
    assert rest.data["total"] == rest.data["succeeded"] == left
    assert rest.data["already_queued"] == already_queued
    assert docora.statuses() == {"pending_snapshot": 200}
    assert len(docora.waiting()) == 200
    nothing_lost_nothing_twice(docora)


def test_a_redis_that_is_lost_midway_stops_a_bulk_retry_which_says_what_was_done(
    docora: Docora, own: OwnRedis
) -> None:
    with Proxy.before_redis(own.url) as proxy:
        process, push = hold_bulk(docora, proxy, 200)
        own.stop()
        push.release()
        result = finish(process)
    document = refuses(result, "redis", "can't be reached, or broke the connection")
    tells_what_was_done(docora, document, result, 40)
    assert document["data"]["cancelled"] is True


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        pytest.param(OwnRedis.run_out_of_memory, "it is out of memory", id="out of memory"),
        pytest.param(OwnRedis.become_replica, "it is a read-only replica", id="read-only"),
    ],
)
def test_a_redis_that_refuses_writes_midway_stops_a_bulk_retry(
    docora: Docora, own: OwnRedis, spoil: Callable[[OwnRedis], None], sentence: str
) -> None:
    with Proxy.before_redis(own.url) as proxy:
        process, push = hold_bulk(docora, proxy, 200)
        spoil(own)
        push.release()
        result = finish(process)
    document = refuses(result, "redis", sentence)
    tells_what_was_done(docora, document, result, 40)
    own.recover()
    assert len(docora.waiting()) == 40
    rest_is_finished(docora, already_queued=0)


def test_a_reply_that_is_lost_after_a_push_of_a_bulk_retry_leaves_each_job_once(
    docora: Docora,
) -> None:
    docora.add_links(200, apps=2)
    with Proxy.before_redis(docora.redis_url) as proxy:
        push = proxy.plan(PUSH, Fault.LOSE_REPLY, number=5)
        result = docora.run(
            *("retry-all-failed", "--batch-size", "10", "--json"), env={"REDIS_URL": proxy.url}
        )
        push.wait()
    document = refuses(result, "redis", "broke the connection")
    done = docora.statuses()["pending_snapshot"]
    # The sixth batch was in flight as well.
    assert done in {40, 50}
    tells_what_was_done(docora, document, result, done)
    progress = progress_of(docora, document["data"]["operation_id"])
    assert progress["completed"] == str(done)
    assert progress["cancelled"] == "true"
    assert len(docora.waiting()) == done + 10
    nothing_lost_nothing_twice(docora)
    rest_is_finished(docora, already_queued=10)


# Postgres


@pytest.mark.parametrize("command", ["retry", "resync --all", "retry-all-failed"])
def test_a_postgres_that_is_not_there_changes_nothing(
    docora: Docora, link: TestLink, command: str
) -> None:
    before = docora.dump()
    url = f"postgres://someone:{ENCODED}@127.0.0.1:{refused_port()}/docora"
    result = docora.run(*arguments(command, link), env={"DATABASE_URL": url})
    refuses(result, "postgres", "docora on 127.0.0.1", "Connection refused")
    assert docora.dump() == before


def test_a_database_that_is_not_there_is_named(docora: Docora, link: TestLink) -> None:
    url = with_database(docora.database_url, "no_such_database")
    result = docora.run(*arguments("retry", link), env={"DATABASE_URL": url})
    refuses(result, "postgres", 'database "no_such_database" does not exist')


def test_a_postgres_that_hangs_from_the_start_is_given_up(docora: Docora, link: TestLink) -> None:
    before = docora.dump()
    with Proxy.before_postgres(docora.database_url) as proxy:
        proxy.freeze()
        since = time.monotonic()
        result = docora.run(*arguments("retry", link), env={"DATABASE_URL": proxy.url, **HURRIED})
        assert time.monotonic() - since < 12
    refuses(result, "postgres", "did not answer in time")
    assert docora.dump() == before


@pytest.mark.parametrize("marker", [b"UPDATE app_repositories", COMMIT], ids=["update", "commit"])
def test_a_postgres_that_hangs_midway_is_given_up(
    docora: Docora, link: TestLink, marker: bytes
) -> None:
    row = docora.row(link)
    with Proxy.before_postgres(docora.database_url) as proxy:
        proxy.plan(marker, Fault.HOLD_REQUEST)
        since = time.monotonic()
        result = docora.run(*arguments("retry", link), env={"DATABASE_URL": proxy.url, **HURRIED})
        assert time.monotonic() - since < 12
    refuses(result, "postgres", "did not answer in time")
    assert docora.row(link) == row
    assert len(docora.waiting()) == (1 if marker is COMMIT else 0)


def test_a_statement_that_takes_too_long_is_given_up(docora: Docora, link: TestLink) -> None:
    docora.connection.execute(
        "CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM pg_sleep(30); RETURN new; END $$"
    )
    docora.connection.execute(
        "CREATE TRIGGER dawdle BEFORE UPDATE ON app_repositories"
        " FOR EACH ROW EXECUTE FUNCTION dawdle()"
    )
    before = docora.dump()
    sentence = "did not finish a statement within 1 s"
    result = docora.run(*arguments("retry", link), env=HURRIED)
    refuses(result, "statement_timeout", sentence)
    assert docora.dump() == before
    # It may be due to this one link, so a bulk operation would go on with the others.
    bulk = docora.run(*arguments("retry-all-failed", link), env=HURRIED)
    assert bulk.code == 6, bulk
    shows_no_secret(bulk)
    [failure] = bulk.data["failures"]
    assert failure["job_id"] == link.job_id
    assert sentence in failure["error"]
    docora.redis.delete(*docora.redis.keys("docora:bulk:*"), *docora.redis.keys("docora-ops:*"))
    assert docora.dump() == before


@pytest.mark.parametrize("command", ONE)
def test_a_row_that_somebody_else_has_locked_is_left_alone(
    docora: Docora, link: TestLink, command: str
) -> None:
    before = docora.dump()
    with psycopg.connect(docora.database_access.owner) as holder:
        holder.execute("SELECT 1 FROM app_repositories FOR UPDATE")
        result = docora.run(*arguments(command, link), env={"DOCORA_OPS_LOCK_TIMEOUT": "1"})
    refuses(result, "link_locked", "another session has held a lock for over 1 s")
    assert docora.dump() == before


def test_a_row_that_somebody_else_has_locked_costs_a_bulk_retry_only_itself(
    docora: Docora,
) -> None:
    docora.add_links(50)
    link = TestLink(f"app_{1:024x}", f"repo_{20:024x}")
    with psycopg.connect(docora.database_access.owner) as holder:
        holder.execute(
            "SELECT 1 FROM app_repositories WHERE repository_id = %s FOR UPDATE",
            (link.repository_id,),
        )
        result = docora.run(
            *arguments("retry-all-failed", link), env={"DOCORA_OPS_LOCK_TIMEOUT": "1"}
        )
    assert result.code == 6, result
    shows_no_secret(result)
    assert (result.data["queued"], result.data["failed"]) == (49, 1)
    [failure] = result.data["failures"]
    assert failure["job_id"] == link.job_id
    assert "another session" in failure["error"]
    assert docora.status(link) == "failed"
    assert len(docora.waiting()) == 49
    nothing_lost_nothing_twice(docora)


def terminate(docora: Docora) -> int:
    """End the connections of commands; returns how many there were."""
    row = docora.connection.execute(
        "SELECT count(pg_terminate_backend(pid)) AS ended FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name = 'docora-ops'"
    ).fetchone()
    assert row is not None
    return int(row["ended"])


@pytest.mark.parametrize("command", ONE)
def test_a_postgres_connection_that_ends_before_the_commit_leaves_the_link_as_it_was(
    docora: Docora, link: TestLink, command: str
) -> None:
    row = docora.row(link)
    with Proxy.before_redis(docora.redis_url) as proxy:
        push = proxy.plan(PUSH, Fault.HOLD_REQUEST)
        process = docora.start(*arguments(command, link), env={"REDIS_URL": proxy.url})
        push.wait()
        assert terminate(docora) == 1
        push.release()
        result = finish(process)
    refuses(result, "postgres", "Postgres database")
    assert docora.row(link) == row
    assert docora.deliveries(link) == 3
    # A job too many, which a worker simply runs, and which the next try keeps.
    assert docora.waiting() == [link.job_id]
    again = docora.run(*arguments(command, link))
    assert again.data["outcome"] == "already_queued", again
    assert docora.waiting() == [link.job_id]
    assert docora.was_reset(link)


@pytest.mark.parametrize("command", ONE)
@pytest.mark.parametrize("fault", [Fault.LOSE_REQUEST, Fault.LOSE_REPLY], ids=["lost", "done"])
def test_a_commit_of_which_nobody_hears_leaves_a_job_whether_it_was_done_or_not(
    docora: Docora, link: TestLink, command: str, fault: Fault
) -> None:
    row = docora.row(link)
    with Proxy.before_postgres(docora.database_url) as proxy:
        commit = proxy.plan(COMMIT, fault)
        result = docora.run(*arguments(command, link), env={"DATABASE_URL": proxy.url})
        commit.wait()
    refuses(result, "postgres", "Postgres database")
    assert docora.waiting() == [link.job_id]
    was_done = fault is Fault.LOSE_REPLY
    if was_done:
        assert docora.was_reset(link)
    else:
        assert docora.row(link) == row
    assert docora.deliveries(link) == (0 if was_done and command == "resync" else 3)
    nothing_lost_nothing_twice(docora)

    again = docora.run(*arguments(command, link))
    if was_done and command == "retry":
        assert again.code == 4, again
        assert (again.json["status"], again.json["job"]) == ("pending_snapshot", "waiting")
    else:
        assert again.code == 0, again
        assert again.data["outcome"] == "already_queued"
    assert docora.was_reset(link)
    assert docora.waiting() == [link.job_id]


# Postgres, midway in a bulk operation


def test_a_postgres_that_is_lost_midway_stops_a_bulk_retry_which_says_what_was_done(
    docora: Docora,
) -> None:
    with Proxy.before_redis(docora.redis_url) as proxy:
        process, push = hold_bulk(docora, proxy, 200)
        assert terminate(docora) == 3
        push.release()
        result = finish(process)
    document = refuses(result, "postgres", "Postgres database")
    tells_what_was_done(docora, document, result, 40)
    progress = progress_of(docora, document["data"]["operation_id"])
    assert (progress["completed"], progress["cancelled"]) == ("40", "true")
    orphans = len(docora.waiting()) - 40
    assert orphans in {10, 20}, "of the two batches in flight"
    rest_is_finished(docora, already_queued=orphans)


def test_a_bulk_retry_whose_list_of_links_is_lost_counts_what_it_has_done(docora: Docora) -> None:
    with Proxy.before_redis(docora.redis_url) as proxy:
        process, push = hold_bulk(docora, proxy, 200)
        row = docora.connection.execute(
            "SELECT count(pg_terminate_backend(pid)) AS ended FROM pg_stat_activity"
            " WHERE application_name = 'docora-ops' AND datname = current_database()"
            " AND query LIKE 'FETCH %'"
        ).fetchone()
        assert row == {"ended": 1}
        push.release()
        result = finish(process)
    document = refuses(result, "postgres", "Postgres database")
    # What was in flight has been committed: the fifth batch, and perhaps the sixth.
    done = docora.statuses()["pending_snapshot"]
    assert done in {50, 60}
    tells_what_was_done(docora, document, result, done)
    rest_is_finished(docora, already_queued=0)


def test_a_postgres_that_hangs_midway_is_given_up_by_a_bulk_retry_once(docora: Docora) -> None:
    docora.add_links(200, apps=2)
    with (
        Proxy.before_redis(docora.redis_url) as redis_proxy,
        Proxy.before_postgres(docora.database_url) as postgres_proxy,
    ):
        push = redis_proxy.plan(PUSH, Fault.HOLD_REQUEST, number=5)
        process = docora.start(
            *("retry-all-failed", "--batch-size", "10", "--json"),
            env={"REDIS_URL": redis_proxy.url, "DATABASE_URL": postgres_proxy.url, **HURRIED},
        )
        push.wait()
        [key] = cast("list[bytes]", docora.redis.keys("docora:bulk:*"))
        # Later than they are committed: the reply to a commit must have come through.
        eventually(lambda: docora.redis.hget(key, "completed") == b"40", "four batches counted")
        postgres_proxy.freeze()
        push.release()
        since = time.monotonic()
        result = finish(process)
        # Statement timeout and grace make six; another wait for a farewell would make twelve.
        assert time.monotonic() - since < 10
    document = refuses(result, "postgres", "did not answer in time")
    tells_what_was_done(docora, document, result, 40)
    # The batches whose push was held, or waited for that, were pushed but never committed.
    rest_is_finished(docora, already_queued=len(docora.waiting()) - 40)


def test_one_lost_connection_stops_a_bulk_retry_which_counts_what_the_other_has_done(
    docora: Docora,
) -> None:
    docora.add_links(200, apps=2)
    with Proxy.before_postgres(docora.database_url) as proxy:
        # The first commit is that of the selection.
        commit = proxy.plan(COMMIT, Fault.LOSE_REQUEST, number=6)
        result = docora.run(
            *("retry-all-failed", "--batch-size", "10", "--json"), env={"DATABASE_URL": proxy.url}
        )
        commit.wait()
    document = refuses(result, "postgres", "Postgres database")
    done = docora.statuses()["pending_snapshot"]
    assert done in {40, 50}
    tells_what_was_done(docora, document, result, done)
    rest_is_finished(docora, already_queued=len(docora.waiting()) - done)


def test_a_commit_of_a_bulk_retry_of_which_nobody_hears_loses_nothing(docora: Docora) -> None:
    docora.add_links(200, apps=2)
    with Proxy.before_postgres(docora.database_url) as proxy:
        commit = proxy.plan(COMMIT, Fault.LOSE_REPLY, number=6)
        result = docora.run(
            *("retry-all-failed", "--batch-size", "10", "--json"), env={"DATABASE_URL": proxy.url}
        )
        commit.wait()
    document = refuses(result, "postgres", "Postgres database")
    assert document["data"]["total"] == 200
    assert docora.statuses()["pending_snapshot"] in {50, 60}
    nothing_lost_nothing_twice(docora)
    rest_is_finished(docora, already_queued=0)


def test_links_that_a_bulk_retry_did_one_by_one_are_counted_when_redis_is_lost(
    docora: Docora, own: OwnRedis
) -> None:
    docora.add_links(10)
    docora.connection.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$"
    )
    # So the whole batch fails, and its links are tried one by one.
    docora.connection.execute(
        "CREATE TRIGGER refuse BEFORE UPDATE ON app_repositories FOR EACH ROW"
        " WHEN (old.repository_id LIKE 'repo_%1') EXECUTE FUNCTION refuse()"
    )
    with Proxy.before_redis(own.url) as proxy:
        push = proxy.plan(PUSH, Fault.HOLD_REQUEST, number=5)
        process = docora.start("retry-all-failed", "--json", env={"REDIS_URL": proxy.url})
        push.wait()
        own.stop()
        push.release()
        result = finish(process)
    document = refuses(result, "redis", "broke the connection")
    assert docora.statuses() == {"failed": 6, "pending_snapshot": 4}
    assert document["data"]["queued"] == 4
    assert document["data"]["failed"] == 1


# A database that is not as it should be


@pytest.mark.parametrize(
    ("change", "command", "sentence"),
    [
        ("DROP TABLE app_delivered_files", "resync", 'relation "app_delivered_files"'),
        ("DROP TABLE app_delivered_files", "resync --all", 'relation "app_delivered_files"'),
        ("DROP TABLE apps CASCADE", "retry", 'relation "apps"'),
        ("DROP TABLE apps CASCADE", "retry-all-failed", 'relation "apps"'),
        ("DROP TABLE app_repositories", "retry", 'relation "app_repositories"'),
        ("ALTER TABLE repositories DROP circuit_open_until", "retry", "circuit_open_until"),
        ("ALTER TABLE apps DROP base_url", "retry-all-failed", "base_url"),
        ("ALTER TABLE app_repositories DROP retry_count", "retry-all-failed", "retry_count"),
    ],
)
def test_a_database_that_is_not_docoras_is_refused(
    docora: Docora, link: TestLink, change: str, command: str, sentence: str
) -> None:
    docora.connection.execute(change.encode())
    job = docora.job_hash(link.job_id)
    result = docora.run(*arguments(command, link))
    document = refuses(result, "postgres", "is not a Docora database", sentence)
    assert "DATABASE_URL" in document["hint"]
    if change != "DROP TABLE app_repositories":
        assert docora.statuses() == {"failed": 1}
    assert docora.waiting() == []
    assert docora.job_hash(link.job_id) == job


@pytest.mark.parametrize(
    ("missing", "command"),
    [
        ("UPDATE ON app_repositories", "retry"),
        ("DELETE ON app_delivered_files", "resync --all"),
        ("UPDATE ON repositories", "retry"),
    ],
)
def test_a_role_that_lacks_a_privilege_changes_nothing(
    docora: Docora, link: TestLink, powerless: Role, missing: str, command: str
) -> None:
    docora.connection.execute(f"REVOKE {missing} FROM {powerless.name}".encode())
    before = docora.dump()
    options = ["--reset-circuit"] if missing == "UPDATE ON repositories" else []
    result = docora.run(
        *arguments(command, link), *options, env={"DATABASE_URL": powerless.url(SECRET)}
    )
    document = refuses(
        result, "postgres", f"permission denied for table {missing.rpartition(' ')[2]}"
    )
    assert "grant" in document["hint"]
    forget_operations(docora)
    assert docora.dump() == before


def test_a_role_that_may_not_connect_often_enough_changes_nothing(
    docora: Docora, link: TestLink, powerless: Role
) -> None:
    docora.connection.execute(f"ALTER ROLE {powerless.name} CONNECTION LIMIT 1".encode())
    before = docora.dump()
    result = docora.run(
        *arguments("retry-all-failed", link), env={"DATABASE_URL": powerless.url(SECRET)}
    )
    refuses(result, "postgres", "too many connections for role")
    forget_operations(docora)
    assert docora.dump() == before


def test_a_wrong_postgres_password_is_refused_and_not_shown(guarded: Docora) -> None:
    link = guarded.add_link()
    before = guarded.dump()
    with role(guarded, "docora_ops", SECRET + "!") as user:
        for command in ("retry", "retry-all-failed"):
            result = guarded.run(*arguments(command, link), env={"DATABASE_URL": user.url(SECRET)})
            refuses(result, "postgres", "password authentication failed")
    assert guarded.dump() == before


def test_a_read_only_postgres_is_refused(docora: Docora, link: TestLink) -> None:
    before = docora.dump()
    url = docora.database_url + ("&" if "?" in docora.database_url else "?")
    url += "options=-c%20default_transaction_read_only%3Don"
    for command in ALL:
        result = docora.run(*arguments(command, link), env={"DATABASE_URL": url})
        refuses(result, "postgres", "is read-only")
    forget_operations(docora)
    assert docora.dump() == before


# Settings that make no sense


@pytest.mark.parametrize(
    "url",
    [
        f"postgres://someone:{SECRET}@host/docora",
        "postgres://someone:5ecr3t@passw0rd@host/docora",
        "postgres://someone:5ecr3t@passw0rd/t0ken@host/docora",
        "postgres://someone:5ecr3t/passw0rd@host/docora",
        f"postgres://someone:{ENCODED}@host:port/docora",
        f"postgres://someone:{ENCODED}@host:99999999/docora",
        f"postgres://someone:{ENCODED}@host/docora?no_such_option=1",
        f"postgres://someone:{ENCODED}@host/docora?sslmode=perhaps",
        f"postgres://someone:{ENCODED}@host/docora?connect_timeout=soon",
        f"mysql://someone:{ENCODED}@host/docora",
        f"host=host password={ENCODED}",
    ],
)
def test_an_unusable_database_url_is_refused_without_showing_it(
    docora: Docora, link: TestLink, url: str
) -> None:
    result = docora.run(*arguments("retry", link), env={"DATABASE_URL": url, **HURRIED})
    refuses(result, "configuration", "DATABASE_URL", exit_code=2)


@pytest.mark.parametrize(
    "url",
    [
        f"redis://:{SECRET}@host:6379",
        "redis://:5ecr3t@passw0rd/t0ken@host:6379/0",
        "redis://:5ecr3t/passw0rd@host:6379/0",
        f"redis://someone:{ENCODED}@host:99999999",
        f"redis://someone:{ENCODED}@host?family=6",
        f"redis://someone:{ENCODED}@host?credential_provider=x",
        f"redis://someone:{ENCODED}@host/first",
        f"http://someone:{ENCODED}@host",
        f"unix://someone:{ENCODED}@",
    ],
)
def test_an_unusable_redis_url_is_refused_without_showing_it(
    docora: Docora, link: TestLink, url: str
) -> None:
    result = docora.run(*arguments("progress", link), env={"REDIS_URL": url, **HURRIED})
    refuses(result, "configuration", "REDIS_URL", exit_code=2)


@pytest.fixture
def web_server() -> Iterator[int]:
    """The port of something that answers everybody as a web server would."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.02)
        ended = threading.Event()

        def answer() -> None:
            while not ended.is_set():
                try:
                    client, _ = listener.accept()
                except TimeoutError:
                    continue
                with client:
                    client.settimeout(5)
                    client.recv(4096)
                    client.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        yield listener.getsockname()[1]
        ended.set()
        thread.join()


def test_a_port_on_which_something_else_listens_is_refused(
    docora: Docora, link: TestLink, web_server: int
) -> None:
    before = docora.dump()
    environment = {"REDIS_URL": f"redis://:{ENCODED}@127.0.0.1:{web_server}", **HURRIED}
    refuses(docora.run(*arguments("retry", link), env=environment), "redis", "Redis at 127.0.0.1")
    environment = {"DATABASE_URL": f"postgres://me:{ENCODED}@127.0.0.1:{web_server}/x", **HURRIED}
    refuses(docora.run(*arguments("retry", link), env=environment), "postgres", "x on 127.0.0.1")
    assert docora.dump() == before
