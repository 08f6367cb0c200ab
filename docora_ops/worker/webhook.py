"""Signed POSTs to one app, over one connection."""

from __future__ import annotations

import hmac
import http.client
import select
import signal
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any, cast
from urllib.parse import quote, urlsplit

from docora_ops import __version__
from docora_ops.errors import DeliveryError
from docora_ops.worker.bodies import Body

_GATHERED = 1 << 18
"""Bytes of a long body that are sent at once."""
_WATCH_INTERVAL = 0.25
_LONGEST_ANSWER = 1 << 16
"""Bytes of an answer that are read, so that the connection can be used again."""
_HUNG_UP = (ConnectionError, ssl.SSLError)


class Webhook:
    """One app's endpoint. `timeout` is for a whole POST, from the TLS handshake to the answer.

    Connecting has as much time for each address of the host.
    Raises DeliveryError, without the name of the file, in all its calls. Redirects are not
    followed, certificates are verified.
    """

    def __init__(self, base_url: str, app_id: str, auth_key: str, *, timeout: float) -> None:
        self._app_id = app_id
        self._key = auth_key.encode()
        self._timeout = timeout
        self._connection, self._path = _connection(base_url, timeout)
        self._watch = _Watch()
        self._again: tuple[str, dict[str, str], bytes] | None = None
        """What may be sent once more, should the connection turn out to be a dead one."""
        self._hung_up: OSError | None = None
        """Set when the app hung up before it had all."""

    def __enter__(self) -> Webhook:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._watch.end()
        self._connection.close()

    def send(self, event: str, body: Body | bytes) -> None:
        """Send a body to `{base_url}/{event}`; `receive` has the answer."""
        timestamp = str(int(time.time()))
        signature = hmac.new(self._key, f"{timestamp}.".encode(), "sha256")
        length = 0
        for piece in _pieces(body):
            signature.update(piece)
            length += len(piece)
        headers = {
            "Content-Type": "application/json",
            "Content-Length": str(length),
            "User-Agent": f"docora-ops/{__version__}",
            "X-Docora-App-Id": self._app_id,
            "X-Docora-Timestamp": timestamp,
            "X-Docora-Signature": f"sha256={signature.hexdigest()}",
        }
        with self._errors():
            self._forget_closed_connection()
            is_used = self._connection.sock is not None
            self._again = (event, headers, body) if is_used and isinstance(body, bytes) else None
            self._watch.begin(time.monotonic() + self._timeout, self._connection)
            self._write(event, headers, body)

    def receive(self) -> None:
        """Wait for the answer to what was sent. Raises DeliveryError unless it is 2xx."""
        # An answer that ends with its connection is the only one to close that.
        with self._errors(), closing(self._answer()) as answer:
            if not 200 <= answer.status < 300:  # noqa: PLR2004 - what HTTP calls success
                self._watch.pause()
                raise DeliveryError(f"HTTP {answer.status}")
            if self._hung_up is not None:
                raise self._hung_up
            answer.read(_LONGEST_ANSWER)
            if self._watch.expired:
                raise TimeoutError
            if not answer.isclosed():
                self._connection.close()
        self._watch.pause()

    def _write(self, event: str, headers: dict[str, str], body: Body | bytes) -> None:
        self._hung_up = None
        if self._connection.sock is None:
            self._connection.connect()
            # From here on the watch sees to it.
            cast("socket.socket", self._connection.sock).settimeout(None)
        self._watch.guard(self._connection.sock)
        self._connection.putrequest("POST", f"{self._path}/{event}", skip_accept_encoding=True)
        for name, value in headers.items():
            self._connection.putheader(name, value)
        try:
            if isinstance(body, bytes):
                with self._connection.gathering():
                    self._connection.endheaders(body)
            else:
                self._connection.endheaders()
                for piece in _gathered(body.pieces()):
                    self._connection.send(piece)
        except _HUNG_UP as error:
            # It may have said why: a body that is too large for it, for example.
            self._hung_up = error

    def _answer(self) -> http.client.HTTPResponse:
        try:
            return self._connection.getresponse()
        except _HUNG_UP as error:
            if self._again is None or self._watch.expired:
                raise self._hung_up or error from None
        # It had given the connection up just before, and no one can see that in time.
        self._connection.close()
        self._write(*self._again)
        return self._connection.getresponse()

    def _forget_closed_connection(self) -> None:
        """An idle connection that the app has closed meanwhile is opened anew."""
        sock = self._connection.sock
        if sock is not None and select.select([sock], [], [], 0)[0]:
            self._connection.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, http.client.HTTPException, ValueError) as error:
            expired = self._watch.expired or isinstance(error, TimeoutError)
            self._watch.pause()
            self._connection.close()
            where = f"{self._connection.host}:{self._connection.port}"
            if expired:
                reason = f"no answer from {where} within {self._timeout:g} s"
            elif isinstance(error, ssl.SSLCertVerificationError):
                reason = f"the certificate of {where} is not valid: {error.verify_message}"
            elif isinstance(error, OSError) and error.strerror:
                reason = f"{where}: {error.strerror}"
            else:
                reason = f"{where}: {type(error).__name__}"
            raise DeliveryError(reason) from error


