"""The ways to queue many links, each in a process of its own: `ways NAME LINKS`.

Prints seconds, links done and the peak memory of the process, as JSON. Servers by DATABASE_URL
and REDIS_URL.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import redis
from pydantic import SecretStr
from rq import Queue, Retry
from rq.utils import now, utcformat

from docora_ops.actions.bulk.run import BulkRun
from docora_ops.actions.selecting import due_links, failed_links
from docora_ops.database import Database
from docora_ops.links import Action, Payload
from docora_ops.queue import LinkQueue, ProgressStore, connect
from docora_ops.queue.job_template import JobTemplate
from docora_ops.settings import FAILURE_TTL, RESULT_TTL, Settings
from tests.benchmarks.world import QUEUE

BATCH = 500
COLUMNS = (
    "l.app_id, a.app_name, l.repository_id, r.github_url, r.owner, r.name, a.base_url,"
    " l.github_token_encrypted, a.client_auth_key_encrypted"
)
TABLES = "app_repositories l JOIN apps a USING (app_id) JOIN repositories r USING (repository_id)"
RESET = "status = 'pending_snapshot', retry_count = 0, last_error = NULL"
RESET_MANY = (
    f"UPDATE app_repositories t SET {RESET} FROM {TABLES}"
    f" WHERE t.id = l.id AND t.status = 'failed' AND t.id = ANY(%s) RETURNING {COLUMNS}"
)
KEYWORDS = Payload.__slots__
DELAYS = [1, 2, 4, 8]


def settings() -> Settings:
    """From the environment."""
    return Settings(
        database_url=SecretStr(os.environ["DATABASE_URL"]),
        redis_url=SecretStr(os.environ["REDIS_URL"]),
    )


def failed_ids(connection: psycopg.Connection, limit: int) -> list[str]:
    """The ids of the failed links."""
    rows = connection.execute(
        "SELECT id::text FROM app_repositories WHERE status = 'failed'"
        " ORDER BY app_id, repository_id LIMIT %s",
        (limit,),
    )
    return [row[0] for row in rows]


def batches(ids: list[str]) -> Iterator[list[str]]:
    """Some at a time."""
    for start in range(0, len(ids), BATCH):
        yield ids[start : start + BATCH]


def job_options(values: tuple[str, ...]) -> dict[str, object]:
    """What each job is queued with."""
    payload = Payload(*values)
    return {
        "kwargs": {**dict(zip(KEYWORDS, values, strict=True)), "is_rescan": True},
        "job_id": payload.job_id,
        "description": payload.description,
        "timeout": 3600,
        "result_ttl": RESULT_TTL,
        "failure_ttl": FAILURE_TTL,
        "retry": Retry(max=len(DELAYS), interval=DELAYS),
    }


def link_by_link(limit: int) -> int:
    """As Docora's own loop does it: read, check, reset, look for a job, queue."""
    connection = psycopg.connect(os.environ["DATABASE_URL"], autocommit=True)
    queue = Queue(QUEUE, connection=redis.Redis.from_url(os.environ["REDIS_URL"]))
    ids = failed_ids(connection, limit)
    for link_id in ids:
        values = connection.execute(
            f"SELECT {COLUMNS} FROM {TABLES} WHERE l.id = %s AND l.status = 'failed'".encode(),
            (link_id,),
        ).fetchone()
        assert values is not None
        connection.execute(
            f"UPDATE app_repositories SET {RESET} WHERE id = %s".encode(), (link_id,)
        )
        options = job_options(values)
        job = queue.fetch_job(str(options["job_id"]))
        if job is not None:
            job.delete()
        queue.enqueue_call("docora_ops.worker.snapshot", **options)  # type: ignore[arg-type]
    return len(ids)


def enqueue_many(limit: int) -> int:
    """Batches, and RQ's own way to queue many jobs."""
    connection = psycopg.connect(os.environ["DATABASE_URL"], autocommit=True)
    queue = Queue(QUEUE, connection=redis.Redis.from_url(os.environ["REDIS_URL"]))
    ids = failed_ids(connection, limit)
    for batch in batches(ids):
        with connection.transaction():
            rows = connection.execute(RESET_MANY.encode(), (batch,)).fetchall()
            queue.enqueue_many(
                Queue.prepare_data("docora_ops.worker.snapshot", **job_options(row))  # type: ignore[arg-type]
                for row in rows
            )
    return len(ids)


def floor(limit: int) -> int:
    """Nothing but the reset, and the same bytes as bare commands in a pipeline. Checks nothing."""
    connection = psycopg.connect(os.environ["DATABASE_URL"], autocommit=True)
    client = redis.Redis.from_url(os.environ["REDIS_URL"])
    template = JobTemplate(settings(), client)
    ids = failed_ids(connection, limit)
    for batch in batches(ids):
        with connection.transaction():
            rows = connection.execute(RESET_MANY.encode(), (batch,)).fetchall()
            pipeline = client.pipeline()
            names_and_values = iter(template.fields())
            constants: dict[Any, Any] = dict(zip(names_and_values, names_and_values, strict=True))
            constants |= dict.fromkeys(("created_at", "enqueued_at"), utcformat(now()))
            for row in rows:
                payload = Payload(*row)
                variable = {
                    "data": template.data(payload, is_rescan=True),
                    "description": payload.description,
                }
                pipeline.hset(f"rq:job:{payload.job_id}", mapping=constants | variable)
                pipeline.rpush(f"rq:queue:{QUEUE}", payload.job_id)
            pipeline.execute()
    return len(ids)


def ours(limit: int) -> int:
    """The bulk retry of this project, with its progress."""
    configuration = settings()
    database = Database(configuration)
    client = connect(configuration)
    selection = failed_links(database, limit=limit)
    run = BulkRun(
        Action.RETRY,
        database,
        LinkQueue(configuration, client),
        ProgressStore(configuration, client),
        selection,
        BATCH,
    )
    run.start()
    result = run.run()
    assert result.succeeded == result.total, result.counts
    return result.total


def schedule(limit: int) -> int:
    """A pass of this project's schedule."""
    configuration = settings()
    database = Database(configuration)
    client = connect(configuration)
    selection = due_links(database, configuration.rescan_interval_ms)
    run = BulkRun(
        Action.SCHEDULE,
        database,
        LinkQueue(configuration, client),
        ProgressStore(configuration, client),
        selection,
        BATCH,
    )
    result = run.run()
    assert result.succeeded == result.total == limit, result.counts
    return result.total


WAYS: dict[str, Callable[[int], int]] = {
    "link by link": link_by_link,
    "enqueue_many": enqueue_many,
    "floor": floor,
    "ours": ours,
    "schedule": schedule,
}


def main() -> None:
    """Run one way."""
    way, limit = WAYS[sys.argv[1]], int(sys.argv[2])
    start = time.perf_counter()
    links = way(limit)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"links": links, "seconds": seconds, "peak_mib": peak}))


if __name__ == "__main__":
    main()
