"""A web server that stands for the client apps, and checks each signature."""

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


@contextmanager
def web_server(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Serves http on a free port of the loopback interface, in threads. Yields the URL."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@dataclass(frozen=True)
class Request:
    app: str  # the first part of its path
    event: str  # the last part
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def path(self) -> str:
        return str(self.json.get("file", {}).get("path", ""))


@dataclass
class Received:
    files: dict[str, bytes] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    chunks: dict[str, list[str]] = field(default_factory=dict)  # of incomplete files, by chunk id


@dataclass
class Receiver:
    keys: dict[str, str] = field(default_factory=dict)  # the auth key of each app
    answer: Callable[[Request], int] = lambda _request: CREATED  # the status of a valid request
    apps: dict[str, Received] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)  # such as a wrong signature
    url: str = ""
    _lock: threading.RLock = field(default_factory=threading.RLock)

    @contextmanager
    def serving(self) -> Iterator[Receiver]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def handle(self) -> None:
                with suppress(ConnectionError):  # a killed worker leaves its connection
                    super().handle()

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                _, app, event = self.path.rsplit("/", 2)
                self.send_response(receiver.take(Request(app, event, dict(self.headers), body)))
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Logs nothing."""

        with web_server(Handler) as self.url:
            yield self

    def base_url(self, app: str) -> str:
        return f"{self.url}/{app}"

    def of(self, app: str) -> Received:
        with self._lock:
            return self.apps.setdefault(app, Received())

    def take(self, request: Request) -> int:
        status, problem = REFUSED, _problem(request, self.keys.get(request.app, ""))
        if not problem:
            status = self.answer(request)
            with self._lock:
                received = self.of(request.app)
                received.requests.append(request)
                if 200 <= status < 300 and request.event != "sync_failed":
                    problem = _store(received, request)
        if problem:
            self.problems.append(f"{request.app}, {request.event}: {problem}")
        return status


def stringify(value: object) -> str:
    """Returns a decoded body as JavaScript's JSON.stringify prints it."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return re.sub("[\ud800-\udfff]", lambda found: f"\\u{ord(found[0]):04x}", text)


def _problem(request: Request, key: str) -> str:
    """Checks body and signature as a client app in JavaScript does; returns the error or ""."""

    def number(text: str) -> int:  # JavaScript reads it as a float; Docora sends only integers
        return int(float(text))

    try:
        value = json.loads(request.body.decode(), parse_int=number, parse_float=number)
        rebuilt = stringify(value).encode()
    except ValueError:
        return f"no JSON: {request.body[:200]!r}"
    if rebuilt != request.body:
        return f"not as JavaScript prints it: {request.body[:200]!r}"
    signed = request.headers.get("X-Docora-Timestamp", "").encode() + b"." + rebuilt
    signature = hmac.new(key.encode(), signed, "sha256").hexdigest()
    is_right = request.headers.get("X-Docora-Signature", "") == f"sha256={signature}"
    return "" if is_right else "the signature is wrong"


def _store(received: Received, request: Request) -> str:
    file = request.json["file"]
    if request.event == "delete":
        received.files.pop(file["path"], None)
        return ""
    content = file["content"]
    if chunk := file.get("chunk"):
        chunks = received.chunks.setdefault(chunk["id"], [])
        if chunk["index"] != len(chunks):
            return f"chunk {chunk['index']} came after {len(chunks)} others"
        chunks.append(content)
        if len(chunks) < chunk["total"]:
            return ""
        content = "".join(received.chunks.pop(chunk["id"]))
    is_binary = file.get("content_encoding") == "base64"
    data = base64.b64decode(content, validate=True) if is_binary else content.encode()
    if len(data) != file["size"] or hashlib.sha256(data).hexdigest() != file["sha"]:
        return "its size or SHA-256 is not that of its content"
    received.files[file["path"]] = data
    return ""
