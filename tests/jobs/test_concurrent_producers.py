"""Commands, workers and other producers at the same links at once.

From the look at its status to the commit, and no longer, nobody else changes a link's row. Whoever
waits for a row reads the link, its app and its repository as the row's holder has left them.
"""

from contextlib import closing
from dataclasses import asdict, replace
from functools import partial

import psycopg
import pytest

from docora_ops.database import Session
from docora_ops.database.link_scans import Refusal, begin_scan
from docora_ops.links import Outcome
from tests.support.bulk_actions import RESYNC, RETRY, BulkAction
from tests.support.docora import Docora, finish
from tests.support.proxy import Fault, Proxy
from tests.support.row_locks import released_when_waited_for, row_locks, slow_claims
from tests.support.running_commands import PATIENT, starting_line

PROCESSES = 10
TOTAL = 600
AT_ONCE = {**PATIENT, "DOCORA_OPS_DRIFT_GRACE": "0"}


def test_ten_processes_that_retry_one_link_at_once_leave_one_job(docora: Docora) -> None:
    link = docora.add_link()
    with starting_line(docora, PROCESSES, "SELECT 1 FROM app_repositories FOR UPDATE"):
        command = ("retry", *link.ids, "--json")
        processes = [docora.start(*command, env=PATIENT) for _ in range(PROCESSES)]
    results = [finish(process) for process in processes]
    outcomes = [result.data["outcome"] for result in results if result.code == 0]
    assert outcomes == ["queued"], "the first found the link failed, the others found it pending"
    for result in results:
        if result.code:
            refusal = [result.json[name] for name in ("code", "status", "job")]
            assert (result.code, refusal) == (4, ["not_failed", "pending_snapshot", "waiting"])
    assert docora.waiting() == [link.job_id]
    assert docora.registries(link.job_id) == set()
    assert docora.was_reset(link)


@pytest.mark.parametrize(
    "together",
    [
        [
            replace(RETRY, command=("retry-all-failed", "--batch-size", size))
            for size in ("500", "100", "70", "30")
        ],
        [RETRY, RESYNC],
    ],
    ids=["four retries", "retry and resync"],
)
def test_bulk_actions_at_once_double_no_job(docora: Docora, together: list[BulkAction]) -> None:
    together[0].add_links(docora, TOTAL)
    with starting_line(docora, len(together)):
        processes = [docora.start(*bulk.command, "--json", env=AT_ONCE) for bulk in together]
    results = [finish(process) for process in processes]
    for result in results:
        assert result.code == 0, result
        # One that wakes up late finds fewer links.
        assert result.data["total"] == result.data["completed"]
        assert result.data["put_to_work"] + result.data["skipped"] == result.data["total"]
    assert sum(result.data["queued"] for result in results) == TOTAL
    assert sorted(docora.waiting()) == [link.job_id for link in docora.links()]
    docora.assert_sound()
    assert docora.statuses() == {"pending_snapshot": TOTAL}


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


def test_a_lock_in_another_database_is_no_workers(docora: Docora, postgres_url: str) -> None:
    """Two Docoras on one server, one a copy of the other: their links have the same ids."""
    link = docora.add_link()
    with psycopg.connect(postgres_url, autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", (link.job_id,))
        assert docora.run("retry", *link.ids).code == 0
    assert docora.was_reset(link)


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


def test_a_job_that_waits_for_its_link_reads_what_the_holder_has_written(docora: Docora) -> None:
    link = docora.add_link("pending_snapshot")
    with closing(Session(docora.settings)) as session, row_locks(docora, link) as holder:
        move(holder)
        with released_when_waited_for(docora, holder):
            begun = begin_scan(session, link.app_id, link.repository_id)
    assert not isinstance(begun, Refusal)
    begun_link, payload = begun
    assert begun_link.payload is payload
    assert NEW.items() <= asdict(payload).items()


def test_a_bulk_retry_queues_what_a_holder_has_written(docora: Docora, worker_number: int) -> None:
    link = docora.add_link()
    with slow_claims(docora, worker_number) as (actions, holder):
        move(holder)
        with released_when_waited_for(docora, holder):
            assert actions.retry_all().counts == {Outcome.QUEUED: 1}
    assert NEW.items() <= docora.job(link).kwargs.items()


def test_the_schedule_sees_a_circuit_that_just_opened(docora: Docora, worker_number: int) -> None:
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
