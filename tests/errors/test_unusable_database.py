"""A database that is not as it should be."""

import pytest

from tests.errors.checks import SECRET, arguments, forget_operations, refuses
from tests.support.docora import Docora
from tests.support.own_servers import Role, role
from tests.support.rows import TestLink


@pytest.mark.parametrize(
    ("change", "command", "sentence"),
    [
        ("DROP TABLE app_delivered_files", "resync --all", 'relation "public.app_delivered_files"'),
        ("DROP TABLE apps CASCADE", "retry", 'relation "public.apps"'),
        ("ALTER TABLE repositories DROP circuit_open_until", "retry", "circuit_open_until"),
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
    docora.connection.execute(
        "UPDATE repositories SET circuit_open_until = now() + interval '1 hour'"
    )
    docora.connection.execute(f"REVOKE {missing} FROM {powerless.name}".encode())
    before = docora.dump()
    options = ["--reset-circuit"] if missing == "UPDATE ON repositories" else []
    result = docora.run(
        *arguments(command, link), *options, env={"DATABASE_URL": powerless.url(SECRET)}
    )
    document = refuses(
        result, "postgres", f"permission denied for table {missing.rpartition(' ')[2]}"
    )
    assert "docora-ops help privileges" in document["hint"]
    forget_operations(docora)
    assert docora.dump() == before


def test_a_wrong_postgres_password_is_refused_and_not_shown(guarded: Docora) -> None:
    link = guarded.add_link()
    with role(guarded, "docora_ops", SECRET + "!") as user:
        result = guarded.run(*arguments("retry", link), env={"DATABASE_URL": user.url(SECRET)})
        refuses(result, "postgres", "password authentication failed")
