"""Signed POSTs to one app, over connections that are kept."""

from __future__ import annotations

import hmac
import http.client
import logging
import signal
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress

from docora_ops import __version__
from docora_ops.errors import DeliveryError
from docora_ops.text import inert
from docora_ops.worker.bodies import Body
from docora_ops.worker.endpoint import Endpoint, endpoint_of
from docora_ops.worker.http_connection import Connection

_GATHERED = 1 << 18
"""Bytes of a long body that are sent at once."""
_WATCH_INTERVAL = 0.25
_LONGEST_ANSWER = 1 << 16
"""Bytes of an answer that are read, so that the connection can be used again."""
_HUNG_UP = (ConnectionError, ssl.SSLError)
_FOLLOWED = {307, 308}
"""Redirects that ask for the same request elsewhere."""
_NOT_FOLLOWED = {301, 302, 303}
"""Redirects that clients follow with a GET, which would deliver nothing."""
_MOST_REDIRECTS = 5

log = logging.getLogger("rq.worker.snapshot")


class Webhook:
    """One app's endpoint. `timeout` is for a whole POST, from the TLS handshake to the answer.

    Connecting has as much time for each address of the host. Redirects by 307 and 308 are followed
    within the same time; each POST begins at the app's base_url again. Certificates are verified.
    Raises DeliveryError, without the name of the file, in all its calls.
    """

    def __init__(self, base_url: str, app_id: str, auth_key: str, *, timeout: float) -> None:
        self._app_id = app_id
        self._key = auth_key.encode()
        self._timeout = timeout
        self._base = self._endpoint = endpoint_of(base_url)
        self._connections: dict[tuple[str, str, int], Connection] = {}
        self._connection = self._connection_to(self._base)
        self._watch = _Watch()
        self._deadline = 0.0
        self._redirects = 0
        self._headers: dict[str, str] = {}
        self._body: Body | bytes = b""
        self._is_repeatable = False
        """Whether to send once more, should the connection turn out to be a dead one."""
        self._hung_up: OSError | None = None
        """Set when the app hung up before it had all."""
        self._unsent: Iterator[bytes] = iter(())
        """The rest of a body, after the app hung up."""
        self._known_origins = {self._base.origin}
        """Origins that are the app's own, or were logged."""

    def __enter__(self) -> Webhook:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._watch.end()
        self._close_all()

    def send(self, event: str, body: Body | bytes) -> None:
        """Send a body to `{base_url}/{event}`; `receive` has the answer."""
        self._headers, self._body = self._sign(body), body
        with self._errors():
            self._redirects = 0
            self._deadline = time.monotonic() + self._timeout
            self._watch.begin(self._deadline)
            self._post(self._base.below(event))

    def receive(self) -> None:
        """Wait for the answer to what was sent. Raises DeliveryError unless it is 2xx."""
        with self._errors():
            while (endpoint := self._read_answer()) is not None:
                # The rest of the body has to be read before its source can begin again.
                for _ in self._unsent:
                    pass
                self._post(endpoint)
        self._watch.pause()

    def _sign(self, body: Body | bytes) -> dict[str, str]:
        timestamp = str(int(time.time()))
        signature = hmac.new(self._key, f"{timestamp}.".encode(), "sha256")
        length = 0
        for piece in _pieces(body):
            signature.update(piece)
            length += len(piece)
        return {
            "Content-Type": "application/json",
            "Content-Length": str(length),
            "User-Agent": f"docora-ops/{__version__}",
            "X-Docora-App-Id": self._app_id,
            "X-Docora-Timestamp": timestamp,
            "X-Docora-Signature": f"sha256={signature.hexdigest()}",
        }

    def _post(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._connection = self._connection_to(endpoint)
        self._connection.close_if_ended()
        self._is_repeatable = self._connection.is_open and isinstance(self._body, bytes)
        self._write()

    def _write(self) -> None:
        self._hung_up = None
        self._watch.guard(self._connection)
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._connection.open(left)
        # Again, since a connection that is closed early forgets its socket.
        self._watch.guard(self._connection)
        self._connection.put_head(self._endpoint, self._headers)
        try:
            if isinstance(self._body, bytes):
                self._connection.end_head(self._body)
            else:
                self._connection.end_head()
                self._unsent = _gathered(self._body.pieces())
                for piece in self._unsent:
                    self._connection.send(piece)
        except _HUNG_UP as error:
            # It may have said why: a body that is too large for it, for example.
            self._hung_up = error

    def _read_answer(self) -> Endpoint | None:
        """Returns where to send the request again, or None if the app took it."""
        # An answer that ends with its connection is the only one to close that.
        with closing(self._answer()) as answer:
            there = self._redirect(answer) if answer.status in _FOLLOWED else None
            if there is None:
                if not 200 <= answer.status < 300:  # noqa: PLR2004 - what HTTP calls success
                    raise self._refusal(answer)
                if self._hung_up is not None:
                    raise self._hung_up
            if self._hung_up is None:
                answer.read(_LONGEST_ANSWER)
            if self._watch.expired:
                raise TimeoutError
            if self._hung_up is not None or not answer.isclosed():
                self._connection.close()
        return there

    def _answer(self) -> http.client.HTTPResponse:
        try:
            return self._connection.answer()
        except _HUNG_UP as error:
            if not self._is_repeatable or self._watch.expired:
                raise self._hung_up or error from None
        # It had given the connection up just before, and no one can see that in time.
        self._connection.close()
        self._write()
        return self._connection.answer()

    def _redirect(self, answer: http.client.HTTPResponse) -> Endpoint:
        """Returns where a redirect leads. Raises DeliveryError if it is not to be followed."""
        there = self._location(answer)
        if there is None:
            reason = "the app redirects without a Location that is an http or https URL"
            raise self._connection.refusal(answer.status, reason)
        if self._endpoint.scheme == "https" and there.scheme == "http":
            reason = f"the app redirects from https to {there.url}, which is not encrypted"
            raise self._connection.refusal(answer.status, reason)
        self._redirects += 1
        if self._redirects > _MOST_REDIRECTS:
            reason = f"the app redirects more than {_MOST_REDIRECTS} times"
            raise self._connection.refusal(answer.status, reason)
        if there.origin not in self._known_origins:
            self._known_origins.add(there.origin)
            # Without the path, in which an app can repeat what it was sent.
            where = f"{there.scheme}://{there.authority}"
            log.warning("app %s redirects to %s", inert(self._app_id), inert(where))
        return there

    def _refusal(self, answer: http.client.HTTPResponse) -> DeliveryError:
        if answer.status not in _NOT_FOLLOWED:
            return self._connection.refusal(answer.status)
        there = self._location(answer)
        where = f" to {there.url}" if there else ""
        return self._connection.refusal(
            answer.status,
            f"the app redirects{where}, which only 307 and 308 can do for a POST:"
            " give it the new base_url",
        )

    def _location(self, answer: http.client.HTTPResponse) -> Endpoint | None:
        location = answer.getheader("Location")
        return self._endpoint.redirected(location) if location else None

    def _connection_to(self, endpoint: Endpoint) -> Connection:
        """Returns the connection of the endpoint, which may have been used before."""
        if endpoint.origin not in self._connections:
            if len(self._connections) > _MOST_REDIRECTS:
                self._close_all()
            self._connections[endpoint.origin] = Connection(endpoint)
        return self._connections[endpoint.origin]

    def _close_all(self) -> None:
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except DeliveryError:
            self._watch.pause()
            raise
        except (OSError, http.client.HTTPException, ValueError) as error:
            expired = self._watch.expired or isinstance(error, TimeoutError)
            self._watch.pause()
            self._connection.close()
            if expired:
                reason = self._connection.timeout(self._timeout, error)
            else:
                reason = self._connection.failure(error)
            raise DeliveryError(reason) from error


class _Watch:
    """Ends an exchange that takes too long.

    The timeout of a socket is for each single wait, and who sends a byte now and then never
    reaches it.
    """

    def __init__(self) -> None:
        self._end = threading.Event()
        self._running: tuple[float, Connection | None, socket.socket | None] | None = None
        self.expired = False
        self._thread: threading.Thread | None = None

    def begin(self, deadline: float) -> None:
        """Watch an exchange until `pause` or the deadline."""
        self.expired = False
        self._running = (deadline, None, None)
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, daemon=True)
            self._thread.start()

    def guard(self, connection: Connection) -> None:
        """End this connection at the deadline: the socket that it has now, or will have."""
        if self._running is not None:
            self._running = (self._running[0], connection, connection.sock)

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
                _, connection, sock = running
                if sock is None and connection is not None:
                    sock = connection.sock
                if sock is not None:
                    with suppress(OSError):
                        sock.shutdown(socket.SHUT_RDWR)


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
