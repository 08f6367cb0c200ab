"""POSTs signed bodies to apps, directly or through the proxy that the environment names."""

import hmac
import http.client
import logging
import math
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from dataclasses import dataclass
from urllib.request import getproxies, proxy_bypass

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError, LocationParseError, NewConnectionError
from urllib3.exceptions import TimeoutError as HTTPTimeoutError
from urllib3.util import Url, parse_url

from docora_ops import __version__
from docora_ops.errors import DeliveryError
from docora_ops.worker import host
from docora_ops.worker.authorities import certificate_hint, tls_context
from docora_ops.worker.secrets import basic_login

# The bytes of a body, or a function that yields its pieces, the same ones at each call.
Body = bytes | Callable[[], Iterable[bytes]]

_LONGEST_ANSWER = 1 << 16  # bytes that are read so that the connection can be used again
FAILURES = (OSError, http.client.HTTPException, HTTPError, ValueError)
_HUNG_UP = (ConnectionError, ssl.SSLError)
_PROXY_PORT = 1080  # as for git
_PORTS = {"http": 80, "https": 443}
_WATCH_INTERVAL = 0.25  # seconds

LOGIN_HINT = (
    "the proxy wants a login: whoever runs the workers must put USER:PASSWORD@ into the URL of the "
    "proxy in their environment"
)

# Warnings of urllib3 name whole URLs, whose query may be secret.
logging.getLogger("urllib3").setLevel(logging.CRITICAL)


class _Answer(http.client.HTTPResponse):
    """The final answer to a request, without interim ones such as 103 Early Hints.

    http.client skips only 100. The number of interim answers needs no limit, because the whole
    request has a deadline.
    """

    def begin(self) -> None:
        super().begin()
        while http.HTTPStatus.SWITCHING_PROTOCOLS != self.status < http.HTTPStatus.OK:
            self.headers = None  # type: ignore[assignment]  # so that http.client reads another head
            super().begin()


@dataclass(frozen=True, repr=False)  # the URLs may hold passwords
class Route:
    """The way to an app: its base_url, and the proxy that the environment names for the URL."""

    url: Url
    proxy: Url | None

    @property
    def is_forwarded(self) -> bool:
        """Tells whether a proxy forwards the requests; for https it only opens a tunnel."""
        return self.proxy is not None and self.url.scheme == "http"

    @property
    def headers(self) -> dict[str, str]:
        """The headers of all requests, with the logins at the app and at a forwarding proxy."""
        login = _login("Authorization", self.url.auth)
        proxy_login = self._proxy_login if self.is_forwarded else {}
        return {"User-Agent": f"docora-ops/{__version__}", **login, **proxy_login}

    @property
    def endpoint(self) -> tuple[str, int]:
        """The host and the port to connect to: those of the proxy, if there is one."""
        url = self.proxy or self.url
        port = _PORTS[url.scheme or ""] if url.port is None else url.port
        return _address(url), port

    @property
    def _proxy_login(self) -> dict[str, str]:
        return _login("Proxy-Authorization", self.proxy and self.proxy.auth)

    def connection(self, timeout: float) -> HTTPConnection:
        """Returns a connection that is not open yet. `timeout`: seconds for each wait."""
        address, port = self.endpoint
        connection = HTTPConnection(address, port, timeout=timeout)
        if self.url.scheme == "https":
            tls = tls_context()
            connection = HTTPSConnection(address, port, timeout=timeout, ssl_context=tls)
            if self.proxy is not None:
                tunnel_port = self.url.port or _PORTS["https"]
                connection.set_tunnel(_address(self.url), tunnel_port, self._proxy_login)
        connection.response_class = _Answer
        return connection

    def request_target(self, path: str) -> str:
        """Returns the request target: path and query, or the whole URL for a forwarding proxy."""
        target = Url(path=path, query=self.url.query or None).request_uri
        return f"http://{self.url.netloc}{target}" if self.is_forwarded else target

    def explain(self, error: BaseException, timeout: float, *, expired: bool) -> DeliveryError:
        """Returns the error to raise for an exchange without a valid answer.

        timeout: seconds that the exchange was allowed to take, for the message.
        expired: whether the deadline ended the exchange.
        """
        through = f" through the proxy {self.proxy.netloc}" if self.proxy else ""
        where = f"{self.url.netloc}{through}"
        if isinstance(error, NewConnectionError):
            error = error.__cause__ or error
        if expired or isinstance(error, TimeoutError | HTTPTimeoutError):
            return DeliveryError(f"no answer from {where} within {timeout:g} s")
        if isinstance(error, ssl.SSLCertVerificationError):
            reason = f"the certificate of {where} is not valid: {error.verify_message}"
            return DeliveryError(reason, hint=certificate_hint(error.verify_message))
        if isinstance(error, OSError):
            text = error.strerror or str(error)
            hint = LOGIN_HINT if "Tunnel connection failed: 407" in text else None
            return DeliveryError(f"{where}: {text}", hint=hint)
        # Never quotes the error, which may quote an answer that repeats secrets of the request.
        if isinstance(error, UnicodeError | LocationParseError):
            return DeliveryError(f"{where} is not a valid host name")
        if isinstance(error, http.client.BadStatusLine):
            return DeliveryError(f"{where} did not answer in HTTP")
        return DeliveryError(
            f"{where} broke off its answer, or sent one that is not valid HTTP/1.1"
        )


