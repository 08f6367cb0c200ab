"""What the servers are told of timeouts, and that idle sessions may end."""

from docora_ops.queue import connect
from tests.support.docora import Docora
from tests.support.proxy import eventually


def test_both_servers_are_told_who_we_are_and_all_timeouts(docora: Docora) -> None:
    settings = docora.settings.model_copy(update={"connect_timeout": 7, "statement_timeout": 11})
    with connect(settings) as client:
        limits = client.get_connection_kwargs()
    assert (limits["socket_connect_timeout"], limits["socket_timeout"]) == (7, 11)
    database = docora.actions(statement_timeout=17, lock_timeout=3).database
    sql = "SELECT name, setting || coalesce(unit, '') FROM pg_settings WHERE source = 'session'"
    application = "SELECT current_setting('application_name')"
    with database.transaction():
        timeouts = {name: value for name, value in database.rows(sql) if "timeout" in name}
        assert database.rows(application) == [("docora-ops",)]
    timeouts.pop("transaction_timeout", None)
    assert timeouts == {
        "statement_timeout": "17000ms",
        "lock_timeout": "3000ms",
        "idle_in_transaction_session_timeout": "10000ms",
    }


def test_a_command_outlives_a_limit_of_the_database_for_idle_sessions(docora: Docora) -> None:
    """Between two transactions nothing is lost with a session."""
    link = docora.add_link()
    docora.connection.execute("SET idle_session_timeout = 0")
    name = docora.connection.info.dbname
    docora.connection.execute(f"ALTER DATABASE {name} SET idle_session_timeout = '50ms'".encode())
    try:
        actions = docora.actions()
        ref = actions.ref(link)
        eventually(lambda: not docora.sessions("true"), "the end of an idle session")
        assert actions.ref(link) == ref
    finally:
        docora.connection.execute(f"ALTER DATABASE {name} RESET ALL".encode())
