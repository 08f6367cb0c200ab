"""Repositories served over http, by git's own `http-backend`."""

from __future__ import annotations

import base64
import os
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from tests.support.proxy import patience
from tests.support.receiver import Receiver, Request, web_server
from tests.support.snapshots import Upstream


class GitHandler(BaseHTTPRequestHandler):
    site: GitSite

    def setup(self) -> None:
        if self.site.tls is not None:
            self.request = self.site.tls.wrap_socket(self.request, server_side=True)
        super().setup()

    def finish(self) -> None:
        super().finish()
        if self.site.tls is not None:
            with suppress(OSError), self.request:
                self.request.unwrap()  # git wants to be told of the end

    def do_GET(self) -> None:
        login = self.headers.get("Authorization", "")
        self.site.logins.append(login)
        self.site.paths.append(self.path)
        content = self._body()
        if not self.site.intercept(self):
            return
        if self.site.token is not None and login != basic(self.site.token):
            self.refuse()
            return
        self._run(content)

    do_POST = do_GET  # noqa: N815 - the name that http.server wants

    def reply(self, status: int, headers: Mapping[str, str], content: bytes = b"") -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def refuse(self) -> None:
        self.reply(401, {"WWW-Authenticate": 'Basic realm="git"'})

    def echo(self) -> bool:
        """Repeats the login that it was told."""
        login = self.headers.get("Authorization", "")
        if login:
            token = base64.b64decode(login.removeprefix("Basic ")).decode()
            text = f"I do not like {token} nor {login} \x1b[31m\n".encode()
            self.reply(403, {"Content-Type": "text/plain", "Content-Length": str(len(text))}, text)
        else:
            self.refuse()
        return False

    def redirect(self, url: str) -> None:
        self.reply(302, {"Location": url})

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        return body

    def _run(self, body: bytes) -> None:
        path, _, query = self.path.partition("?")
        environment = {
            "PATH": os.environ["PATH"],
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_PROJECT_ROOT": str(self.site.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "REQUEST_METHOD": self.command,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "HTTP_GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
        }
        answer = subprocess.run(
            ["git", "http-backend"], env=environment, input=body, capture_output=True, check=True
        ).stdout
        head, _, content = answer.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        self.reply(int(headers.pop("Status", "200").split()[0]), headers, content)

    def log_message(self, *_: object) -> None: ...


def basic(user: str, password: str = "") -> str:
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


@dataclass
class GitSite:
    """A host with repositories.

    `token`: who asks must have it for a user name, with an empty password. `intercept` is called
    with each request, and returns whether it is to be answered as usual.
    """

    root: Path
    token: str | None = None
    tls: ssl.SSLContext | None = None
    intercept: Callable[[GitHandler], bool] = lambda _handler: True
    logins: list[str] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    url: str = ""

    @contextmanager
    def serving(self) -> Iterator[GitSite]:
        with web_server(type("Handler", (GitHandler,), {"site": self})) as url:
            self.url = url if self.tls is None else url.replace("http://", "https://")
            yield self


def rename_with_redirect(site: GitSite, upstream: Upstream) -> None:
    """Renames the repository `octo/api`, and redirects from the old name, as GitHub does."""
    upstream.path.rename(upstream.path.with_name("renamed"))

    def send_on(handler: GitHandler) -> bool:
        is_old = handler.path.startswith("/octo/api/")
        if is_old:
            handler.redirect(site.url + handler.path.replace("/octo/api", "/octo/renamed"))
        return not is_old

    site.intercept = send_on


@dataclass
class Gate:
    reached: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)

    def wait(self) -> None:
        assert self.reached.wait(patience()), "nobody came to the gate"

    def release(self) -> None:
        self.released.set()

    def hold(self) -> None:
        self.reached.set()
        assert self.released.wait(patience()), "nobody opened the gate"


@contextmanager
def gate_at(receiver: Receiver, path: str = "") -> Iterator[Gate]:
    """Hold back the answers to the POSTs about this file, or to all, and let go at the end."""
    gate, before = Gate(), receiver.answer

    def answer(request: Request) -> int:
        if path in {"", request.path}:
            gate.hold()
        return before(request)

    receiver.answer = answer
    try:
        yield gate
    finally:
        gate.release()
        receiver.answer = before
