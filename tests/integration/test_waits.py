"""How long is waited, and what is not done as often as there are links."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import pytest
from rq.job import JobStatus

from docora_ops.actions.drift import find_drift
from docora_ops.actions.repair import Repair
from docora_ops.actions.single import SECOND_LOOK_DELAY
from docora_ops.database import Database
from docora_ops.database.connection import Connection
from docora_ops.database.pooling import Pooling, find_pooling
from docora_ops.models import JobState, Outcome
from docora_ops.queue import connect
from tests.harness import Docora
from tests.own_servers import own_redis
from tests.prescribed import Access
from tests.proxy import eventually
from tests.rooms import Rooms
from tests.rows import TestLink
from tests.warm import WarmCommand

GRACE = 600


def repair(rooms: Rooms, **scope: Any) -> None:
    Repair(rooms.database, rooms.queue, rooms.store, grace_seconds=GRACE, **scope).find()


@pytest.mark.parametrize(
    ("look", "expected"),
    [
        (lambda rooms, _: find_drift(rooms.database, rooms.queue, grace_seconds=GRACE), GRACE),
        (lambda rooms, _: repair(rooms), GRACE),
        (lambda rooms, link: repair(rooms, app_id=link.app_id), GRACE),
        (
            lambda rooms, link: repair(rooms, app_id=link.app_id, ref=rooms.ref(link)),
            SECOND_LOOK_DELAY,
        ),
    ],
    ids=["doctor", "repair", "an app", "a link"],
)
def test_the_second_look_for_drift_comes_after_the_grace_and_nothing_is_held_meanwhile(
    docora: Docora,
    monkeypatch: pytest.MonkeyPatch,
    look: Callable[[Rooms, TestLink], object],
    expected: float,
) -> None:
    link = docora.add_link("pending_snapshot")
    docora.age_links()
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        held = docora.connection.execute(
            "SELECT FROM pg_stat_activity WHERE application_name = 'docora-ops'"
            " AND datname = current_database() AND state <> 'idle'"
        ).fetchall()
        assert held == []

    monkeypatch.setattr("docora_ops.actions.drift.time.sleep", sleep)
    look(docora.rooms(), link)
    assert waits == [expected]


def test_redis_does_not_walk_its_list_for_each_job(
    database_access: Access, warm: WarmCommand, tmp_path: Path
) -> None:
    """It counts the commands of a script too; on a server of its own, nobody else's."""
    with (
        own_redis(tmp_path) as own,
        closing(Docora(database_access, own.access, warm)) as docora,
    ):
        job_ids = [docora.enqueue(f"job-{number}").id for number in range(100)]
        docora.redis.config_resetstat()
        answers = docora.rooms().queue.look(job_ids)
        assert {answer.state for answer in answers} == {JobState.WAITING}
        calls = docora.redis.info("commandstats")
        assert calls["cmdstat_lpos"]["calls"] < 50
        assert calls["cmdstat_lrange"]["calls"] == 1


def test_redis_is_waited_for_as_long_as_the_settings_say(docora: Docora) -> None:
    settings = docora.settings.model_copy(update={"connect_timeout": 7, "statement_timeout": 11})
    with connect(settings) as client:
        limits = client.get_connection_kwargs()
    assert (limits["socket_connect_timeout"], limits["socket_timeout"]) == (7, 11)


def test_what_is_doubtful_only_at_the_second_look_is_looked_at_a_third_time(
    docora: Docora, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that ends, and is queued anew and in no list: a worker may have it, or nobody."""
    link = docora.add_link()
    execution = docora.start_job(link.job_id)
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        if not waits:
            execution_keys = docora.redis.keys("rq:*execution*")
            docora.redis.delete(f"rq:wip:{docora.queue.name}", *cast("list[bytes]", execution_keys))
            docora.leave_job(execution.job_id, JobStatus.QUEUED)
        waits.append(seconds)

    monkeypatch.setattr("docora_ops.actions.single.time.sleep", sleep)
    assert docora.rooms().retry(link).outcome is Outcome.REPLACED_STALE
    assert len(waits) == 2
    docora.assert_sound()


def test_a_command_outlives_a_limit_of_the_database_for_idle_sessions(docora: Docora) -> None:
    """Between two transactions nothing is lost with a session."""
    link = docora.add_link()
    docora.connection.execute("SET idle_session_timeout = 0")
    name = docora.connection.info.dbname
    docora.connection.execute(f"ALTER DATABASE {name} SET idle_session_timeout = '50ms'".encode())
    try:
        rooms = docora.rooms()
        ref = rooms.ref(link)
        eventually(lambda: not _sessions(docora), "the end of an idle session")
        assert rooms.ref(link) == ref
    finally:
        docora.connection.execute(f"ALTER DATABASE {name} RESET ALL".encode())


def test_a_session_that_was_ended_while_idle_is_no_sign_of_a_pool(
    docora: Docora, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_at_once = Database._open

    def open_slowly(database: Database) -> Connection:
        time.sleep(0.2)  # while the first of two connections is idle
        return open_at_once(database)

    docora.connection.execute("SET idle_session_timeout = 0")
    name = docora.connection.info.dbname
    docora.connection.execute(f"ALTER DATABASE {name} SET idle_session_timeout = '100ms'".encode())
    monkeypatch.setattr(Database, "_open", open_slowly)
    try:
        assert find_pooling(docora.rooms().settings) is Pooling.NONE
    finally:
        docora.connection.execute(f"ALTER DATABASE {name} RESET ALL".encode())


def _sessions(docora: Docora) -> object:
    return docora.connection.execute(
        "SELECT FROM pg_stat_activity WHERE application_name = 'docora-ops'"
        " AND datname = current_database()"
    ).fetchall()
