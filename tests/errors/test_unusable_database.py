"""A database that is not as it should be."""

import pytest

from tests.errors.checks import SECRET, arguments, refuses
from tests.support.docora import Docora
from tests.support.own_servers import role
from tests.support.rows import TestLink


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


def test_a_wrong_postgres_password_is_refused_and_not_shown(
    docora: Docora, link: TestLink, worker_number: int
) -> None:
    with role(docora, f"docora_guarded_{worker_number}", SECRET + "!") as user:
        result = docora.run(*arguments("retry", link), env={"DATABASE_URL": user.url(SECRET)})
        refuses(result, "postgres", "password authentication failed")
