"""A link that takes too long costs only itself, unless it is the server that is slow."""

from __future__ import annotations

import pytest

from docora_ops.errors import PostgresError
from docora_ops.links import Action, Outcome
from tests.support.docora import Docora

SLOW_DELETE = """
CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM pg_sleep(30); RETURN old; END $$;
CREATE TRIGGER dawdle BEFORE DELETE ON app_delivered_files FOR EACH ROW
    WHEN (old.file_sha = 'slow') EXECUTE FUNCTION dawdle();
"""


def add_app_with_links(docora: Docora, slow: set[int], links: int = 5) -> str:
    app_id = docora.add_app()
    docora.connection.execute(SLOW_DELETE)
    for number in range(links):
        link = docora.link(app_id, docora.add_repository(f"octo/repo{number}"), "synced")
        docora.connection.execute(
            "INSERT INTO app_delivered_files (app_id, repository_id, file_path, file_sha)"
            " VALUES (%s, %s, 'a', %s)",
            (link.app_id, link.repository_id, "slow" if number in slow else "quick"),
        )
    return app_id


def test_one_slow_link_is_left_and_the_rest_of_its_batch_is_done(docora: Docora) -> None:
    app_id = add_app_with_links(docora, {2})
    actions = docora.actions(statement_timeout=1)
    result = actions.resync_all(app_id)
    assert result.operation is Action.RESYNC
    assert result.counts == {Outcome.QUEUED: 4, Outcome.FAILED: 1}
    assert "within 1 s" in result.failures[0].error
    assert docora.statuses() == {"pending_snapshot": 4, "synced": 1}
    assert docora.lost_links() == []


def test_links_that_are_all_slow_end_the_run(docora: Docora) -> None:
    app_id = add_app_with_links(docora, set(range(5)))
    actions = docora.actions(statement_timeout=1)
    with pytest.raises(PostgresError, match="within 1 s"):
        actions.resync_all(app_id)
    assert docora.statuses() == {"synced": 5}
    assert docora.waiting() == []
