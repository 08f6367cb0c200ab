"""A Postgres that is gone, hangs, or loses a reply: a sentence, a code, nothing half done."""

from __future__ import annotations

import time

import psycopg
import pytest

from tests.errors.checks import (
    ENCODED,
    HURRIED,
    ONE,
    arguments,
    refuses,
    shows_no_secret,
)
from tests.support.database import with_database
from tests.support.docora import Docora, finish
from tests.support.proxy import (
    COMMIT,
    LOOKUPS,
    PUSH,
    Fault,
    Proxy,
    refused_port,
)
from tests.support.rows import TestLink
from tests.support.running_commands import terminate_sessions


@pytest.mark.parametrize("command", ["retry", "resync --all", "retry-all-failed", "schedule"])
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
        proxy.plan(marker, Fault.HOLD_REQUEST, LOOKUPS + 1 if marker is COMMIT else 1)
        since = time.monotonic()
        result = docora.run(*arguments("retry", link), env={"DATABASE_URL": proxy.url, **HURRIED})
        assert time.monotonic() - since < 12
    refuses(result, "postgres", "did not answer in time")
    assert docora.row(link) == row
    assert len(docora.waiting()) == (1 if marker is COMMIT else 0)


def test_a_statement_that_takes_too_long_is_given_up(docora: Docora, link: TestLink) -> None:
    docora.add_trigger("PERFORM pg_sleep(30)")
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
    assert sentence in failure["error_message"]
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


@pytest.mark.parametrize("command", ONE)
def test_a_postgres_connection_that_ends_before_the_commit_leaves_the_link_as_it_was(
    docora: Docora, link: TestLink, command: str
) -> None:
    row = docora.row(link)
    with Proxy.before_redis(docora.redis_url) as proxy:
        push = proxy.plan(PUSH, Fault.HOLD_REQUEST)
        process = docora.start(*arguments(command, link), env={"REDIS_URL": proxy.url})
        push.wait()
        assert terminate_sessions(docora) == 1
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
        commit = proxy.plan(COMMIT, fault, LOOKUPS + 1)
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
    docora.assert_sound()

    again = docora.run(*arguments(command, link))
    if was_done and command == "retry":
        assert again.code == 4, again
        assert (again.json["status"], again.json["job"]) == ("pending_snapshot", "waiting")
    else:
        assert again.code == 0, again
        assert again.data["outcome"] == "already_queued"
    assert docora.was_reset(link)
    assert docora.waiting() == [link.job_id]
