"""A client app: takes what a snapshot job sends, and checks every signature."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CREATED, REFUSED = 200, 401
_ESCAPED = re.compile('["\\\\\x00-\x1f\ud800-\udfff]')
_SHORT = {'"': '"', "\\": "\\", "\b": "b", "\f": "f", "\n": "n", "\r": "r", "\t": "t"}
_LARGEST_NUMBER = 2**53


@dataclass(frozen=True)
class Request:
    """One POST as it came in."""

    app: str
    """The first part of the path: which of the receiver's apps it is for."""
    event: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body's value."""
        return json.loads(self.body)

    @property
    def path(self) -> str:
        """Path of the file, if it is about one."""
        return str(self.json.get("file", {}).get("path", ""))


@dataclass
class Received:
    """What one app has been sent."""

    files: dict[str, bytes] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    chunks: dict[str, list[str]] = field(default_factory=dict)
    """The pieces so far of files that are not yet complete, by id."""


@dataclass
class Receiver:
    """An HTTP server for any number of apps, each below a path of its own.

    `keys`: the auth key of each app. `answer` decides on the status before anything is taken.
    """

    keys: dict[str, str] = field(default_factory=dict)
    answer: Callable[[Request], int] = lambda _request: CREATED
    apps: dict[str, Received] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    """Signatures that are wrong, bodies that are not what JavaScript would print, and the like."""
    url: str = ""
    connections: int = 0
    """How many there have been."""
    _lock: threading.RLock = field(default_factory=threading.RLock)

    @contextmanager
    def serving(self) -> Iterator[Receiver]:
        """Listen on a free port of the loopback interface."""
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self) -> None:
                super().setup()
                with receiver._lock:
                    receiver.connections += 1

            def handle(self) -> None:
                # Who sends may be killed.
                with suppress(ConnectionError):
                    super().handle()

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                _, app, event = self.path.rsplit("/", 2)
                status = receiver.take(Request(app, event, dict(self.headers.items()), body))
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Nobody reads it."""

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            server.daemon_threads = True
            thread = threading.Thread(target=server.serve_forever, args=(0.05,))
            thread.start()
            self.url = f"http://127.0.0.1:{server.server_port}"
            try:
                yield self
            finally:
                server.shutdown()
                thread.join()

    def base_url(self, app: str) -> str:
        """What Docora is to know the app by."""
        return f"{self.url}/{app}"

    def of(self, app: str) -> Received:
        """What the app has been sent."""
        with self._lock:
            return self.apps.setdefault(app, Received())

    def take(self, request: Request) -> int:
        """Check a request and, if it is to be answered with success, do what it says."""
        problem = _problem(request, self.keys.get(request.app, ""))
        if problem:
            self.problems.append(f"{request.app}, {request.event}: {problem}")
            return REFUSED
        status = self.answer(request)
        with self._lock:
            received = self.of(request.app)
            received.requests.append(request)
            if 200 <= status < 300 and request.event != "sync_failed":  # noqa: PLR2004
                problem = _apply(received, request)
                if problem:
                    self.problems.append(
                        f"{request.app}, {request.event} {request.path}: {problem}"
                    )
        return status


def stringify(value: object) -> str:
    """What JavaScript's JSON.stringify makes of it. Raises ValueError for what JSON can't say."""
    match value:
        case str():
            return f'"{_ESCAPED.sub(_escape, value)}"'
        case bool() | None:
            return {True: "true", False: "false", None: "null"}[value]
        case int() if abs(value) < _LARGEST_NUMBER:
            return str(value)
        case list():
            return f"[{','.join(map(stringify, value))}]"
        case dict():
            members = (f"{stringify(key)}:{stringify(member)}" for key, member in value.items())
            return f"{{{','.join(members)}}}"
    raise ValueError(f"{value!r:.100} is not what Docora sends")


def _escape(found: re.Match[str]) -> str:
    character = found[0]
    return f"\\{_SHORT.get(character) or f'u{ord(character):04x}'}"


def _problem(request: Request, key: str) -> str:
    """What is wrong with a request, by what a client app in JavaScript would check."""
    try:
        rebuilt = stringify(json.loads(request.body.decode())).encode()
    except ValueError:
        return f"no JSON: {request.body[:200]!r}"
    if rebuilt != request.body:
        return f"not as JavaScript prints it: {request.body[:200]!r}"
    timestamp = request.headers.get("X-Docora-Timestamp", "")
    signature = hmac.new(key.encode(), f"{timestamp}.".encode() + rebuilt, "sha256").hexdigest()
    if request.headers.get("X-Docora-Signature", "") != f"sha256={signature}":
        return "the signature is wrong"
    return ""


def _apply(received: Received, request: Request) -> str:
    """Do what a request says; returns what is wrong with it."""
    file = request.json["file"]
    path = file["path"]
    if request.event == "delete":
        received.files.pop(path, None)
        return ""
    content = file["content"]
    if chunk := file.get("chunk"):
        pieces = received.chunks.setdefault(chunk["id"], [])
        if chunk["index"] != len(pieces):
            return f"chunk {chunk['index']} came after {len(pieces)} others"
        pieces.append(content)
        if len(pieces) < chunk["total"]:
            return ""
        content = "".join(received.chunks.pop(chunk["id"]))
    is_binary = file.get("content_encoding") == "base64"
    data = base64.b64decode(content, validate=True) if is_binary else content.encode()
    if len(data) != file["size"] or hashlib.sha256(data).hexdigest() != file["sha"]:
        return "its size or SHA-256 is not that of its content"
    received.files[path] = data
    return ""
