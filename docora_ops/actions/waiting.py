"""`--wait`: follows links until each has the result of its snapshot."""

import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace

from docora_ops.actions.changes import BATCH
from docora_ops.actions.docora import Docora
from docora_ops.database import links as rows
from docora_ops.links import LIVE_STATUSES, Backend, LinkFilter, LinkStatus, batches, job_id_of
from docora_ops.queue.operations import Failure

_SHORTEST_PAUSE = 0.2  # seconds between two looks at the rows
_PAUSE_FACTOR = 5  # pauses are this many times as long as the look itself took
_QUEUE_PAUSE = 2  # seconds between two looks at the queue
_BATCH = 10_000
_MOST_LISTED = 100
_LOST = "its job is lost: docora-ops repair queues it again"


@dataclass(frozen=True)
class Wait:
    """How far the awaited snapshots are.

    lost: links that are pending or scanning, and have had no live job in two looks.
    gone: links that were deleted meanwhile.
    failures: the first 100 links that failed again or are lost, and why.
    is_suspended, has_workers: as of the last look at the queue.
    """

    total: int
    synced: int = 0
    failed: int = 0
    lost: int = 0
    gone: int = 0
    seconds: float = 0
    timed_out: bool = False
    is_suspended: bool = False
    has_workers: bool = True
    failures: Sequence[Failure] = ()

    @property
    def unfinished(self) -> int:
        """Returns the number of links without a result."""
        return self.total - self.synced - self.failed - self.lost - self.gone


def wait_for(docora: Docora, ids: Sequence[str], timeout: float | None = None) -> Generator[Wait]:
    """Yields how far the snapshots of links are, after each look, until each has a result.

    ids: row ids of links whose job was waiting or running.
    timeout: seconds; None to wait without a limit. The last value has `timed_out` set.

    Raises PostgresError, RedisError.
    """
    begun = queue_looked_at = time.monotonic()
    wait, left, jobless = Wait(total=len(ids)), set(ids), set[str]()
    while True:
        looked_at = time.monotonic()
        looks_at_queue = looked_at - queue_looked_at >= _QUEUE_PAUSE
        results = [
            Result(*row)
            for batch in batches(list(left), _BATCH)
            for row in rows.read_results(docora.database, batch)
        ]
        is_live = _live_jobs(docora, results, everywhere=looks_at_queue)
        synced = {result.id for result in results if result.status == LinkStatus.SYNCED}
        # A job that was running before may still have the old status in its row.
        failed = [
            result
            for result in results
            if result.status == LinkStatus.FAILED and not is_live[result.job_id]
        ]
        lost: list[Result] = []
        if looks_at_queue:
            queue_looked_at = looked_at
            without_job = [result for result in results if _waits_in_vain(docora, result, is_live)]
            lost = [result for result in without_job if result.id in jobless]
            jobless = {result.id for result in without_job}
            wait = replace(
                wait,
                is_suspended=docora.queue.is_suspended(),
                has_workers=bool(docora.queue.workers()),
            )
        gone = left - {result.id for result in results}
        left -= synced | gone | {result.id for result in failed + lost}
        errors = {result.id: result.error for result in failed} | {item.id: _LOST for item in lost}
        to_list = list(errors)[: _MOST_LISTED - len(wait.failures)]
        links = rows.read_links(docora.database, to_list, LinkFilter()) if to_list else []
        failures = [
            Failure(link.job_id, errors[link.id], link.app_name, link.repository_name)
            for link in links
        ]
        now = time.monotonic()
        is_late = timeout is not None and now - begun >= timeout
        wait = replace(
            wait,
            synced=wait.synced + len(synced),
            failed=wait.failed + len(failed),
            lost=wait.lost + len(lost),
            gone=wait.gone + len(gone),
            failures=[*wait.failures, *failures],
            seconds=round(now - begun, 1),
            timed_out=bool(left) and is_late,
        )
        yield wait
        if not left or is_late:
            return
        pause = max(_SHORTEST_PAUSE, _PAUSE_FACTOR * (now - looked_at))
        time.sleep(pause if timeout is None else min(pause, begun + timeout - now))


@dataclass(frozen=True, slots=True)
class Result:
    """What the row of a link says while its snapshot is awaited."""

    id: str
    status: str
    error: str
    app_id: str
    repository_id: str

    @property
    def job_id(self) -> str:
        """Returns the id of the link's job."""
        return job_id_of(self.app_id, self.repository_id)


def _live_jobs(docora: Docora, results: Sequence[Result], *, everywhere: bool) -> dict[str, bool]:
    """Tells which jobs are live: of all unfinished links, or only of those that read `failed`."""
    of_status = {LinkStatus.FAILED} | (set(LIVE_STATUSES) if everywhere else set())
    job_ids = [result.job_id for result in results if result.status in of_status]
    live: dict[str, bool] = {}
    for batch in batches(job_ids, BATCH):
        found = docora.queue.look(batch)
        live |= {job_id: job.state.is_live for job_id, job in zip(batch, found, strict=True)}
    return live


def _waits_in_vain(docora: Docora, result: Result, is_live: Mapping[str, bool]) -> bool:
    """Tells whether a link should have a live job and has none."""
    if docora.queue.backend is Backend.BULLMQ and result.status == LinkStatus.PENDING_SNAPSHOT:
        return False  # Docora's scheduler queues it
    return result.status in LIVE_STATUSES and not is_live[result.job_id]
