"""How fast workers empty the queue, against the plainest loop of the same git calls and POSTs.

As a program: an app that answers each request after so many milliseconds, until killed.
"""

import asyncio
import hmac
import http.client
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import Pool
from pathlib import Path
from urllib.parse import urlsplit

from tests.benchmarks import world

LINKS = 150
FILES = 10
AT_ONCE = 5
APP = f"app_{1:024x}"
_QUEUE = f"rq:queue:{world.QUEUE}"
_ASIDE = f"{_QUEUE}:aside"


def compare(folder: Path, rounds: int) -> None:
    """Prints how fast links are brought up to date: with a clone, with a change and without."""
    os.environ |= {
        "ENCRYPTION_KEY": world.KEY.hex(),
        "REPOS_BASE_PATH": str(folder / "drained"),
        "DOCORA_OPS_GIT_PROTOCOLS": "file",
    }
    results: dict[str, list[tuple[float, float]]] = {}
    with app() as url:
        add_links(folder / "drained-upstreams", url)
        for _ in range(rounds):
            shutil.rmtree(folder / "drained", ignore_errors=True)
            shutil.rmtree(folder / "looped", ignore_errors=True)
            world.execute("DELETE FROM app_delivered_files")
            world.execute("DELETE FROM repository_snapshots")
            for way in ("first", "again", "unchanged"):
                if way == "again":
                    change(folder / "drained-upstreams")
                results.setdefault(way, []).append((drain(), plain_loop(way, url, folder)))
        print(f"\n{LINKS} links, {FILES} small files each, {AT_ONCE} at a time, median of {rounds}")
        for way, pairs in results.items():
            show(way, pairs)


def show(way: str, pairs: Sequence[tuple[float, float]]) -> None:
    """Prints the median speeds of workers and loop, and the ratio within each round."""
    ratio = statistics.median(loop / ours for ours, loop in pairs)
    ours, loop = (LINKS / statistics.median(seconds) for seconds in zip(*pairs, strict=True))
    of_loop = f"{ratio * 100:.0f} % of the plain loop ({loop:.1f} links/s)"
    print(f"  {way:<10}{ours:>6.1f} links/s: {of_loop}", flush=True)


def add_links(folder: Path, url: str, links: int = LINKS) -> None:
    world.fill(world.APPS * links)
    execute = world.execute
    execute("UPDATE apps SET client_auth_key_encrypted = %s", world.sealed_auth_key())
    execute("UPDATE apps SET base_url = %s", url)
    execute("UPDATE app_repositories SET github_token_encrypted = NULL")
    execute("DELETE FROM app_repositories WHERE app_id <> %s", APP)
    for number in range(1, links + 1):
        execute(
            "UPDATE repositories SET github_url = %s WHERE repository_id = %s",
            *(world.make_upstream(folder / str(number), FILES), f"repo_{number:024x}"),
        )


def change(folder: Path) -> None:
    for upstream in folder.iterdir():
        with (upstream / "part0" / "file0.py").open("a", encoding="utf-8") as file:
            file.write("# changed\n")
        subprocess.run(
            ["git", *world.IDENTITY, "commit", "--quiet", "--all", "--message=change"],
            cwd=upstream,
            check=True,
        )


def drain() -> float:
    """Queues all links; returns the seconds that workers take from the first job to the last."""
    connection, client = world.connect()
    world.forget_jobs(client)
    world.queue_all(connection)
    client.rename(_QUEUE, _ASIDE)
    with (
        (Path(os.environ["REPOS_BASE_PATH"]).parent / "worker.log").open("wb") as log,
        subprocess.Popen(
            [*world.COMMAND, "worker"], stdout=log, stderr=log, start_new_session=True
        ) as process,
    ):
        try:
            world.await_idle_workers(client, AT_ONCE)
            client.rename(_ASIDE, _QUEUE)
            seconds = world.seconds_until_synced(connection)
            world.await_idle_workers(client, AT_ONCE)
            return seconds
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()


@contextmanager
def app(milliseconds: int = 0) -> Iterator[str]:
    command = [sys.executable, "-m", "tests.benchmarks.drain", str(milliseconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers each request with 200, so many milliseconds after it has come whole."""
    with suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = head.lower().partition(b"content-length:")[2].split(None, 1)[0]
            await reader.readexactly(int(length))
            await asyncio.sleep(int(sys.argv[1]) / 1000)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    writer.close()


async def serve() -> None:
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/app", flush=True)
    await server.serve_forever()


def plain_loop(way: str, url: str, folder: Path) -> float:
    """Does for each link what a script would do: nothing is recorded, checked or locked.

    Returns the seconds.
    """
    upstreams = [folder / "drained-upstreams" / str(number) for number in range(1, LINKS + 1)]
    work = [(way, url, str(each), str(folder / "looped" / each.name)) for each in upstreams]
    with Pool(AT_ONCE) as pool:
        start = time.perf_counter()
        pool.starmap(plain_link, work, chunksize=1)
        return time.perf_counter() - start


def plain_link(way: str, url: str, upstream: str, clone: str) -> None:
    git("ls-remote", "--symref", f"file://{upstream}", "HEAD", "refs/heads/main")
    if way == "unchanged":
        return
    if way == "first":
        git("init", "--quiet", "--bare", clone)
    inside = f"--git-dir={clone}"
    git(inside, "fetch", "--quiet", "--depth=1", f"file://{upstream}", "+HEAD:refs/heads/main")
    lines = git(inside, "ls-tree", "-r", "refs/heads/main").splitlines()
    entries = [line.partition(b"\t") for line in lines]
    if way == "again":
        entries = entries[:1]
    ids = [entry[0].split()[2] for entry in entries]
    contents = git(inside, "cat-file", "--batch", input=b"\n".join(ids) + b"\n")
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port)
    event = "create" if way == "first" else "update"
    for _, _, path in entries:
        head, _, contents = contents.partition(b"\n")
        size = int(head.split()[2])
        content, contents = contents[:size], contents[size + 1 :]
        file = {"path": path.decode(), "size": size, "content": content.decode()}
        body = json.dumps({"repository": {"github_url": upstream}, "file": file}).encode()
        signature = hmac.new(world.AUTH_KEY.encode(), body, "sha256").hexdigest()
        headers = {"X-Docora-Signature": f"sha256={signature}"}
        connection.request("POST", f"{parts.path}/{event}", body, headers)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200, answer.status
    connection.close()


def git(*arguments: str, input: bytes = b"") -> bytes:  # noqa: A002 - as subprocess calls it
    return subprocess.run(["git", *arguments], check=True, input=input, capture_output=True).stdout


if __name__ == "__main__":
    asyncio.run(serve())
