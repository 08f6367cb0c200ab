"""Timeouts of the settings reach Redis, and idle sessions that Postgres ends do no harm."""

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


def _sessions(docora: Docora) -> object:
    return docora.connection.execute(
        "SELECT FROM pg_stat_activity WHERE application_name = 'docora-ops'"
        " AND datname = current_database()"
    ).fetchall()
