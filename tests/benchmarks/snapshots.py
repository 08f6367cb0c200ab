"""A snapshot of many small files, and the plainest loop of the same POSTs: `snapshots NAME`.

Prints seconds and peak memory of the process, as JSON. Servers by the environment.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from docora_ops.worker.snapshot_job import snapshot

KEY = bytes(32)
AUTH_KEY = "auth-key"
SIZES = (1_000, 20_000)
APP, REPOSITORY = f"app_{1:024x}", f"repo_{1:024x}"
REQUESTS = "BENCH_REQUESTS"
RECEIVER = "BENCH_RECEIVER"


def take_up() -> None:
    """The snapshot job, as a worker's process runs it."""
    snapshot(app_id=APP, repository_id=REPOSITORY)


def plain_loop() -> None:
    """The same requests to the same receiver, and nothing else."""
    lines = Path(os.environ[REQUESTS]).read_text(encoding="utf-8").splitlines()
    parts = urlsplit(os.environ[RECEIVER])
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port)
    for line in lines:
        event, headers, body = json.loads(line)
        connection.request("POST", f"{parts.path}/{event}", body.encode(), headers)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200, answer.status


WAYS: dict[str, Callable[[], None]] = {"snapshot": take_up, "plain loop": plain_loop}


@dataclass(frozen=True)
class Measured:
    """One way, in one process."""

    seconds: float
    peak_mib: float


def run(way: str) -> Measured:
    """Run one way in a process of its own."""
    output = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.snapshots", way],
        check=True,
        stdout=subprocess.PIPE,
    ).stdout
    return Measured(**json.loads(output))


@contextlib.contextmanager
def receiver(*arguments: str) -> Iterator[str]:
    """An app in a process of its own; yields its URL."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks.receiver", "bench", AUTH_KEY, *arguments],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def make_upstream(folder: Path, files: int) -> str:
    """A repository of small files; returns its URL."""
    for number in range(files):
        path = folder / f"part{number // 100}" / f"file{number}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# {number}\n" * 40, encoding="utf-8")
    identity = ("-c", "user.name=bench", "-c", "user.email=bench@example.com")
    for arguments in (("init", "-q"), ("add", "-A"), ("commit", "-q", "-m", "all")):
        subprocess.run(["git", *identity, *arguments], cwd=folder, check=True)
    return f"file://{folder}"


def link(database_url: str, app_url: str, upstream_url: str) -> None:
    """One link, of an app that has received nothing."""
    iv = bytes(16)
    sealed = AESGCM(KEY).encrypt(iv, AUTH_KEY.encode(), None)
    auth_key = f"{iv.hex()}:{sealed[-16:].hex()}:{sealed[:-16].hex()}"
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("TRUNCATE apps, repositories CASCADE")
        connection.execute(
            "INSERT INTO apps (app_id, token_hash, app_name, base_url, email,"
            " client_auth_key_encrypted) VALUES (%s, 'hash', 'Bench', %s, 'ops@app.example', %s)",
            (APP, app_url, auth_key),
        )
        connection.execute(
            "INSERT INTO repositories (repository_id, github_url, owner, name)"
            " VALUES (%s, %s, 'octo', 'bench')",
            (REPOSITORY, upstream_url),
        )
        connection.execute(
            "INSERT INTO app_repositories (app_id, repository_id) VALUES (%s, %s)",
            (APP, REPOSITORY),
        )


def forget(database_url: str) -> None:
    """The app has received nothing after all."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("DELETE FROM app_delivered_files")


def report(database_url: str, folder: Path, rounds: int) -> None:
    """Print how fast files are delivered, and what a second run without a change costs."""
    for files in SIZES:
        print(f"\n{files:,} small files to an app that checks signatures, median of {rounds}")
        results: dict[str, list[Measured]] = {}
        with _linked(database_url, files, folder):
            for _ in range(rounds):
                forget(database_url)
                for name, way in (
                    ("snapshot", "snapshot"),
                    ("plain loop", "plain loop"),
                    ("nothing changed", "snapshot"),
                ):
                    results.setdefault(name, []).append(run(way))
        for name, items in results.items():
            seconds = statistics.median(item.seconds for item in items)
            peak = max(item.peak_mib for item in items)
            ratio = statistics.median(
                item.seconds / plain.seconds
                for item, plain in zip(items, results["plain loop"], strict=True)
            )
            print(
                f"  {name:<24}{files / seconds:>9,.0f} files/s{seconds:>9.2f} s{peak:>9.0f} MiB"
                f"   {ratio:.2f} times the plain loop's time",
                flush=True,
            )


@contextlib.contextmanager
def _linked(database_url: str, files: int, folder: Path) -> Iterator[None]:
    """A repository, cloned and scanned, an app at work, and the requests that it is sent."""
    upstream = make_upstream(folder / f"upstream{files}", files)
    os.environ |= {
        "ENCRYPTION_KEY": KEY.hex(),
        "REPOS_BASE_PATH": str(folder / f"repos{files}"),
        "DOCORA_OPS_GIT_PROTOCOLS": "file",
        REQUESTS: str(folder / f"requests{files}"),
    }
    with receiver(os.environ[REQUESTS]) as url:
        link(database_url, url, upstream)
        run("snapshot")
    with receiver() as url:
        os.environ[RECEIVER] = url
        link(database_url, url, upstream)
        yield


def main() -> None:
    """Run one way."""
    way = WAYS[sys.argv[1]]
    start = time.perf_counter()
    way()
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "peak_mib": peak}))


if __name__ == "__main__":
    main()
