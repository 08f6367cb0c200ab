"""Commands behind a PgBouncer whose few sessions other clients use, too."""

from tests.support.diagnoses import check, examine
from tests.support.docora import Docora
from tests.support.pgbouncer import Neighbours, needs_pgbouncer, pgbouncer

pytestmark = needs_pgbouncer


def test_commands_leave_nothing_in_the_pool(docora: Docora) -> None:
    """Refusals where statements are pooled: tests/worker/locks/test_pgbouncer.py."""
    docora.add_links(600, apps=2)
    first, second, *_ = docora.links()
    docora.add_deliveries(first, 3)
    with pgbouncer(docora.database_access, "transaction", 2) as access:
        env = {"DATABASE_URL": access.command, "DOCORA_OPS_DRIFT_GRACE": "0"}
        neighbours = Neighbours(docora.database_access, access.command)
        with neighbours.at_work():
            for command in (
                *(("failed",), ("failed", "--group-by", "error"), ("show", *second.ids)),
                *(("doctor",), ("resync", "App 2", "--all", "--dry-run")),
                *(("resync", *first.ids), ("retry", *second.ids), ("retry-all-failed",)),
            ):
                result = docora.run(*command, "--json", env=env)
                assert result.code in {0, 6}, result
        neighbours.look_everywhere(2)
    assert neighbours.strange == []
    assert docora.was_reset(first)
    assert docora.deliveries(first) == 0
    assert len(docora.waiting()) == 600
    assert docora.statuses() == {"pending_snapshot": 600}
    assert docora.doubled_jobs() == []


def test_doctor_names_the_pool_and_what_works(docora: Docora) -> None:
    with (
        pgbouncer(docora.database_access, "transaction", 3) as access,
        Neighbours(docora.database_access, access.command).at_work(),
    ):
        found = check(examine(docora, DATABASE_URL=access.command), "postgres_pooling")
    assert found["state"] == "warning", found
    assert "commands work, and a worker refuses to start" in found["finding"]
    assert "point the workers' DATABASE_URL at Postgres itself" in found["hint"]
