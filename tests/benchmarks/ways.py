"""The ways to queue many links: `ways NAME LINKS`, with the servers of the environment."""

import json
import pickle
import statistics
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psycopg
from rq import Queue, Retry
from rq.utils import now, utcformat

from docora_ops import actions
from docora_ops.actions import Docora
from docora_ops.links import Payload
from docora_ops.queue import RqQueue
from docora_ops.settings import FAILURE_TTL, RESULT_TTL, load_settings
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


Results = dict[str, list["Measured"]]  # by way, in the order of the rounds


@dataclass(frozen=True)
class Measured:  # of one process
    amount: int
    seconds: float
    peak_mib: float

    @property
    def microseconds(self) -> float:
        return self.seconds / self.amount * 1e6


def measure(way: str, links: int, program: str = "ways") -> Measured:
    command = [sys.executable, "-m", f"tests.benchmarks.{program}", way, str(links)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    return Measured(**json.loads(output))


def report(work: Callable[[], int]) -> None:
    """Does the work, which returns its amount, and prints the measurement as JSON."""
    start = time.perf_counter()
    amount = work()
    seconds = time.perf_counter() - start
    # Not getrusage: its peak begins with the memory of the parent process.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    peak_mib = int(status.partition("VmHWM:")[2].split()[0]) / 1024
    print(json.dumps(asdict(Measured(amount, seconds, peak_mib))))


def show(results: Results, baseline: str) -> None:
    """Prints a line for each way: the median, and the ratio to the baseline of the same round."""
    for way, items in results.items():
        pairs = zip(items, results[baseline], strict=True)
        ratio = statistics.median(item.microseconds / base.microseconds for item, base in pairs)
        item = sorted(items, key=lambda item: item.microseconds)[len(items) // 2]
        print(
            f"  {way:<20}{1e6 / item.microseconds:>9,.0f} per s{item.microseconds:>9.1f} µs each"
            f"{item.peak_mib:>6.0f} MiB   {baseline} is {ratio:.2f} times as fast",
            flush=True,
        )


def failed_ids(connection: psycopg.Connection, limit: int) -> list[str]:
    failed = "app_repositories WHERE status = 'failed' ORDER BY app_id, repository_id LIMIT %s"
    rows = connection.execute(f"SELECT id::text FROM {failed}".encode(), (limit,))
    return [row[0] for row in rows]


def reset_batches(connection: psycopg.Connection, limit: int) -> Iterator[list[tuple[str, ...]]]:
    """Resets failed links; each batch is committed after the caller has used its rows."""
    ids = failed_ids(connection, limit)
    for start in range(0, len(ids), BATCH):
        with connection.transaction():
            rows = connection.execute(RESET_MANY.encode(), (ids[start : start + BATCH],))
            yield rows.fetchall()


def job_options(values: tuple[str, ...]) -> dict[str, Any]:
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
    read = f"SELECT {COLUMNS} FROM {TABLES} WHERE l.id = %s AND l.status = 'failed'".encode()
    reset = f"UPDATE app_repositories SET {RESET} WHERE id = %s".encode()
    for link_id in ids:
        [values] = connection.execute(read, (link_id,)).fetchall()
        connection.execute(reset, (link_id,))
        options = job_options(values)
        if job := queue.fetch_job(options["job_id"]):
            job.delete()
        queue.enqueue_call(FUNCTION, **options)
    return len(ids)


def floor(limit: int) -> int:
    """Resets the links and writes jobs in a pipeline, without any check.

    Writes the bytes of RQ's default serializer, compressed by zlib. Our jobs are not compressed.
    """
    connection, client = connect()
    queue = RqQueue(load_settings(), client)
    queued = 0
    for rows in reset_batches(connection, limit):
        pipeline = client.pipeline()
        names_and_values = iter(queue.common_fields)
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
    *_, step = actions.retry_all_failed(Docora(load_settings()), limit=limit)
    assert step.result.put_to_work == step.result.total == limit, step.result.counts
    return limit


def schedule(limit: int) -> int:
    *_, step = actions.schedule(Docora(load_settings()))
    assert step.result.put_to_work == step.result.total == limit, step.result.counts
    return limit


WAYS: dict[str, Callable[[int], int]] = {
    "link by link": link_by_link,
    "floor": floor,
    "ours": retry,
    "all waiting": retry,
    "all orphaned": retry,
    "schedule": schedule,
}


if __name__ == "__main__":
    report(lambda: WAYS[sys.argv[1]](int(sys.argv[2])))
