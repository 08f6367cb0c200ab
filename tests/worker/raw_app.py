"""An app that answers byte for byte as a test says, or not at all."""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import parse_headers
from threading import Event, Thread

import trustme

from tests.support.proxy import patience
from tests.support.receiver import Receiver, Request

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


class Talk:
    """One connection, from the app's side; it is closed when the test's function returns."""

    def __init__(self, app: RawApp, connection: socket.socket) -> None:
        self._app = app
        self.receiver = app.receiver
        self.over = app.over
        self._connection = connection
        self._stream = connection.makefile("rb")

    def read_head(self) -> tuple[str, dict[str, str]] | None:
        """Path and headers of the next request; None when the worker has hung up."""
        line = self._stream.readline()
        if not line:
            return None
        return line.split()[1].decode(), dict(parse_headers(self._stream))

    def read(self) -> Request | None:
        head = self.read_head()
        if head is None:
            return None
        path, headers = head
        _, app, event = path.rsplit("/", 2)
        request = Request(app, event, headers, self.read_body(head))
        self._app.requests.append(request)
        return request

    def read_body(self, head: tuple[str, dict[str, str]]) -> bytes:
        return self._stream.read(int(head[1]["Content-Length"]))

    def read_some(self, size: int) -> bytes:
        return self._stream.read1(size)

    def take(self, answer: bytes = OK) -> bool:
        """Read a request, have the receiver take it, and answer; False when there is none."""
        request = self.read()
        if request is None:
            return False
        assert self.receiver.take(request) == 200
        self.send(answer)
        return True

    def send(self, data: bytes) -> None:
        self._connection.sendall(data)

    def tunnel(self, port: int) -> None:
        with socket.create_connection(("127.0.0.1", port)) as server:
            back = Thread(target=_forward, args=(server, self._connection))
            back.start()
            _forward(self._connection, server)
            back.join(patience())

    def reset(self) -> None:
        self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        self._stream.close()
        self._connection.close()

    def wait_for_hangup(self) -> None:
        with suppress(OSError):
            while self._connection.recv(1 << 16):
                pass


def _forward(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


class RawApp:
    def __init__(self, receiver: Receiver, talk: Callable[[Talk], object], scheme: str) -> None:
        self.receiver = receiver
        self.over = Event()
        self.requests: list[Request] = []
        self.connections = 0
        self._talk = talk
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.base_url = f"{scheme}://{self.host}/Acme"

    @property
    def paths(self) -> list[str]:
        return [request.path for request in self.requests]

    def serve(self, connection: socket.socket, tls: ssl.SSLContext | None) -> None:
        with suppress(OSError, ValueError), connection:
            connection.settimeout(patience())
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if tls is not None:
                connection = tls.wrap_socket(connection, server_side=True)
            talk = Talk(self, connection)
            try:
                self._talk(talk)
            finally:
                talk.close()


@contextmanager
def raw_app(
    receiver: Receiver, talk: Callable[[Talk], object], *, tls: ssl.SSLContext | None = None
) -> Iterator[RawApp]:
    """Such an app on a free port of the loopback interface, below the path of Acme."""
    app = RawApp(receiver, talk, "http" if tls is None else "https")
    threads: list[Thread] = []

    def accept() -> None:
        while True:
            connection, _ = app.listener.accept()
            if app.over.is_set():
                connection.close()
                return
            app.connections += 1
            thread = Thread(target=app.serve, args=(connection, tls))
            threads.append(thread)
            thread.start()

    accepting = Thread(target=accept)
    accepting.start()
    try:
        yield app
    finally:
        app.over.set()
        socket.create_connection(app.listener.getsockname()).close()
        accepting.join()
        app.listener.close()
        for thread in threads:
            thread.join(patience())


def take_all(talk: Talk) -> None:
    while talk.take():
        pass


def context(authority: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context
