"""What is read of a link, its app and its repository is how they were together at one moment.

Who waits for a row finds it as its holder has left it; the rest must not be from before.
"""

from collections.abc import Iterator
from contextlib import closing, contextmanager

import psycopg
import pytest

from docora_ops.database import Session
from docora_ops.database.link_scans import Refusal, begin_scan
from docora_ops.links import Outcome, Payload
from docora_ops.queue import rq_queue
from tests.support.docora import Docora
from tests.support.row_locks import released_when_waited_for, row_locks, slow_claims
from tests.support.rows import TestLink

NEW_TOKEN, NEW_KEY = "new:new:token", "new:new:key"
NEW_URL, NEW_APP = "https://new.example/octo/api", "https://new.example/app"


def move(holder: psycopg.Connection) -> None:
    """Repository and app move to another host, and the link gets a token for it."""
    holder.execute("UPDATE app_repositories SET github_token_encrypted = %s", (NEW_TOKEN,))
    holder.execute("UPDATE repositories SET github_url = %s", (NEW_URL,))
    holder.execute(
        "UPDATE apps SET base_url = %s, client_auth_key_encrypted = %s", (NEW_APP, NEW_KEY)
    )


def is_of_the_new_host(payload: Payload) -> bool:
    return (
        payload.github_token_encrypted,
        payload.client_auth_key_encrypted,
        payload.github_url,
        payload.base_url,
    ) == (NEW_TOKEN, NEW_KEY, NEW_URL, NEW_APP)


@contextmanager
def moving(docora: Docora, link: TestLink) -> Iterator[None]:
    """The move is committed as soon as a session of docora-ops waits for the link's row."""
    with row_locks(docora, link) as holder:
        move(holder)
        with released_when_waited_for(docora, holder):
            yield


@pytest.fixture
def pushed(monkeypatch: pytest.MonkeyPatch) -> list[Payload]:
    """What jobs are called with."""
    payloads: list[Payload] = []
    data = rq_queue.job_data

    def note_and_make(payload: Payload, *, is_rescan: bool) -> bytes:
        payloads.append(payload)
        return data(payload, is_rescan=is_rescan)

    monkeypatch.setattr(rq_queue, "job_data", note_and_make)
    return payloads


def test_a_job_that_waits_for_its_link(docora: Docora) -> None:
    link = docora.add_link("pending_snapshot")
    with closing(Session(docora.settings)) as session, moving(docora, link):
        begun = begin_scan(session, link.app_id, link.repository_id)
    assert not isinstance(begun, Refusal)
    begun_link, payload = begun
    assert begun_link.payload is payload
    assert is_of_the_new_host(payload)


def test_a_change_of_one_link(docora: Docora, pushed: list[Payload]) -> None:
    link = docora.add_link()
    actions = docora.actions(lock_timeout=20)
    with moving(docora, link):
        assert actions.retry(link).outcome is Outcome.QUEUED
    [payload] = pushed
    assert is_of_the_new_host(payload)


def test_a_bulk_retry(docora: Docora, worker_number: int, pushed: list[Payload]) -> None:
    docora.add_link()
    with slow_claims(docora, worker_number) as (actions, holder):
        move(holder)
        with released_when_waited_for(docora, holder):
            assert actions.retry_all().counts == {Outcome.QUEUED: 1}
    [payload] = pushed
    assert is_of_the_new_host(payload)


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
