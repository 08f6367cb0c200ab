"""The ways to queue many links: `ways NAME LINKS`, with the servers of the environment."""

import os
import pickle
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import psycopg
from pydantic import SecretStr
from rq import Queue, Retry
from rq.utils import now, utcformat

from docora_ops.actions.bulk.execute import LinkOutcome
from docora_ops.actions.bulk.paced_run import PacedRun
from docora_ops.actions.bulk.run import BulkRun
from docora_ops.actions.docora import Docora
from docora_ops.actions.following import Following
from docora_ops.database import Database
from docora_ops.database.selection import select_due, select_failed
from docora_ops.jobs import Backend
from docora_ops.links import Action, LinkFilter, Payload
from docora_ops.queue import ProgressStore, RqQueue
from docora_ops.queue import connect as connect_to_redis
from docora_ops.queue.job_template import JobTemplate
from docora_ops.settings import FAILURE_TTL, RESULT_TTL, Settings
from tests.benchmarks.measured import report
from tests.benchmarks.world import QUEUE, connect

BATCH = 500
FUNCTION = "docora_ops.worker.snapshot"
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
DELAYS = [1, 2, 4, 8]


def settings() -> Settings:
    """Reads the settings from the environment."""
    return Settings(
        database_url=SecretStr(os.environ["DATABASE_URL"]),
        redis_url=SecretStr(os.environ["REDIS_URL"]),
    )


def failed_ids(connection: psycopg.Connection, limit: int) -> list[str]:
    """Reads the ids of failed links."""
    rows = connection.execute(
        "SELECT id::text FROM app_repositories WHERE status = 'failed'"
        " ORDER BY app_id, repository_id LIMIT %s",
        (limit,),
    )
    return [row[0] for row in rows]


def reset_batches(connection: psycopg.Connection, limit: int) -> Iterator[list[tuple[str, ...]]]:
    """Resets failed links; each batch is committed after the caller has used its rows."""
    ids = failed_ids(connection, limit)
    for start in range(0, len(ids), BATCH):
        with connection.transaction():
            rows = connection.execute(RESET_MANY.encode(), (ids[start : start + BATCH],))
            yield rows.fetchall()


def job_options(values: tuple[str, ...]) -> dict[str, Any]:
    """Returns the options with which RQ queues the job of a link."""
    payload = Payload(*values)
    return {
        "kwargs": {**dict(zip(Payload.__match_args__, values, strict=True)), "is_rescan": True},
        "job_id": payload.job_id,
        "description": payload.description,
        "timeout": 3600,
        "result_ttl": RESULT_TTL,
        "failure_ttl": FAILURE_TTL,
        "retry": Retry(max=len(DELAYS), interval=DELAYS),
    }


def link_by_link(limit: int) -> int:
    """Does for each link what Docora's own loop does: read, check, reset, look for a job, queue."""
    connection, client = connect()
    queue = Queue(QUEUE, connection=client)
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
        job = queue.fetch_job(options["job_id"])
        if job is not None:
            job.delete()
        queue.enqueue_call(FUNCTION, **options)
    return len(ids)


def enqueue_many(limit: int) -> int:
    """Queues batches with RQ's own `enqueue_many`."""
    connection, client = connect()
    queue = Queue(QUEUE, connection=client)
    queued = 0
    for rows in reset_batches(connection, limit):
        queue.enqueue_many(Queue.prepare_data(FUNCTION, **job_options(row)) for row in rows)
        queued += len(rows)
    return queued


def floor(limit: int) -> int:
    """Resets the links and writes jobs in a pipeline, without any check.

    Writes the bytes of RQ's default serializer, compressed by zlib. Our jobs are not compressed.
    """
    connection, client = connect()
    template = JobTemplate(settings(), client)
    queued = 0
    for rows in reset_batches(connection, limit):
        pipeline = client.pipeline()
        names_and_values = iter(template.fields)
        constants: dict[Any, Any] = dict(zip(names_and_values, names_and_values, strict=True))
        constants |= dict.fromkeys(("created_at", "enqueued_at"), utcformat(now()))
        for row in rows:
            payload = Payload(*row)
            arguments = dict(zip(Payload.__match_args__, row, strict=True))
            call = (FUNCTION, None, (), {**arguments, "is_rescan": True})
            variable = {
                "data": zlib.compress(pickle.dumps(call, protocol=pickle.HIGHEST_PROTOCOL)),
                "description": payload.description,
            }
            pipeline.hset(f"rq:job:{payload.job_id}", mapping=constants | variable)
            pipeline.rpush(f"rq:queue:{QUEUE}", payload.job_id)
        pipeline.execute()
        queued += len(rows)
    return queued


def retry(limit: int) -> int:
    """Runs this project's bulk retry, with its progress."""
    database, client = Database(settings()), connect_to_redis(settings())
    queue, store = RqQueue(settings(), client), ProgressStore(client)
    links = select_failed(database, LinkFilter(), limit=limit)
    run = BulkRun(Action.RETRY, database, queue, store, links, BATCH)
    run.start()
    result = run.run()
    assert result.succeeded == result.total == limit, result.counts
    return result.total


def retry_in_flight(limit: int) -> int:
    """Runs a bulk retry with 1,000 links in flight at most."""
    docora = Docora(settings().model_copy(update={"backend": Backend.RQ}))
    links = select_failed(docora.database, LinkFilter(), limit=limit)
    following = Following(docora)
    run = PacedRun(
        *(Action.RETRY, docora.database, docora.queue, docora.store, links, BATCH),
        following=following,
        in_flight=1_000,
    )

    def follow(recorded: Sequence[LinkOutcome]) -> None:
        for item in recorded:
            following.add(item.ref, item.outcome)

    run.on_recorded = follow
    run.start()
    run.run()
    assert following.result().synced == limit, following.result()
    return limit


def schedule(limit: int) -> int:
    """Runs a pass of this project's schedule."""
    database, client = Database(settings()), connect_to_redis(settings())
    queue, store = RqQueue(settings(), client), ProgressStore(client)
    links = select_due(database, settings().rescan_interval_ms)
    result = BulkRun(Action.SCHEDULE, database, queue, store, links, BATCH).run()
    assert result.succeeded == result.total == limit, result.counts
    return result.total


WAYS: dict[str, Callable[[int], int]] = {
    "link by link": link_by_link,
    "enqueue_many": enqueue_many,
    "floor": floor,
    "ours": retry,
    "all waiting": retry,
    "all orphaned": retry,
    "in flight": retry_in_flight,
    "schedule": schedule,
}


if __name__ == "__main__":
    report(lambda: WAYS[sys.argv[1]](int(sys.argv[2])))
