"""From the look at its status to the commit, and no longer, nobody else changes a link's row."""

from functools import partial

import psycopg
import pytest

from docora_ops.links import Outcome
from tests.support.docora import Docora, finish
from tests.support.proxy import Fault, Proxy
from tests.support.row_locks import released_when_waited_for, slow_claims


@pytest.mark.parametrize("command", ["retry", "retry-all-failed --yes", "repair --yes"])
def test_the_script_is_loaded_before_rows_are_locked(docora: Docora, command: str) -> None:
    """No row waits until a command has connected to Redis."""
    link = docora.add_link("pending_snapshot" if "repair" in command else "failed")
    docora.age_links()
    docora.redis.script_flush()
    words = [*command.split(), *(link.ids if command == "retry" else ())]
    with Proxy.before_redis(docora.redis_url) as proxy:
        load = proxy.plan(b"LOAD\r\n", Fault.HOLD_REQUEST)
        environment = {"REDIS_URL": proxy.url, "DOCORA_OPS_DRIFT_GRACE": "0"}
        with docora.start(*words, env=environment) as process:
            load.wait()
            assert docora.sessions("state LIKE 'idle in transaction%'") == 0
            load.release()
            assert finish(process).code == 0
    assert docora.waiting() == [link.job_id]


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
    assert result.counts == {Outcome.QUEUED: 1, Outcome.NOT_QUEUED: 1}
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
