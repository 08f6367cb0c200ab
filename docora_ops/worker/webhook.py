"""Sends signed POSTs to one app."""

from __future__ import annotations

import hmac
import http.client
import math
import signal
import ssl
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager

from docora_ops import __version__
from docora_ops.errors import DeliveryError
from docora_ops.text import inert
from docora_ops.worker import redis_clock
from docora_ops.worker.bodies import Pieces, resized
from docora_ops.worker.certificates import hint_for
from docora_ops.worker.endpoint import Endpoint, endpoint_of
from docora_ops.worker.http_connection import AppConnection, ConnectionPool, InnerAddressError
from docora_ops.worker.log import log

_GATHERED = 1 << 18
"""Bytes of a large body that are sent at once."""
_WATCH_INTERVAL = 0.25
_LONGEST_ANSWER = 1 << 16
"""Bytes of an answer that are read before the connection is used again."""
_HUNG_UP = (ConnectionError, ssl.SSLError)
_FOLLOWED = {307, 308}
"""Redirects that keep the method and the body."""
_NOT_FOLLOWED = {301, 302, 303}
"""Redirects that become a GET, which would deliver nothing."""
_MOST_REDIRECTS = 5


class Webhook:
    """Sends POSTs to one app; follows redirects by 307 and 308 and verifies certificates.

    A redirect leads to private and loopback addresses only if the base_url has such an address
    itself: an app must not send files and signatures to any server of the inner network.

    `timeout` is for a whole POST with its redirects, from the TLS handshake to the answer;
    connecting may take as long for each address of the host. Each POST begins at the base_url.
    After an error within the block, the connection is closed. All calls raise DeliveryError,
    without the name of the file.
    """

    def __init__(
        self, base_url: str, app_id: str, auth_key: str, connections: ConnectionPool, timeout: float
    ) -> None:
        self._app_id = app_id
        self._key = auth_key.encode()
        self._timeout = timeout
        self._base = self._endpoint = endpoint_of(base_url)
        self._connections = connections
        self._connection = connections.connection_to(self._base)
        self._used: set[AppConnection] = set()
        self._deadline = math.inf
        """When the POST at work must have ended; infinite while there is none."""
        self._expired = False
        self._closed = threading.Event()
        self._redirects = 0
        self._redirect_status = 0
        """The status of the last redirect; 0 at the base_url."""
        self._base_is_inner = False
        """True if the base_url has led to an address that is not public."""
        self._headers: dict[str, str] = {}
        self._body: Pieces | bytes = b""
        self._is_repeatable = False
        """True if the request is sent again when the app has closed the idle connection."""
        self._hung_up: OSError | None = None
        """The error of sending, if the app closed the connection before it had the whole body."""
        self._unsent: Iterator[bytes] = iter(())
        """The rest of the body in that case."""
        self._known_origins = {self._base.origin}
        """The app's own origin, and origins that were logged."""

    def __enter__(self) -> Webhook:
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc_info: object) -> None:
        self._closed.set()
        if kind is not None:  # a part of an answer may be left on it
            self._connection.close()

    def send(self, event: str, body: Pieces | bytes) -> None:
        """Sends a body to `{base_url}/{event}`; `receive` waits for the answer."""
        self._headers, self._body = self._sign(body), body
        with self._errors():
            self._redirects = self._redirect_status = 0
            self._expired = False
            self._deadline = time.monotonic() + self._timeout
            self._post(self._base.below(event))

    def receive(self) -> None:
        """Waits for the answer. Raises DeliveryError unless it is 2xx."""
        with self._errors():
            while (endpoint := self._read_answer()) is not None:
                # git has to send the rest of the file before it can send the file again.
                for _ in self._unsent:
                    pass
                self._post(endpoint)
        self._deadline = math.inf

    def _sign(self, body: Pieces | bytes) -> dict[str, str]:
        timestamp = str(int(redis_clock.timestamp()))
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
        self._connection = self._connections.connection_to(endpoint)
        is_whole = isinstance(self._body, bytes)
        if not is_whole and self._connection not in self._used:
            # It has been idle since an earlier job. The app may close it, and a large body is not
            # sent twice.
            self._connection.close()
        self._used.add(self._connection)
        self._connection.close_if_ended()
        self._is_repeatable = is_whole and self._connection.sock is not None
        self._write()

    def _write(self) -> None:
        self._hung_up = None
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        try:
            self._connection.open(left, only_public=self._redirects > 0 and not self._base_is_inner)
        except InnerAddressError as error:
            raise self._connection.refusal(
                self._redirect_status,
                f"the app redirects to {self._endpoint.url}, and {error.address} is not a public "
                "address: give the app that base_url if it has moved there",
            ) from None
        self._connection.put_head(self._endpoint, self._headers)
        try:
            if isinstance(self._body, bytes):
                self._connection.end_head(self._body)
            else:
                self._connection.end_head()
                self._unsent = resized(self._body(), _GATHERED)
                for piece in self._unsent:
                    self._connection.send(piece)
        except _HUNG_UP as error:
            # The answer may tell the reason, for example that the body is too large.
            self._hung_up = error

    def _read_answer(self) -> Endpoint | None:
        """Returns the target of a redirect, or None if the app accepted the request."""
        # If the answer ends with its connection, only closing the answer closes the socket.
        with closing(self._answer()) as answer:
            there = self._redirect(answer) if answer.status in _FOLLOWED else None
            if there is None:
                if not 200 <= answer.status < 300:  # noqa: PLR2004 - success in HTTP
                    raise self._refusal(answer)
                if self._hung_up is not None:
                    raise self._hung_up
            if self._hung_up is None:
                # Not `read`, which would take a chunk of the length -1 to hold all that follows.
                answer.readinto(bytearray(_LONGEST_ANSWER))
            if self._expired:
                raise TimeoutError
            if self._hung_up is not None or not answer.isclosed():
                self._connection.close()
        return there

    def _answer(self) -> http.client.HTTPResponse:
        try:
            return self._connection.answer()
        except _HUNG_UP as error:
            if not self._is_repeatable or self._expired:
                raise self._hung_up or error from None
        # The app closed the idle connection while the request was on its way.
        self._connection.close()
        self._write()
        return self._connection.answer()

    def _redirect(self, answer: http.client.HTTPResponse) -> Endpoint:
        """Returns the target of a redirect. Raises DeliveryError if it must not be followed."""
        if not self._redirects:
            self._base_is_inner = self._connection.inner_address is not None
        self._redirects += 1
        self._redirect_status = answer.status
        there = self._location(answer)
        reason = None
        if there is None:
            reason = "the app redirects without a Location that is an http or https URL"
        elif self._endpoint.scheme == "https" and there.scheme == "http":
            reason = f"the app redirects from https to {there.url}, which is not encrypted"
        elif self._redirects > _MOST_REDIRECTS:
            reason = f"the app redirects more than {_MOST_REDIRECTS} times"
        if there is None or reason:
            raise self._connection.refusal(answer.status, reason)
        if there.origin not in self._known_origins:
            self._known_origins.add(there.origin)
            # Without the path, in which an app could repeat secrets of the request.
            where = f"{there.scheme}://{there.authority}"
            log.warning("app %s redirects to %s", inert(self._app_id), inert(where))
        return there

    def _refusal(self, answer: http.client.HTTPResponse) -> DeliveryError:
        if answer.status not in _NOT_FOLLOWED:
            return self._connection.refusal(answer.status)
        there = self._location(answer)
        event = self._endpoint.path.rpartition("/")[2]
        return self._connection.refusal(
            answer.status,
            "a POST follows only 307 and 308: give the app its new base_url",
            there.url.removesuffix(f"/{event}") if there else "",
        )

    def _location(self, answer: http.client.HTTPResponse) -> Endpoint | None:
        location = answer.getheader("Location")
        return self._endpoint.redirected(location) if location else None

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except DeliveryError:
            self._deadline = math.inf
            raise
        except (OSError, http.client.HTTPException, ValueError) as error:
            expired = self._expired or isinstance(error, TimeoutError)
            self._deadline = math.inf
            self._connection.close()
            if expired:
                reason = self._connection.timeout(self._timeout, error)
            else:
                reason = self._connection.failure(error)
            raise DeliveryError(reason, hint=hint_for(error)) from error

    def _watch(self) -> None:
        """Shuts the connection down at the deadline.

        A socket's own timeout is for each single wait. An app that sends a byte now and then would
        never reach it.
        """
        # The timer of the job must interrupt the main thread, which waits for the app.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while not self._closed.wait(_WATCH_INTERVAL):
            if time.monotonic() > self._deadline:
                self._expired = True
                self._connection.shut_down()


def _pieces(body: Pieces | bytes) -> Iterable[bytes]:
    return (body,) if isinstance(body, bytes) else body()
