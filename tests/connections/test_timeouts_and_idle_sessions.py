"""Timeouts of the settings reach Redis, and idle sessions that Postgres ends do no harm."""

import time

import pytest

from docora_ops.database import Database
from docora_ops.database.postgres import Connection
from docora_ops.database.session import Pooling, find_pooling
from docora_ops.queue import connect
from tests.support.docora import Docora
from tests.support.proxy import eventually


def test_redis_is_waited_for_as_long_as_the_settings_say(docora: Docora) -> None:
    settings = docora.settings.model_copy(update={"connect_timeout": 7, "statement_timeout": 11})
    with connect(settings) as client:
        limits = client.get_connection_kwargs()
    assert (limits["socket_connect_timeout"], limits["socket_timeout"]) == (7, 11)


def test_a_command_outlives_a_limit_of_the_database_for_idle_sessions(docora: Docora) -> None:
    """Between two transactions nothing is lost with a session."""
    link = docora.add_link()
    docora.connection.execute("SET idle_session_timeout = 0")
    name = docora.connection.info.dbname
    docora.connection.execute(f"ALTER DATABASE {name} SET idle_session_timeout = '50ms'".encode())
    try:
        actions = docora.actions()
        ref = actions.ref(link)
        eventually(lambda: not _sessions(docora), "the end of an idle session")
        assert actions.ref(link) == ref
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
        assert find_pooling(docora.actions().settings) is Pooling.NONE
    finally:
        docora.connection.execute(f"ALTER DATABASE {name} RESET ALL".encode())


def _sessions(docora: Docora) -> object:
    return docora.connection.execute(
        "SELECT FROM pg_stat_activity WHERE application_name = 'docora-ops'"
        " AND datname = current_database()"
    ).fetchall()
