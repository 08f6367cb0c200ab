"""A database full of links, and what may stand in the queue for them."""

from __future__ import annotations

from importlib.resources import files

import psycopg
import redis
from rq import Queue

QUEUE = "snapshot-queue"
APPS = 20


def load_schema(database_url: str) -> None:
    """Create Docora's tables."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(files("docora_ops.demo").joinpath("schema.sql").read_bytes())


def fill(
    database_url: str, redis_url: str, links: int, jobs: str = "none", status: str = "failed"
) -> None:
    """Start anew with so many links, and `none`, `waiting` or `orphaned` jobs for all."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("TRUNCATE apps, repositories CASCADE")
        connection.execute(
            "INSERT INTO apps (app_id, token_hash, app_name, base_url, email,"
            " client_auth_key_encrypted)"
            " SELECT 'app_' || lpad(to_hex(i), 24, '0'), 'hash', 'App ' || i,"
            " 'https://app' || i || '.example/docora', 'ops@app.example', repeat('ab', 80)"
            " FROM generate_series(1, %s) i",
            (APPS,),
        )
        connection.execute(
            "INSERT INTO repositories (repository_id, github_url, owner, name)"
            " SELECT 'repo_' || lpad(to_hex(i), 24, '0'), 'https://github.com/octo/repo' || i,"
            " 'octo', 'repo' || i FROM generate_series(1, %s) i",
            (links // APPS,),
        )
        connection.execute(
            "INSERT INTO app_repositories (app_id, repository_id, status, retry_count,"
            " last_error, github_token_encrypted, last_scanned_at)"
            " SELECT app_id, repository_id, %s, 5, 'HTTP 500 on created README.md',"
            " repeat('cd', 60), now() - interval '1 day' FROM apps, repositories",
            (status,),
        )
        connection.execute("VACUUM ANALYZE")
        connection.execute("CHECKPOINT")
        ids = connection.execute(
            "SELECT app_id || '-' || repository_id FROM app_repositories"
        ).fetchall()
    client = redis.Redis.from_url(redis_url)
    client.flushall()
    if jobs == "none":
        return
    queue = Queue(QUEUE, connection=client)
    for start in range(0, len(ids), 1000):
        queue.enqueue_many(
            Queue.prepare_data("other.producer", job_id=job_id, description="other")
            for (job_id,) in ids[start : start + 1000]
        )
    if jobs == "orphaned":
        client.delete(queue.key)
