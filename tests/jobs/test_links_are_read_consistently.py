"""What is read of a link, its app and its repository is how they were together at one moment.

Who waits for a row finds it as its holder has left it; the rest must not be from before.
"""

from contextlib import closing
from dataclasses import asdict

import psycopg

from docora_ops.database import Session
from docora_ops.database.link_scans import Refusal, begin_scan
from docora_ops.links import Outcome
from tests.support.docora import Docora
from tests.support.row_locks import released_when_waited_for, row_locks, slow_claims

NEW = {
    "github_token_encrypted": "new:new:token",
    "client_auth_key_encrypted": "new:new:key",
    "github_url": "https://new.example/octo/api",
    "base_url": "https://new.example/app",
}


def move(holder: psycopg.Connection) -> None:
    """Repository and app move to another host, and the link gets a token for it."""
    token, key, repository, app = NEW.values()
    holder.execute("UPDATE app_repositories SET github_token_encrypted = %s", (token,))
    holder.execute("UPDATE repositories SET github_url = %s", (repository,))
    holder.execute("UPDATE apps SET base_url = %s, client_auth_key_encrypted = %s", (app, key))


def test_a_job_that_waits_for_its_link(docora: Docora) -> None:
    link = docora.add_link("pending_snapshot")
    with closing(Session(docora.settings)) as session, row_locks(docora, link) as holder:
        move(holder)
        with released_when_waited_for(docora, holder):
            begun = begin_scan(session, link.app_id, link.repository_id)
    assert not isinstance(begun, Refusal)
    begun_link, payload = begun
    assert begun_link.payload is payload
    assert NEW.items() <= asdict(payload).items()


def test_a_bulk_retry(docora: Docora, worker_number: int) -> None:
    link = docora.add_link()
    with slow_claims(docora, worker_number) as (actions, holder):
        move(holder)
        with released_when_waited_for(docora, holder):
            assert actions.retry_all().counts == {Outcome.QUEUED: 1}
    assert NEW.items() <= docora.job(link).kwargs.items()


def test_the_schedule_sees_the_circuit_that_opened_when_a_link_failed(
    docora: Docora, worker_number: int
) -> None:
    docora.add_links(3, status="pending_snapshot")
    changed = docora.links()[1]
    with slow_claims(docora, worker_number) as (actions, holder):
        for change in (
            "UPDATE repositories SET circuit_open_until = now() + interval '1 hour'",
            "UPDATE app_repositories SET status = 'failed'",
        ):
            holder.execute(f"{change} WHERE repository_id = %s".encode(), (changed.repository_id,))
        with released_when_waited_for(docora, holder):
            result = actions.schedule()
    assert result.counts == {Outcome.QUEUED: 2, Outcome.SKIPPED: 1}
    assert changed.job_id not in docora.waiting()
