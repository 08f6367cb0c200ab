"""The ways to queue many links: `ways NAME LINKS`, with the servers of the environment."""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psycopg
from rq import Queue, Retry

from docora_ops.actions.changes import new_operation, run_bulk, select_links
from docora_ops.actions.docora import Docora
from docora_ops.actions.schedule import run_pass
from docora_ops.links import Change, LinkFilter, LinkStatus, job_id_of
from docora_ops.settings import FAILURE_TTL, RESULT_TTL, load_settings
from tests.benchmarks.world import QUEUE, connect

FUNCTION = "docora_ops.worker.snapshot"
COLUMNS = (
    "l.app_id, a.app_name, l.repository_id, r.github_url, r.owner, r.name, a.base_url,"
    " l.github_token_encrypted, a.client_auth_key_encrypted"
)
TABLES = "app_repositories l JOIN apps a USING (app_id) JOIN repositories r USING (repository_id)"
RESET = "status = 'pending_snapshot', retry_count = 0, last_error = NULL"
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


NAMES = (
    *("app_id", "app_name", "repository_id", "github_url", "owner", "name", "base_url"),
    *("github_token_encrypted", "client_auth_key_encrypted"),
)


def job_options(values: tuple[str, ...]) -> dict[str, Any]:
    payload = dict(zip(NAMES, values, strict=True))
    return {
        "kwargs": {**payload, "is_rescan": True},
        "job_id": job_id_of(payload["app_id"], payload["repository_id"]),
        "description": payload["name"],
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


def retry(limit: int) -> int:
    with Docora(load_settings()) as docora:
        failed = LinkFilter(statuses=[LinkStatus.FAILED])
        ids = select_links(docora, failed, limit)
        operation = new_operation(docora, "retry", "all failed links")
        *_, batch = run_bulk(docora, Change.retry(failed), ids, operation)
    assert batch.operation.succeeded == batch.operation.total == limit, batch.operation
    return limit


def schedule(limit: int) -> int:
    with Docora(load_settings()) as docora:
        *_, batch = run_pass(docora)
    assert batch.operation.succeeded == batch.operation.total == limit, batch.operation
    return limit


WAYS: dict[str, Callable[[int], int]] = {
    "link by link": link_by_link,
    "ours": retry,
    "all waiting": retry,
    "all orphaned": retry,
    "schedule": schedule,
}


if __name__ == "__main__":
    report(lambda: WAYS[sys.argv[1]](int(sys.argv[2])))
