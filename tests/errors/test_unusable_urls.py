"""Settings that make no sense, and ports on which something else listens."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from tests.errors.checks import ENCODED, HURRIED, SECRET, arguments, refuses
from tests.support.docora import Docora
from tests.support.rows import TestLink


@pytest.mark.parametrize(
    "url",
    [
        f"postgres://someone:{SECRET}@host/docora",
        "postgres://someone:5ecr3t@passw0rd@host/docora",
        "postgres://someone:5ecr3t@passw0rd/t0ken@host/docora",
        "postgres://someone:5ecr3t/passw0rd@host/docora",
        f"postgres://someone:{ENCODED}@host:port/docora",
        f"postgres://someone:{ENCODED}@host:99999999/docora",
        f"postgres://someone:{ENCODED}@host/docora?no_such_option=1",
        f"postgres://someone:{ENCODED}@host/docora?sslmode=perhaps",
        f"postgres://someone:{ENCODED}@host/docora?connect_timeout=soon",
        f"mysql://someone:{ENCODED}@host/docora",
        f"host=host password={ENCODED}",
    ],
)
def test_an_unusable_database_url_is_refused_without_showing_it(
    docora: Docora, link: TestLink, url: str
) -> None:
    result = docora.run(*arguments("retry", link), env={"DATABASE_URL": url, **HURRIED})
    refuses(result, "configuration", "DATABASE_URL", exit_code=2)


@pytest.mark.parametrize(
    "url",
    [
        f"redis://:{SECRET}@host:6379",
        "redis://:5ecr3t@passw0rd/t0ken@host:6379/0",
        "redis://:5ecr3t/passw0rd@host:6379/0",
        f"redis://someone:{ENCODED}@host:99999999",
        f"redis://someone:{ENCODED}@host?family=6",
        f"redis://someone:{ENCODED}@host?credential_provider=x",
        f"redis://someone:{ENCODED}@host/first",
        f"http://someone:{ENCODED}@host",
        f"unix://someone:{ENCODED}@",
    ],
)
def test_an_unusable_redis_url_is_refused_without_showing_it(
    docora: Docora, link: TestLink, url: str
) -> None:
    result = docora.run(*arguments("progress", link), env={"REDIS_URL": url, **HURRIED})
    refuses(result, "configuration", "REDIS_URL", exit_code=2)


@pytest.fixture
def web_server() -> Iterator[int]:
    """The port of something that answers everybody as a web server would."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.02)
        ended = threading.Event()

        def answer() -> None:
            while not ended.is_set():
                try:
                    client, _ = listener.accept()
                except TimeoutError:
                    continue
                with client:
                    client.settimeout(5)
                    client.recv(4096)
                    client.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        yield listener.getsockname()[1]
        ended.set()
        thread.join()


def test_a_port_on_which_something_else_listens_is_refused(
    docora: Docora, link: TestLink, web_server: int
) -> None:
    before = docora.dump()
    environment = {"REDIS_URL": f"redis://:{ENCODED}@127.0.0.1:{web_server}", **HURRIED}
    refuses(docora.run(*arguments("retry", link), env=environment), "redis", "Redis at 127.0.0.1")
    environment = {"DATABASE_URL": f"postgres://me:{ENCODED}@127.0.0.1:{web_server}/x", **HURRIED}
    refuses(docora.run(*arguments("retry", link), env=environment), "postgres", "x on 127.0.0.1")
    assert docora.dump() == before
