"""Commands behind a PgBouncer whose few sessions other clients use, too."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.support.diagnoses import check, examine
from tests.support.docora import Docora
from tests.support.pgbouncer import Neighbours, needs_pgbouncer, pgbouncer
from tests.support.rows import TestLink

pytestmark = needs_pgbouncer

FIRST = TestLink(f"app_{1:024x}", f"repo_{1:024x}")
SIZES = {"transaction": 2, "session": 8}
"""A session pool serves one client with each session: two neighbours, and up to three of ours."""


@pytest.fixture(params=SIZES)
def pooled(request: pytest.FixtureRequest, docora: Docora) -> Iterator[Docora]:
    """The same Docora, behind a pool with others in it, who must not notice anything."""
    mode = str(request.param)
    with pgbouncer(docora.database_access, mode, SIZES[mode]) as access:
        neighbours = Neighbours(docora.database_access, access.command)
        through = replace(
            docora, database_access=replace(access, owner=docora.database_access.owner)
        )
        with neighbours.at_work():
            yield through
        through.close()
        assert neighbours.strange == []


@pytest.mark.parametrize(
    ("status", "command", "queued"),
    [
        pytest.param("failed", ("retry", *FIRST.ids), 1, id="retry"),
        pytest.param("synced", ("resync", *FIRST.ids), 1, id="resync"),
        pytest.param("failed", ("retry-all-failed", "--batch-size", "20"), 300, id="retry all"),
        pytest.param("pending_snapshot", ("repair", "--yes"), 300, id="repair"),
        pytest.param("synced", ("schedule",), 300, id="schedule"),
    ],
)
def test_a_change_is_made_behind_a_pool(
    pooled: Docora, status: str, command: tuple[str, ...], queued: int
) -> None:
    pooled.add_links(300, apps=2, status=status)
    pooled.add_deliveries(FIRST, 3)
    pooled.age_links()
    result = pooled.run(*command, "--json", env={"DOCORA_OPS_DRIFT_GRACE": "0"})
    assert result.code == 0, result
    assert result.data.get("queued", 1) == queued
    assert len(pooled.waiting()) == queued
    if queued == 1:
        assert pooled.waiting() == [FIRST.job_id]
        assert pooled.was_reset(FIRST)
        assert pooled.deliveries(FIRST) == (0 if command[0] == "resync" else 3)
    else:
        done = "synced" if command == ("schedule",) else "pending_snapshot"
        assert pooled.statuses() == {done: 300}
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


@pytest.mark.parametrize("command", ["retry", "failed", "doctor"])
def test_a_pool_of_statements_is_refused(docora: Docora, command: str) -> None:
    link = docora.add_link()
    arguments = [*link.ids] if command == "retry" else []
    with pgbouncer(docora.database_access, "statement", 2) as access:
        result = docora.run(command, *arguments, "--json", env={"DATABASE_URL": access.command})
    assert result.code == 5, result
    document = result.json
    found = check(result, "postgres") if command == "doctor" else document
    sentence, hint = found.get("error", found.get("finding")), found.get("hint")
    assert "behind a proxy that pools statements: docora-ops needs transactions" in sentence
    assert "pool_mode" in (hint or found["hint"])
    if command != "doctor":
        assert document["code"] == "postgres_pooling"
    assert docora.status(link) == "failed"
    assert docora.waiting() == []


@pytest.mark.parametrize(
    ("mode", "size", "state", "finding"),
    [
        ("transaction", 3, "warning", "a proxy that pools transactions"),
        ("session", 8, "ok", "no proxy that pools transactions"),
    ],
)
def test_doctor_names_the_pool_and_what_works(
    docora: Docora, mode: str, size: int, state: str, finding: str
) -> None:
    with (
        pgbouncer(docora.database_access, mode, size) as access,
        Neighbours(docora.database_access, access.command).at_work(),
    ):
        result = examine(docora, DATABASE_URL=access.command)
    found = check(result, "postgres_pooling")
    assert found["state"] == state, result
    assert finding in found["finding"]
    if state == "warning":
        assert "commands work, and a worker refuses to start" in found["finding"]
        assert "point the workers' DATABASE_URL at Postgres itself" in found["hint"]