class _Watch:
    """Ends an exchange that takes too long.

    The timeout of a socket is for each single wait, and who sends a byte now and then never
    reaches it.
    """

    def __init__(self) -> None:
        self._end = threading.Event()
        self._running: tuple[float, http.client.HTTPConnection, socket.socket | None] | None = None
        self.expired = False
        self._thread: threading.Thread | None = None

    def begin(self, deadline: float, connection: http.client.HTTPConnection) -> None:
        """Watch an exchange, from a TLS handshake on, until `pause` or the deadline."""
        self.expired = False
        self._running = (deadline, connection, None)
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, daemon=True)
            self._thread.start()

    def guard(self, sock: socket.socket) -> None:
        """This is the connection to end at the deadline, also when it is given up before."""
        if self._running is not None:
            self._running = (*self._running[:2], sock)

    def pause(self) -> None:
        """The exchange is over."""
        self._running = None

    def end(self) -> None:
        """There will be no more."""
        self._running = None
        self._end.set()

    def _watch(self) -> None:
        # Or the timer of the whole job may go off here, and not where the job waits.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while not self._end.wait(_WATCH_INTERVAL):
            running = self._running
            if running is not None and time.monotonic() > running[0]:
                self.expired = True
                sock = running[2] or running[1].sock
                if sock is not None:
                    with suppress(OSError):
                        sock.shutdown(socket.SHUT_RDWR)


class _Gathering:
    """Sends the head of a request and a small body in one piece: one packet, one system call."""

    _gathered: list[Any] | None = None

    @contextmanager
    def gathering(self) -> Iterator[None]:
        """Send at the end of the block what is sent in it."""
        gathered: list[Any] = []
        self._gathered = gathered
        try:
            yield
        finally:
            self._gathered = None
        self.send(b"".join(gathered))

    def send(self, data: Any) -> None:
        """Send, or gather."""
        if self._gathered is None:
            super().send(data)  # type: ignore[misc]
        else:
            self._gathered.append(data)


class _HTTPConnection(_Gathering, http.client.HTTPConnection):
    """Plain."""


class _HTTPSConnection(_Gathering, http.client.HTTPSConnection):
    """Encrypted."""


def _connection(base_url: str, timeout: float) -> tuple[_HTTPConnection | _HTTPSConnection, str]:
    """Connection, not yet made, and path. Raises DeliveryError."""
    try:
        parts = urlsplit(base_url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    if parts.scheme not in {"http", "https"} or not host or parts.username or parts.password:
        raise DeliveryError("the app's base_url is not an http or https URL without credentials")
    path = quote(parts.path.rstrip("/"), safe="/%:@!$&'()*+,;=~")
    try:
        # Without a port of ours it would look for one in the host, and find it in IPv6's.
        if parts.scheme == "http":
            return _HTTPConnection(host, port or 80, timeout=timeout), path
        context = ssl.create_default_context()
        connection = _HTTPSConnection(host, port or 443, timeout=timeout, context=context)
    except http.client.InvalidURL:
        raise DeliveryError("the host in the app's base_url is not one") from None
    return connection, path


def _pieces(body: Body | bytes) -> Iterable[bytes]:
    return (body,) if isinstance(body, bytes) else body.pieces()


def _gathered(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in pieces that are worth a system call."""
    gathered = bytearray()
    for piece in pieces:
        gathered += piece
        if len(gathered) >= _GATHERED:
            yield bytes(gathered)
            gathered.clear()
    if gathered:
        yield bytes(gathered)
