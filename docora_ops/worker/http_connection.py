"""Opens HTTP connections to apps, directly or through the proxy that the environment names."""

from __future__ import annotations

import http.client
import re
import select
import socket
import ssl
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import cast
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from docora_ops.errors import DeliveryError
from docora_ops.worker.certificates import tls_context
from docora_ops.worker.endpoint import Endpoint, basic_login

_MOST_CONNECTIONS = 16
"""Connections that stay open: apps take turns in the queue."""
_EMBEDDING = (IPv6Network("::/96"), IPv6Network("64:ff9b::/96"))
"""Networks whose addresses end in one of IPv4: RFC 4291 and, for NAT64, RFC 6052."""
_LOCAL_NAT64 = IPv6Network("64:ff9b:1::/48")  # RFC 8215
_PROXY_PORT = 1080
"""git's default port of a proxy."""
_TOO_MANY_HEADERS = re.compile(r"got more than (\d+) headers")
_REFUSED_TUNNEL = re.compile(r"Tunnel connection failed: (\d{3})")
_PROXY_LOGIN_NEEDED = 407


class _Answer(http.client.HTTPResponse):
    """The final answer to a request. Interim ones, such as 103 Early Hints, are skipped.

    http.client skips only 100. Their number has no limit, since the whole POST has a deadline.
    """

    def begin(self) -> None:
        """Reads the head."""
        super().begin()
        while http.HTTPStatus.SWITCHING_PROTOCOLS < self.status < http.HTTPStatus.OK:
            self.headers = None  # type: ignore[assignment]  # has http.client read another head
            super().begin()


