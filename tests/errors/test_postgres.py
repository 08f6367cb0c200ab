"""A Postgres that is gone, refuses, or hangs: a sentence, a code, nothing half done."""

import pytest

from tests.errors.checks import (
    ENCODED,
    HURRIED,
    SECRET,
    arguments,
    refuses,
    shows_no_secret,
    start_change,
)
from tests.support.database import with_database
from tests.support.docora import Docora, finish
from tests.support.own_servers import role
from tests.support.proxy import COMMIT, Fault, Proxy, refused_port
from tests.support.rows import TestLink


def test_without_postgres_or_a_database_nothing_is_changed(docora: Docora, link: TestLink) -> None:
    before = docora.dump()
    nowhere = f"postgres://someone:{ENCODED}@127.0.0.1:{refused_port()}/docora"
    elsewhere = with_database(docora.database_url, "no_such_database")
    for command in ("retry", "resync --all", "retry-all-failed", "schedule"):
        result = docora.run(*arguments(command, link), env={"DATABASE_URL": nowhere})
        refuses(result, "postgres", "docora on 127.0.0.1", "connection refused")
    result = docora.run(*arguments("retry", link), env={"DATABASE_URL": elsewhere})
    refuses(result, "postgres", 'database "no_such_database" does not exist')
    assert docora.dump() == before


@pytest.mark.slow
def test_a_postgres_that_hangs_midway_is_given_up(docora: Docora, link: TestLink) -> None:
    row = docora.row(link)
    with (
        Proxy.before_redis(docora.redis_url) as redis_proxy,
        Proxy.before_postgres(docora.database_url) as proxy,
    ):
        process, _ = start_change(
            docora, "retry", link, (redis_proxy, proxy), COMMIT, Fault.HOLD_REQUEST, HURRIED
        )
        result = finish(process)
    refuses(result, "postgres", "did not answer in time")
    assert docora.row(link) == row
    assert docora.waiting() == [link.job_id]


def test_a_statement_that_takes_too_long_is_given_up(docora: Docora, link: TestLink) -> None:
    docora.add_trigger("PERFORM pg_sleep(30)")
    before = docora.dump()
    sentence = "did not finish a statement within 1 s"
    result = docora.run(*arguments("retry", link), env=HURRIED)
    refuses(result, "statement_timeout", sentence)
    assert docora.dump() == before
    # It may be due to this one link, so a bulk operation would go on with the others.
    bulk = docora.run(*arguments("retry-all-failed", link), env=HURRIED).ended(6)
    shows_no_secret(bulk)
    [failure] = bulk.data["failures"]
    assert failure["job_id"] == link.job_id
    assert sentence in failure["error_message"]
    docora.redis.delete(*docora.redis.keys("docora:bulk:*"), *docora.redis.keys("docora-ops:*"))
    assert docora.dump() == before


@pytest.mark.parametrize(
    ("change", "command", "sentence"),
    [
        ("DROP TABLE apps CASCADE", "retry", 'relation "public.apps"'),
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
    assert docora.statuses() == {"failed": 1}
    assert docora.waiting() == []
    assert docora.job_hash(link.job_id) == job


def test_a_wrong_password_is_not_shown(docora: Docora, link: TestLink, worker_number: int) -> None:
    with role(docora, f"docora_guarded_{worker_number}", SECRET + "!") as user:
        result = docora.run(*arguments("retry", link), env={"DATABASE_URL": user.url(SECRET)})
        refuses(result, "postgres", "password authentication failed")
