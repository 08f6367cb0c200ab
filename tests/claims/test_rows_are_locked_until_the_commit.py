"""From the look at its status to the commit, nobody else changes the row of a link."""

from functools import partial

import psycopg

from docora_ops.links import Outcome
from tests.support.docora import Docora
from tests.support.row_locks import released_when_waited_for, slow_claims


def test_a_worker_that_begins_while_a_batch_is_being_locked_is_seen(
    docora: Docora, worker_number: int
) -> None:
    app_id = docora.add_app()
    first, second = (docora.link(app_id, docora.add_repository(), "synced") for _ in range(2))
    # The first is locked before the second is waited for.
    for link, digit in ((first, "0"), (second, "f")):
        docora.set_link(link, id=digit * 32)
    at_once = f"repository_id = '{first.repository_id}'"
    with slow_claims(docora, worker_number, at_once=at_once) as (actions, holder):
        begin = partial(docora.hold_lock, second.job_id)
        with released_when_waited_for(docora, holder, begin):
            result = actions.resync_all(app_id)
    assert result.counts == {Outcome.QUEUED: 1, Outcome.ALREADY_RUNNING: 1}
    assert docora.status(second) == "synced"
    assert docora.waiting() == [first.job_id]


def test_a_lock_in_another_database_is_not_that_of_a_worker(
    docora: Docora, postgres_url: str
) -> None:
    """Two Docoras on one server, one a copy of the other: their links have the same ids."""
    link = docora.add_link()
    with psycopg.connect(postgres_url, autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", (link.job_id,))
        assert docora.run("retry", *link.ids).code == 0
    assert docora.was_reset(link)