def route_to(base_url: str) -> Route:
    """Returns how to reach an app, perhaps by a proxy. Raises DeliveryError for a bad URL."""
    with suppress(LocationParseError):
        url = parse_url(base_url)
        if url.scheme in {"http", "https"} and url.host:
            return Route(url, _proxy_for(url))
    raise DeliveryError("the app's base_url is not an http or https URL")


class Webhook:
    """POSTs to one app; verifies its certificate, follows no redirects, keeps the connection open.

    base_url, app_id, auth_key: what Docora knows about the app.
    timeout: seconds for one POST, connecting included.
    """

    def __init__(self, base_url: str, app_id: str, auth_key: str, timeout: float) -> None:
        """Raises DeliveryError for an unusable base_url or proxy."""
        self._route = route_to(base_url)
        self._headers = {
            "Content-Type": "application/json",
            "X-Docora-App-Id": app_id,
            **self._route.headers,
        }
        self._key = auth_key.encode()
        self._timeout = timeout
        self._expired = False
        self._deadline = math.inf  # of the POST that is running, by the monotonic clock
        self._connection: HTTPConnection | None = None  # stays open for the next POST
        # A connection forgets its socket when the server is about to close it.
        self._socket: socket.socket | None = None
        self._guard = threading.Lock()  # no POST ends while its deadline is acted on
        self._closed = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def close(self) -> None:
        """Closes the connection, and ends the thread that watches the deadline."""
        self._closed.set()
        self._disconnect()

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def post(self, event: str, body: Body) -> None:
        """POSTs to `{base_url}/{event}`.

        Raises DeliveryError, which does not name the file, unless the status is 2xx.
        """
        timestamp, length = str(int(host.now().timestamp())), 0
        signature = hmac.new(self._key, f"{timestamp}.".encode(), "sha256")
        for piece in (body,) if isinstance(body, bytes) else body():
            signature.update(piece)
            length += len(piece)
        headers = self._headers | {
            "Content-Length": str(length),
            "X-Docora-Timestamp": timestamp,
            "X-Docora-Signature": f"sha256={signature.hexdigest()}",
        }
        self._expired, self._deadline = False, time.monotonic() + self._timeout
        is_success = False
        try:
            status = self._exchange(event, headers, body)
            is_success = 200 <= status < 300  # noqa: PLR2004 - success in HTTP
        except FAILURES as error:
            raise self._route.explain(error, self._timeout, expired=self._expired) from error
        finally:
            with self._guard:
                self._deadline = math.inf
            if not is_success:
                self._disconnect()
        if not is_success:
            hint = None
            if 300 <= status < 400:  # noqa: PLR2004 - a redirect
                hint = "redirects are not followed: give the app its new base_url"
            elif self._route.proxy and self._route.is_forwarded:
                hint = f"answered through the proxy {self._route.proxy.netloc}"
            raise DeliveryError(f"HTTP {status}", hint=hint)

    def _exchange(self, event: str, headers: dict[str, str], body: Body) -> int:
        """Sends a request, through the open connection if possible; returns the status."""
        idle = self._connection
        # A body that is yielded in pieces is too large to send twice, so it gets a new connection.
        if idle is not None and isinstance(body, bytes) and idle.is_connected:
            try:
                return self._request(idle, event, headers, body)
            except _HUNG_UP:
                # The app may have closed the connection while the request was on its way.
                if self._expired:
                    raise
        self._disconnect()
        self._connection = connection = self._route.connection(self._timeout)
        connection.connect()
        return self._request(connection, event, headers, body)

    def _request(
        self, connection: HTTPConnection, event: str, headers: dict[str, str], body: Body
    ) -> int:
        self._socket = connection.sock
        target = self._route.request_target(f"{(self._route.url.path or '').rstrip('/')}/{event}")
        hung_up: OSError | None = None
        pieces = body if isinstance(body, bytes) else body()
        try:
            connection.request("POST", target, pieces, headers, preload_content=False)
        except _HUNG_UP as error:
            # The app may have answered before, for example that the body is too large.
            hung_up = error
        with closing(connection.getresponse()) as answer:
            if answer.status < 300:  # noqa: PLR2004 - success in HTTP
                if hung_up is not None:
                    raise hung_up
                answer.read(_LONGEST_ANSWER, decode_content=False)
                if not answer.closed:
                    self._disconnect()
            if self._expired:
                raise TimeoutError
            return answer.status

    def _watch(self) -> None:
        """Shuts the socket down at the deadline.

        The timeout of a socket limits only each single wait. It would never end an exchange with an
        app that sends a byte now and then.
        """
        # The timer of the job must interrupt the main thread, which waits for the app.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while not self._closed.wait(_WATCH_INTERVAL):
            with self._guard, suppress(OSError):
                if time.monotonic() > self._deadline:
                    self._expired = True
                    # While a proxy opens a tunnel, only the connection knows the socket.
                    connection = self._connection  # another thread may drop it
                    if sock := (connection and connection.sock) or self._socket:
                        sock.shutdown(socket.SHUT_RDWR)


def _address(url: Url) -> str:
    return (url.host or "").strip("[]")


def _login(header: str, auth: str | None) -> dict[str, str]:
    """Returns the header for the `USER:PASSWORD` of a URL; none without a login."""
    return {header: f"Basic {basic_login(auth)}"} if auth else {}


def _proxy_for(url: Url) -> Url | None:
    """Returns the proxy that the environment names for a URL, or None. Raises DeliveryError."""
    proxies = getproxies()
    name = proxies.get(url.scheme or "") or proxies.get("all")
    address = _address(url)
    if url.port and ":" not in address:  # no_proxy names an IPv6 address without its port
        address = f"{address}:{url.port}"
    if not name or proxy_bypass(address):
        return None
    with suppress(LocationParseError):
        proxy = parse_url(name if "://" in name else f"http://{name}")
        if proxy.scheme == "http" and proxy.host:
            return proxy._replace(port=proxy.port or _PROXY_PORT)
    raise DeliveryError(
        f"the proxy for {url.netloc} is not an http://HOST:PORT: see {url.scheme}_proxy, all_proxy"
        " and no_proxy in the worker's environment"
    )