class InnerAddressError(Exception):
    """The host has an address that is not public."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self.address = address


class AppConnection:
    """A connection to one scheme, host and port.

    Reads `http_proxy`, `https_proxy`, `all_proxy` and `no_proxy`. Raises DeliveryError if the proxy
    is not an HTTP proxy.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._proxy = _proxy_for(endpoint)
        self._is_connecting = False
        self._http = self._make()
        self._http.response_class = _Answer
        self._opened: socket.socket | None = None
        """The last open socket. http.client forgets it if the app closes the connection."""
        self._peer: str | None = None
        """The address that it was connected to; None if the app reset the connection at once."""

    @property
    def sock(self) -> socket.socket | None:
        """The socket, if the connection is open."""
        # The class declares a socket even for a closed connection.
        return cast("socket.socket | None", self._http.sock)

    @property
    def _proxy_name(self) -> str:
        return f"the proxy {self._proxy.address}" if self._proxy else ""

    @property
    def _proxy_headers(self) -> dict[str, str]:
        login = self._proxy.authorization if self._proxy else None
        return {"Proxy-Authorization": login} if login else {}

    @property
    def _is_forwarded(self) -> bool:
        """True if a proxy reads the requests, as for http URLs."""
        return self._proxy is not None and self._endpoint.scheme == "http"

    @property
    def inner_address(self) -> str | None:
        """The last address of the app if it was not a public one. A proxy's does not count."""
        peer = None if self._proxy else self._peer
        return None if peer is None or is_public(peer) else peer

    def open(self, timeout: float, *, only_public: bool) -> None:
        """Connects if needed. `timeout` is for each address and each wait in a handshake.

        `only_public`: raises InnerAddressError for an app at a private or loopback address, unless
        there is a proxy, which looks up the name itself.
        """
        if self.sock is None:
            self._http.timeout = timeout
            self._is_connecting = True
            if only_public and self._proxy is None:
                self._http.sock = self._connect_to(self._public_addresses(), timeout)
            else:
                self._http.connect()
            self._is_connecting = False
            # From here on the deadline of the whole exchange applies.
            self._opened = self._http.sock
            self._opened.settimeout(None)
            self._peer = None
            with suppress(OSError):
                self._peer = self._opened.getpeername()[0]
        if only_public and (inner := self.inner_address):  # another app left this connection
            raise InnerAddressError(inner)

    def _public_addresses(self) -> list[str]:
        """Looks the host up. Raises InnerAddressError if any of its addresses is not public."""
        found = socket.getaddrinfo(self._http.host, self._http.port, type=socket.SOCK_STREAM)
        addresses = [str(address[0]) for *_, address in found]
        for address in addresses:
            if not is_public(address):
                raise InnerAddressError(address)
        return addresses

    def _connect_to(self, addresses: list[str], timeout: float) -> socket.socket:
        """Connects to one of these addresses, without another look-up of the name."""
        errors = []
        for address in addresses:
            try:
                sock = socket.create_connection((address, self._http.port), timeout)
            except OSError as error:
                errors.append(error)
                continue
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._endpoint.scheme == "http":
                return sock
            return tls_context().wrap_socket(sock, server_hostname=self._endpoint.host)
        raise errors[0]

    def close(self) -> None:
        """Closes the connection; it can be opened again."""
        self._http.close()

    def shut_down(self) -> None:
        """Ends all waiting for the app, from another thread."""
        with suppress(OSError):
            if sock := self.sock or self._opened:
                sock.shutdown(socket.SHUT_RDWR)

    def close_if_ended(self) -> None:
        """Closes an idle connection that the app has closed."""
        if self.sock is not None and select.select([self.sock], [], [], 0)[0]:
            self.close()

    def put_head(self, endpoint: Endpoint, headers: dict[str, str]) -> None:
        """Begins a POST; `end_head` sends it."""
        target = endpoint.target
        if self._is_forwarded:
            target = f"http://{endpoint.authority}{target}"
            headers = headers | self._proxy_headers
        if endpoint.authorization:
            headers = headers | {"Authorization": endpoint.authorization}
        self._http.putrequest("POST", target, skip_accept_encoding=True)
        for name, value in headers.items():
            self._http.putheader(name, value)

    def end_head(self, body: bytes = b"") -> None:
        """Sends the head and a small body in one packet; http.client alone would send two."""
        pieces: list[bytes] = []
        self._http.send = pieces.append  # type: ignore[assignment,method-assign]
        try:
            self._http.endheaders(body)
        finally:
            del self._http.send
        self._http.send(b"".join(pieces))

    def send(self, data: bytes) -> None:
        """Sends a piece of a body."""
        self._http.send(data)

    def answer(self) -> http.client.HTTPResponse:
        """Waits for the head of the answer."""
        return self._http.getresponse()

    def refusal(self, status: int, hint: str | None = None, target: str = "") -> DeliveryError:
        """Returns the error for an answer that is not a success. `target`: where it redirects."""
        message = f"HTTP {status}: moved to {target}" if target else f"HTTP {status}"
        if not self._is_forwarded:
            return DeliveryError(message, hint=hint)
        if status == _PROXY_LOGIN_NEEDED:
            hint = f"{self._proxy_name} wants another user or password"
        return DeliveryError(message, hint=hint or f"answered through {self._proxy_name}")

    def failure(self, error: Exception) -> str:
        """Returns a sentence about an error of the network: who failed, and how."""
        if self._proxy is not None and (found := _REFUSED_TUNNEL.search(str(error))):
            return (
                f"{self._proxy_name} does not connect to {self._endpoint.address}: HTTP {found[1]}"
            )
        where = self._where(error)
        if isinstance(error, ssl.SSLCertVerificationError):
            return f"the certificate of {where} is not valid: {error.verify_message}"
        if isinstance(error, OSError) and error.strerror:
            return f"{where}: {error.strerror}"
        return f"{where} {_complaint(error)}"

    def timeout(self, seconds: float, error: Exception) -> str:
        """Returns a sentence about an answer that did not come in time."""
        return f"no answer from {self._where(error)} within {seconds:g} s"

    def _where(self, error: Exception) -> str:
        if self._proxy is None:
            return self._endpoint.address
        if self._is_connecting and not isinstance(error, ssl.SSLError):
            return self._proxy_name
        return f"{self._endpoint.address} through {self._proxy_name}"

    def _make(self) -> http.client.HTTPConnection:
        """Returns a connection that is not yet open."""
        first = self._proxy or self._endpoint
        if self._endpoint.scheme == "http":
            return http.client.HTTPConnection(first.host, first.port)
        connection = http.client.HTTPSConnection(first.host, first.port, context=tls_context())
        if self._proxy is not None:
            headers = {"Host": self._endpoint.address, **self._proxy_headers}
            connection.set_tunnel(self._endpoint.host, self._endpoint.port, headers)
        return connection


