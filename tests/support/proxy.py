"""What a test puts between the command and a server, and how it waits."""

import os
import select
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum, auto
from random import SystemRandom
from threading import Event, Lock, Thread
from typing import Any, Self
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from psycopg.conninfo import conninfo_to_dict
from redis.connection import parse_url

COMMIT = b"COMMIT\0"

_TICK = 0.02
_LONGEST_MARKER = 64
_RESET_WHEN_CLOSED = struct.pack("ii", 1, 0)

Address = str | tuple[str, int]  # the path of a socket, or host and port


class Fault(Enum):
    """A lost message never arrives: the connection is cut. A held one waits for the test.

    After the loss of a reply, the server has done what was asked. A held request never arrives if
    the client has hung up by then.
    """

    NONE = auto()
    LOSE_REQUEST = auto()
    LOSE_REPLY = auto()
    HOLD_REQUEST = auto()
    HOLD_REPLY = auto()


@dataclass(eq=False)
class Plan:
    """The fault of the `number`th request that contains `marker`, over all connections."""

    marker: bytes
    fault: Fault
    number: int
    reached: Event = field(default_factory=Event)
    released: Event = field(default_factory=Event)
    requests: int = 0

    def wait(self) -> None:
        assert self.reached.wait(patience()), f"no {self.number}. {self.marker!r}: {self.requests}"

    def release(self) -> None:
        self.released.set()


class _CutError(Exception): ...


class Proxy:
    """Forwards connections from a free port of the loopback interface to a server.

    `url`: the server's URL, through the proxy.
    """

    def __init__(self, upstream: Address, url: str = "") -> None:
        self._upstream = upstream
        self._plans: list[Plan] = []
        self._lock, self._closed, self._flowing = Lock(), Event(), Event()
        self._flowing.set()
        self._clients: set[socket.socket] = set()
        self._to_reset: set[socket.socket] = set()
        self._is_away = False
        self.forwarded = 0  # how often a client has sent something
        self.received = 0  # bytes that the server has answered
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._listener.settimeout(_TICK)
        self.port: int = self._listener.getsockname()[1]
        self.url = _with_address(url, self.port) if url else ""
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

    def plan(self, marker: bytes, fault: Fault = Fault.NONE, number: int = 1) -> Plan:
        """Has this happen to the `number`th request that contains `marker`, from now on."""
        plan = Plan(marker, fault, number)
        with self._lock:
            self._plans.append(plan)
        return plan

    def go_away(self) -> None:
        """Cuts all connections, and each new one at once, until `come_back`."""
        self._is_away = True
        self.reset()

    def come_back(self) -> None:
        self._is_away = False

    def freeze(self) -> None:
        self._flowing.clear()

    def thaw(self) -> None:
        self._flowing.set()

    def reset(self) -> None:
        with self._lock:
            self._to_reset |= self._clients

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                client, _ = self._listener.accept()
            except TimeoutError:
                continue
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client.settimeout(patience())
            self.connections += 1
            thread = Thread(target=self._serve, args=(client,), name="proxy connection")
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError, _CutError):
            try:
                self._wait(self._flowing, client)
                if self._is_away:
                    raise _CutError
                with _connect(self._upstream) as server:
                    with self._lock:
                        self._clients.add(client)
                    self._forward(client, server)
            finally:
                with self._lock:
                    self._clients.discard(client)
                    if client in self._to_reset:
                        self._to_reset.remove(client)
                        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_WHEN_CLOSED)
                client.close()

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        tail = b""  # of what has been sent before: a marker may have come in two pieces
        pending: list[tuple[Plan, int]] = []  # requests that the server has not answered yet
        while True:
            ready = select.select([client, server], [], [], _TICK)[0]
            if self._must_end(client):
                return
            if client in ready:
                data = _receive(client)
                if not data:
                    return
                self._wait(self._flowing, client)
                matching = self._count(tail, data)
                pending += matching
                for plan, request in matching:
                    if request == plan.number:
                        self._befall(plan, client, lose=Fault.LOSE_REQUEST, hold=Fault.HOLD_REQUEST)
                tail = (tail + data)[-_LONGEST_MARKER:]
                self.forwarded += 1
                server.sendall(data)
            if server in ready:
                data = _receive(server)
                if not data:
                    return
                self._wait(self._flowing, client)
                for plan, request in pending:
                    if data.startswith(b"-NOSCRIPT"):
                        plan.requests -= 1  # it will be sent again
                    elif request == plan.number:
                        self._befall(plan, client, lose=Fault.LOSE_REPLY, hold=Fault.HOLD_REPLY)
                pending.clear()
                self.received += len(data)
                client.sendall(data)

    def _count(self, tail: bytes, data: bytes) -> list[tuple[Plan, int]]:
        """The plans that this request matches, and its number in each, whatever befalls it."""
        matching = []
        with self._lock:
            for plan in self._plans:
                if plan.marker in tail[-len(plan.marker) + 1 :] + data:
                    plan.requests += 1
                    matching.append((plan, plan.requests))
                    if plan.fault is Fault.NONE and plan.requests == plan.number:
                        plan.reached.set()
        return matching

    def _befall(self, plan: Plan, client: socket.socket, *, lose: Fault, hold: Fault) -> None:
        if plan.fault is lose:
            plan.reached.set()
            raise _CutError
        if plan.fault is hold:
            plan.reached.set()
            self._wait(plan.released, client)

    def _wait(self, event: Event, client: socket.socket) -> None:
        """Until the event; cuts the connection when the client hangs up before."""
        while not event.is_set():
            if self._must_end(client) or _has_hung_up(client):
                raise _CutError
            event.wait(_TICK)

    def _must_end(self, client: socket.socket) -> bool:
        return self._closed.is_set() or client in self._to_reset


def _connect(address: Address) -> socket.socket:
    if isinstance(address, tuple):
        server = socket.create_connection(address, patience())
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return server
    server = socket.socket(socket.AF_UNIX)
    server.settimeout(patience())
    try:
        server.connect(address)
    except OSError:
        server.close()
        raise
    return server


def _receive(source: socket.socket) -> bytes:
    try:
        return source.recv(1 << 20)
    except ConnectionError:
        return b""


def _has_hung_up(client: socket.socket) -> bool:
    if not select.select([client], [], [], 0)[0]:
        return False
    try:
        return not client.recv(1, socket.MSG_PEEK)
    except ConnectionError:
        return True


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


def is_refused(url: str) -> bool:
    parts = urlsplit(url)
    with suppress(OSError):
        socket.create_connection((parts.hostname or "", parts.port or 0)).close()
        return False
    return True
