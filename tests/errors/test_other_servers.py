"""A port on which something else listens."""

import socket
import threading
from collections.abc import Iterator

import pytest

from tests.errors.checks import ENCODED, HURRIED, arguments, refuses
from tests.support.docora import Docora
from tests.support.rows import TestLink


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