class ConnectionPool:
    """Connections that stay open for the next POST to the same scheme, host and port.

    For one thread. A new connection may replace the one that was used the longest time ago.
    """

    def __init__(self) -> None:
        self._connections: dict[tuple[str, str, int], AppConnection] = {}

    def connection_to(self, endpoint: Endpoint) -> AppConnection:
        """Returns a connection, open or not. Raises DeliveryError for an unusable proxy."""
        origin = endpoint.origin
        connection = self._connections.pop(origin, None) or AppConnection(endpoint)
        self._connections[origin] = connection  # now the last one
        if len(self._connections) > _MOST_CONNECTIONS:
            self._connections.pop(next(iter(self._connections))).close()
        return connection

    def close(self) -> None:
        """Closes all connections."""
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()


def is_public(address: str) -> bool:
    """Returns whether an IP address, and one of IPv4 that it stands for, is of the internet."""
    ip = ip_address(address)
    if isinstance(ip, IPv6Address):
        if ip in _LOCAL_NAT64 or ip.is_site_local:
            return False
        if any(ip in network for network in _EMBEDDING):
            ip = IPv4Address(ip.packed[-4:])
        else:
            ip = ip.ipv4_mapped or ip.sixtofour or ip
    return ip.is_global and not ip.is_multicast


def _complaint(error: Exception) -> str:
    """Returns what a server did wrong, as the rest of a sentence.

    Of the answer it has the first word at most: an app could repeat secrets of the request.
    """
    text = str(error)
    if isinstance(error, http.client.RemoteDisconnected):
        return "closed the connection without an answer"
    if isinstance(error, http.client.BadStatusLine):
        if not text.endswith("\n"):
            return "closed the connection within its answer"
        first = text[:20].split(" ", maxsplit=1)[0]
        return f"did not answer in valid HTTP: the first line begins with {first!r}"
    if isinstance(error, http.client.UnknownProtocol):
        return f"answered in {text[:20]!r} instead of HTTP/1.1"
    if isinstance(error, http.client.LineTooLong):
        return "answered with a line of more than 65,536 bytes"
    if isinstance(error, http.client.IncompleteRead):
        return "sent an answer that is cut off or malformed"
    if found := _TOO_MANY_HEADERS.search(text):
        return f"answered with more than {found[1]} headers"
    if isinstance(error, UnicodeError):
        return "is not a valid address"
    return f"failed: {type(error).__name__}"


def _proxy_for(endpoint: Endpoint) -> Endpoint | None:
    proxies = getproxies()
    url = proxies.get(endpoint.scheme) or proxies.get("all")
    # no_proxy names an IPv6 address without its port.
    host = endpoint.host if ":" in endpoint.host else endpoint.address
    if not url or proxy_bypass(host):
        return None
    if "://" not in url:
        url = f"http://{url}"
    try:
        parts = urlsplit(url)
        if parts.scheme == "http" and parts.hostname:
            port = parts.port or _PROXY_PORT
            return Endpoint("http", parts.hostname, port, "", authorization=basic_login(url))
    except ValueError:
        pass
    raise DeliveryError(
        f"the proxy for {endpoint.address} is not an http://HOST:PORT: see {endpoint.scheme}_proxy,"
        " all_proxy and no_proxy in the worker's environment"
    )
