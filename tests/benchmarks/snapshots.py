"""Snapshots of many small files against the plainest loop of the same POSTs.

As a program: `snapshots snapshot FILES`, `snapshots loop RECEIVER FILE` (posts the requests in the
file), or `snapshots receiver [FILE]` (serves an app until killed, and records its requests).
"""

import contextlib
import http.client
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from docora_ops.demo.receiver import CREATED, Receiver, Request
from docora_ops.worker.snapshot_job import snapshot
from tests.benchmarks import world
from tests.benchmarks.measured import Results, measure, report, show

SIZES = (1_000, 20_000)
"""Numbers of files."""
KEY = bytes(32)
AUTH_KEY = "auth-key"
APP, REPOSITORY = f"app_{1:024x}", f"repo_{1:024x}"
IDENTITY = ("-c", "user.name=bench", "-c", "user.email=bench@example.com")
SIGNED = ("X-Docora-App-Id", "X-Docora-Timestamp", "X-Docora-Signature")


def compare(folder: Path, rounds: int) -> None:
    """Prints how fast files are delivered, and how fast a job without a change is."""
    os.environ |= {
        "ENCRYPTION_KEY": KEY.hex(),
        "REPOS_BASE_PATH": str(folder / "repos"),
        "DOCORA_OPS_GIT_PROTOCOLS": "file",
    }
    for files in SIZES:
        compare_files(folder / str(files), files, rounds)


def compare_files(folder: Path, files: int, rounds: int) -> None:
    """Prints how fast so many files are delivered."""
    upstream = make_upstream(folder / "upstream", files)
    requests = str(folder / "requests")
    add_link(upstream)
    with receiver(requests) as url:
        execute("UPDATE apps SET base_url = %s", url)
        measure("snapshots", "snapshot", str(files))  # clones, and records the requests
    results: Results = {"snapshot": [], "plain loop": [], "nothing changed": []}
    with receiver() as url:
        execute("UPDATE apps SET base_url = %s", url)
        for _ in range(rounds):
            execute("DELETE FROM app_delivered_files")
            results["snapshot"].append(measure("snapshots", "snapshot", str(files)))
            results["plain loop"].append(measure("snapshots", "loop", url, requests))
            results["nothing changed"].append(measure("snapshots", "snapshot", str(files)))
    print(f"\n{files:,} small files to an app that checks signatures, median of {rounds}")
    show(results, "plain loop")


def make_upstream(folder: Path, files: int) -> str:
    """Makes a repository of small files, if there is none; returns its URL."""
    for number in range(files):
        path = folder / f"part{number // 100}" / f"file{number}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# {number}\n" * 40, encoding="utf-8")
    if (folder / ".git").exists():
        return f"file://{folder}"
    for arguments in (("init", "-q", "-b", "main"), ("add", "-A"), ("commit", "-q", "-m", "all")):
        subprocess.run(["git", *IDENTITY, *arguments], cwd=folder, check=True)
    return f"file://{folder}"


def add_link(upstream_url: str) -> None:
    """Empties both servers and adds a link of an app that has received nothing."""
    world.fill(world.APPS)
    execute("UPDATE apps SET client_auth_key_encrypted = %s", sealed_auth_key())
    execute("UPDATE repositories SET github_url = %s", upstream_url)
    execute("UPDATE app_repositories SET github_token_encrypted = NULL")


def sealed_auth_key() -> str:
    """Returns the key of all apps, encrypted as Docora encrypts it."""
    iv = bytes(16)
    sealed = AESGCM(KEY).encrypt(iv, AUTH_KEY.encode(), None)
    return f"{iv.hex()}:{sealed[-16:].hex()}:{sealed[:-16].hex()}"


def execute(statement: str, *values: str) -> None:
    """Runs one statement."""
    with world.connect()[0] as connection:
        connection.execute(statement.encode(), values)


@contextlib.contextmanager
def receiver(*record: str) -> Iterator[str]:
    """Runs an app in a new process; yields its URL."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks.snapshots", "receiver", *record],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def serve(record: str | None = None) -> None:
    """Serves the app until killed; writes each request as a line of JSON to the file, if any."""

    def answer(request: Request) -> int:
        if record is not None:
            headers = {name: request.headers[name] for name in SIGNED}
            line = json.dumps([request.event, headers, request.body.decode()])
            with Path(record).open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        return CREATED

    with Receiver({"bench": AUTH_KEY}, answer).serving() as app:
        print(app.base_url("bench"), flush=True)
        Event().wait()


def take_snapshot(files: str) -> int:
    """Runs the snapshot job, as a worker's process does."""
    snapshot(app_id=APP, repository_id=REPOSITORY)
    return int(files)


def plain_loop(url: str, requests: str) -> int:
    """Sends the recorded requests one after the other."""
    lines = Path(requests).read_text(encoding="utf-8").splitlines()
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port)
    for line in lines:
        event, headers, body = json.loads(line)
        connection.request("POST", f"{parts.path}/{event}", body.encode(), headers)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == CREATED, answer.status
    return len(lines)


if __name__ == "__main__":
    way, *arguments = sys.argv[1:]
    if way == "receiver":
        serve(*arguments)
    elif way == "loop":
        report(lambda: plain_loop(*arguments))
    else:
        report(lambda: take_snapshot(*arguments))
