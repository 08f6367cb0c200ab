"""What a test puts between the command and a server, and how it waits."""

import os
import select
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from random import SystemRandom
from threading import Event, Thread
from typing import Any, Self
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from psycopg.conninfo import conninfo_to_dict
from redis.connection import parse_url

_TICK = 0.02

Address = str | tuple[str, int]  # the path of a socket, or host and port


class Proxy:
    """Forwards connections from a free port of the loopback interface to a server.

    `url`: the server's URL, through the proxy.
    """

    def __init__(self, upstream: Address, url: str) -> None:
        self._upstream = upstream
        self._away, self._closed = Event(), Event()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._listener.settimeout(_TICK)
        self.url = _with_address(url, self._listener.getsockname()[1])
        self._threads = [Thread(target=self._accept, name="proxy")]
        self._threads[0].start()

    @classmethod
    def before_redis(cls, url: str) -> Self:
        parts: dict[str, Any] = parse_url(url)  # type: ignore[no-untyped-call]
        address = parts.get("path") or (parts.get("host", "localhost"), parts.get("port", 6379))
        return cls(address, url)

    @classmethod
    def before_postgres(cls, url: str) -> Self:
        parts = conninfo_to_dict(url)
        host, port = str(parts.get("host") or "/var/run/postgresql"), int(parts.get("port") or 5432)
        return cls(f"{host}/.s.PGSQL.{port}" if host.startswith("/") else (host, port), url)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        for thread in self._threads:
            thread.join(patience())
        self._listener.close()

    def go_away(self) -> None:
        """Cuts all connections, and each new one at once, until `come_back`."""
        self._away.set()

    def come_back(self) -> None:
        self._away.clear()

    def _accept(self) -> None:
        while not self._closed.is_set():
            with suppress(TimeoutError):
                client, _ = self._listener.accept()
                self._threads.append(Thread(target=self._serve, args=[client]))
                self._threads[-1].start()

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError), client, _connect(self._upstream) as server:
            while not (self._away.is_set() or self._closed.is_set()):
                for source in select.select([client, server], [], [], _TICK)[0]:
                    data = source.recv(1 << 20)
                    if self._away.is_set() or not data:
                        return
                    (server if source is client else client).sendall(data)


def _connect(address: Address) -> socket.socket:
    if isinstance(address, tuple):
        return socket.create_connection(address)
    server = socket.socket(socket.AF_UNIX)
    server.connect(address)
    return server


def _with_address(url: str, port: int) -> str:
    parts = urlsplit(url)
    user, at, _ = parts.netloc.rpartition("@")
    query = [item for item in parse_qsl(parts.query) if item[0] not in {"host", "port"}]
    path = f"/{dict(query).get('db', 0)}" if parts.scheme == "unix" else parts.path
    address = (parts.scheme.replace("unix", "redis"), f"{user}{at}127.0.0.1:{port}", path)
    return urlunsplit((*address, urlencode(query, quote_via=quote), ""))


def refused_port() -> int:
    """A port on which nobody listens, and that no test beside this one is given."""
    held = socket.socket()
    held.bind(("127.0.0.1", 0))
    port: int = held.getsockname()[1]
    held.detach()  # it stays open until the process ends
    return port


def free_port() -> int:
    """A port for a server that is about to start; the system gives it to nobody meanwhile.

    Those that it gives to connections begin at 32768. All test processes draw the same numbers from
    `random`.
    """
    while True:
        port = SystemRandom().randrange(20_000, 32_000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def patience() -> float:
    """Seconds after which a test gives up on something that should happen at once.

    On a crowded machine, each process gets only its share of the processors.
    """
    return 30 * max(1, os.getloadavg()[0] / (os.cpu_count() or 1))


def eventually(condition: Callable[[], object], what: str) -> None:
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() - begin < patience(), f"never: {what}"
        time.sleep(0.005)
