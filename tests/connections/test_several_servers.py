"""A DATABASE_URL with several servers: which one is used, and why others were not."""

import socket
import time

import pytest

from tests.support.docora import Docora
from tests.support.proxy import Proxy, refused_port


def test_the_first_server_that_answers_is_used_and_named(docora: Docora) -> None:
    name, nobody = docora.connection.info.dbname, f"127.0.0.1:{refused_port()}"
    with Proxy.before_postgres(docora.database_url) as proxy:
        login, _, server = proxy.url.partition("@")
        url = f"{login}@docora.invalid,{nobody},{server}?target_session_attrs=read-write"
        found = docora.run("failed", env={"DATABASE_URL": url})
        assert found.code == 0, found
        assert f"{name} on 127.0.0.1:{proxy.port} (schema public), " in found.stderr
        proxy.go_away()
        refused = docora.run("failed", "--json", env={"DATABASE_URL": url})
    assert (refused.code, refused.json["code"]) == (5, "postgres"), refused
    for reason in (
        f"Postgres database {name} has no usable server: docora.invalid can't be reached: ",
        f"; {nobody} can't be reached: connection refused; ",
        f"; 127.0.0.1:{proxy.port} can't be reached: ",
    ):
        assert reason in refused.json["error"], refused
    assert "choose" not in refused.stdout + refused.stderr  # of the password


def test_a_login_that_is_refused_is_told_although_another_server_is_away(docora: Docora) -> None:
    with Proxy.before_postgres(docora.database_url) as proxy:
        server = proxy.url.partition("@")[2]
        url = f"postgres://nobody@127.0.0.1:{refused_port()},{server}"
        refused = docora.run("failed", "--json", env={"DATABASE_URL": url})
    assert "refuses our login" in refused.json["error"], refused
    assert "check the role and the password" in refused.json["hint"]


@pytest.mark.slow
def test_a_server_that_does_not_answer_costs_the_time_for_connecting(docora: Docora) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        Proxy.before_postgres(docora.database_url) as proxy,
    ):
        url = proxy.url.replace("@", f"@127.0.0.1:{silent.getsockname()[1]},")
        since = time.monotonic()
        environment = {"DATABASE_URL": url, "DOCORA_OPS_CONNECT_TIMEOUT": "2"}
        assert docora.run("failed", env=environment).code == 0
        assert time.monotonic() - since >= 2
