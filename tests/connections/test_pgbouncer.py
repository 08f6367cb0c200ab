"""Commands behind a PgBouncer whose few sessions other clients use, too."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.support.diagnoses import check, examine
from tests.support.docora import Docora
from tests.support.pgbouncer import Neighbours, needs_pgbouncer, pgbouncer

pytestmark = needs_pgbouncer


@pytest.fixture
def pooled(docora: Docora) -> Iterator[Docora]:
    """The same Docora, behind a pool with others in it, who must not notice anything."""
    with pgbouncer(docora.database_access, "transaction", 2) as access:
        neighbours = Neighbours(docora.database_access, access.command)
        through = replace(
            docora, database_access=replace(access, owner=docora.database_access.owner)
        )
        with neighbours.at_work():
            yield through
        through.close()
        assert neighbours.strange == []


def test_changes_are_made_behind_a_pool(pooled: Docora) -> None:
    pooled.add_links(600, apps=2)
    first, *_ = pooled.links()
    pooled.add_deliveries(first, 3)
    for command in (("resync", *first.ids), ("retry-all-failed",)):
        result = pooled.run(*command, "--json")
        assert result.code == 0, result
    assert pooled.was_reset(first)
    assert pooled.deliveries(first) == 0
    assert len(pooled.waiting()) == 600
    assert pooled.statuses() == {"pending_snapshot": 600}
    assert pooled.doubled_jobs() == []


def test_commands_leave_nothing_in_the_pool(docora: Docora) -> None:
    docora.add_links(60, apps=2)
    with pgbouncer(docora.database_access, "transaction", 2) as access:
        env = {"DATABASE_URL": access.command, "DOCORA_OPS_DRIFT_GRACE": "0"}
        for command in (
            ("failed", "--json"),
            ("failed", "--group-by", "error", "--json"),
            ("show", f"app_{1:024x}", f"repo_{1:024x}", "--json"),
            ("doctor", "--json"),
            ("resync", "App 2", "--all", "--dry-run", "--json"),
            ("retry", f"app_{1:024x}", f"repo_{1:024x}", "--json"),
            ("retry-all-failed", "--batch-size", "5", "--json"),
        ):
            result = docora.run(*command, env=env)
            assert result.code in {0, 6}, result
        neighbours = Neighbours(docora.database_access, access.command)
        neighbours.look_everywhere(2)
    assert neighbours.strange == []


def test_a_pool_of_statements_is_refused(docora: Docora) -> None:
    link = docora.add_link()
    with pgbouncer(docora.database_access, "statement", 2) as access:
        result = docora.run("retry", *link.ids, "--json", env={"DATABASE_URL": access.command})
    assert (result.code, result.json["code"]) == (5, "postgres_pooling"), result
    assert "behind a proxy that pools statements" in result.json["error"]
    assert "pool_mode" in result.json["hint"]
    assert docora.status(link) == "failed"
    assert docora.waiting() == []


def test_doctor_names_the_pool_and_what_works(docora: Docora) -> None:
    with (
        pgbouncer(docora.database_access, "transaction", 3) as access,
        Neighbours(docora.database_access, access.command).at_work(),
    ):
        found = check(examine(docora, DATABASE_URL=access.command), "postgres_pooling")
    assert found["state"] == "warning", found
    assert "commands work, and a worker refuses to start" in found["finding"]
    assert "point the workers' DATABASE_URL at Postgres itself" in found["hint"]
