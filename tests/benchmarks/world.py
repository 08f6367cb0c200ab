"""A database full of links, jobs for them, and repositories. Servers: the environment's."""

import os
import subprocess
import sys
import time
from importlib.resources import files
from pathlib import Path
from typing import cast

import psycopg
import redis
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from rq import Queue

QUEUE = "snapshot-queue"
APPS = 20
COMMAND = (sys.executable, "-m", "docora_ops")
KEY = bytes(32)
AUTH_KEY = "auth-key"
IDENTITY = ("-c", "user.name=bench", "-c", "user.email=bench@example.com")

FILL = """
TRUNCATE apps, repositories CASCADE;
INSERT INTO apps (app_id, token_hash, app_name, base_url, email, client_auth_key_encrypted)
SELECT 'app_' || lpad(to_hex(i), 24, '0'), 'hash', 'App ' || i,
    'https://app' || i || '.example/docora', 'ops@app.example', repeat('ab', 80)
FROM generate_series(1, {apps}) i;
INSERT INTO repositories (repository_id, github_url, owner, name)
SELECT 'repo_' || lpad(to_hex(i), 24, '0'), 'https://github.com/octo/repo' || i,
    'octo', 'repo' || i
FROM generate_series(1, {repositories}) i;
INSERT INTO app_repositories (app_id, repository_id, status, retry_count, last_error,
    github_token_encrypted, last_scanned_at)
SELECT app_id, repository_id, '{status}', 5, 'HTTP 500 on created README.md',
    repeat('cd', 60), now() - interval '1 day'
FROM apps, repositories
"""


def connect() -> tuple[psycopg.Connection, redis.Redis]:
    connection = psycopg.connect(os.environ["DATABASE_URL"], autocommit=True)
    return connection, redis.Redis.from_url(os.environ["REDIS_URL"])


def create_tables() -> None:
    with connect()[0] as connection:
        connection.execute(files("docora_ops.demo").joinpath("schema.sql").read_bytes())


def fill(links: int, status: str = "failed", jobs: str = "") -> None:
    """Empties both servers and adds links, without jobs or with `waiting` or `orphaned` ones."""
    connection, client = connect()
    with connection, client:
        values = {"apps": APPS, "repositories": links // APPS, "status": status}
        connection.execute(FILL.format(**values).encode())
        connection.execute("VACUUM ANALYZE")
        connection.execute("CHECKPOINT")
        rows = connection.execute("SELECT app_id || '-' || repository_id FROM app_repositories")
        ids = [row[0] for row in rows] if jobs else []
        client.flushall()
        queue = Queue(QUEUE, connection=client)
        for start in range(0, len(ids), 1000):
            queue.enqueue_many(
                Queue.prepare_data("other.producer", job_id=job_id, description="other")
                for job_id in ids[start : start + 1000]
            )
        if jobs == "orphaned":
            client.delete(queue.key)


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


def sealed_auth_key() -> str:
    """Returns the key of all apps, encrypted as Docora encrypts it."""
    iv = bytes(16)
    sealed = AESGCM(KEY).encrypt(iv, AUTH_KEY.encode(), None)
    return f"{iv.hex()}:{sealed[-16:].hex()}:{sealed[:-16].hex()}"


def seconds_until_synced(connection: psycopg.Connection) -> float:
    """Waits until all links are synced; returns how long that took."""
    unsynced = "SELECT count(*) FROM app_repositories WHERE status <> 'synced'"
    start = time.perf_counter()
    while connection.execute(unsynced).fetchone() != (0,):
        time.sleep(0.01)
    return time.perf_counter() - start


def queue_all(connection: psycopg.Connection) -> None:
    connection.execute("UPDATE app_repositories SET status = 'failed'")
    subprocess.run([*COMMAND, "retry-all-failed", "--yes"], check=True, capture_output=True)


def await_idle_workers(client: redis.Redis, count: int) -> None:
    idle = 0
    while idle < count:
        time.sleep(0.02)
        names = cast("set[bytes]", client.smembers("rq:workers"))
        idle = sum(client.hget(name.decode(), "state") == b"idle" for name in names)


def forget_jobs(client: redis.Redis) -> None:
    for key in client.scan_iter("rq:*"):
        client.delete(key)


def execute(statement: str, *values: str) -> None:
    with connect()[0] as connection:
        connection.execute(statement.encode(), values)
