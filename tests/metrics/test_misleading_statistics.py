"""Counting lost and stuck links stays fast when Postgres expects many more of them."""

from __future__ import annotations

from docora_ops.database.link_rows import UNFINISHED_LINKS
from tests.support.docora import Docora


def test_after_a_bulk_change_postgres_does_not_walk_through_all_links(docora: Docora) -> None:
    docora.add_links(6_000, status="scanning")
    docora.connection.execute("ANALYZE app_repositories")
    docora.connection.execute("UPDATE app_repositories SET status = 'synced'")
    plan = docora.connection.execute(
        f"EXPLAIN {UNFINISHED_LINKS.replace('docora.', '')}".encode(),
        {"app_id": None, "id": None, "only_stuck": False, "limit": 11},
    ).fetchall()
    lines = "\n".join(row["QUERY PLAN"] for row in plan)
    assert "app_repositories_app_id" not in lines, lines
    # TRUNCATE forgets the counts; the tests that follow would be slow with them.
    docora.connection.execute("TRUNCATE apps, repositories, app_repositories CASCADE")
