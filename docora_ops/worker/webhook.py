"""Signed POSTs to one app, over one connection."""

from __future__ import annotations

import hmac
import http.client
import select
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from urllib.parse import quote, urlsplit

from docora_ops import __version__
from docora_ops.errors import DeliveryError
from docora_ops.worker.bodies import Body

_GATHERED = 1 << 18
"""Bytes of a long body that are sent at once."""
_WATCH_INTERVAL = 0.25
_LONGEST_ANSWER = 1 << 16
"""Bytes of an answer that are read, so that the connection can be used again."""


class Webhook:
    """One app's endpoint. `timeout` is for a whole POST, from the connection to the answer.

    Raises DeliveryError, without the name of the file, in all its calls. Redirects are not
    followed, certificates are verified.
    """

    def __init__(self, base_url: str, app_id: str, auth_key: str, *, timeout: float) -> None:
        self._app_id = app_id
        self._key = auth_key.encode()
        self._timeout = timeout
        self._connection, self._path = _connection(base_url, timeout)
        self._watch = _Watch()

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
        with self._errors():
            self._forget_closed_connection()
            self._watch.begin(time.monotonic() + self._timeout, self._connection)
            self._connection.putrequest("POST", f"{self._path}/{event}", skip_accept_encoding=True)
            for name, value in (
                ("Content-Type", "application/json"),
                ("Content-Length", str(length)),
                ("User-Agent", f"docora-ops/{__version__}"),
                ("X-Docora-App-Id", self._app_id),
                ("X-Docora-Timestamp", timestamp),
                ("X-Docora-Signature", f"sha256={signature.hexdigest()}"),
            ):
                self._connection.putheader(name, value)
            if isinstance(body, bytes):
                self._connection.endheaders(body)
            else:
                self._connection.endheaders()
                for piece in _gathered(body.pieces()):
                    self._connection.send(piece)

    def receive(self) -> None:
        """Wait for the answer to what was sent. Raises DeliveryError unless it is 2xx."""
        with self._errors():
            answer = self._connection.getresponse()
            answer.read(_LONGEST_ANSWER)
            if not answer.isclosed():
                self._connection.close()
        self._watch.pause()
        if not 200 <= answer.status < 300:  # noqa: PLR2004 - what HTTP calls success
            raise DeliveryError(f"HTTP {answer.status}")

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
        self._running: tuple[float, http.client.HTTPConnection] | None = None
        self.expired = False
        self._thread: threading.Thread | None = None

    def begin(self, deadline: float, connection: http.client.HTTPConnection) -> None:
        """Watch an exchange on the connection until `pause` or the deadline."""
        self.expired = False
        self._running = (deadline, connection)
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, daemon=True)
            self._thread.start()

    def pause(self) -> None:
        """The exchange is over."""
        self._running = None

    def end(self) -> None:
        """There will be no more."""
        self._running = None
        self._end.set()

    def _watch(self) -> None:
        while not self._end.wait(_WATCH_INTERVAL):
            running = self._running
            if running is not None and time.monotonic() > running[0]:
                self.expired = True
                sock = running[1].sock
                if sock is not None:
                    with suppress(OSError):
                        sock.shutdown(socket.SHUT_RDWR)


def _connection(base_url: str, timeout: float) -> tuple[http.client.HTTPConnection, str]:
    """Connection, not yet made, and path. Raises DeliveryError."""
    try:
        parts = urlsplit(base_url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    if parts.scheme not in {"http", "https"} or not host or parts.username or parts.password:
        raise DeliveryError("the app's base_url is not an http or https URL without credentials")
    path = quote(parts.path.rstrip("/"), safe="/%:@!$&'()*+,;=~")
    if parts.scheme == "http":
        return http.client.HTTPConnection(host, port, timeout=timeout), path
    context = ssl.create_default_context()
    return http.client.HTTPSConnection(host, port, timeout=timeout, context=context), path


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
