"""Docora's own queue, kept by BullMQ 5. Docora's scheduler queues the jobs; we do not.

The scheduler queues each pending link within a minute. Docora's worker begins a job with a write to
the link's row, so the worker waits for our commit.
"""

from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any, ClassVar

from docora_ops.links import QUEUE_NAME, Backend, JobState, Link
from docora_ops.queue.backend import Found, LinkQueue, QueueCounts, QueuedJob, Worker
from docora_ops.queue.connection import (
    moment_of,
    number_of,
    pages,
    redis_errors,
    replies,
    text_of,
)

PREFIX = f"bull:{QUEUE_NAME}:"
_LISTS = ("wait", "paused", "active")
_SETS = ("delayed", "prioritized", "failed", "completed")
_DELAY_FACTOR = 0x1000 * 1000  # the score of a delayed job is its time in ms, times 4096
# BullMQ names the connection of a worker `bull:BASE64_OF_QUEUE`, perhaps with `:w:NAME`.
_CONNECTION = f"bull:{b64encode(QUEUE_NAME.encode()).decode()}"
_JOB_FIELDS = ("timestamp", "processedOn", "pb")


class BullmqQueue(LinkQueue):
    """The queue of Docora's own workers."""

    backend: ClassVar[Backend] = Backend.BULLMQ
    script: ClassVar[str] = "bullmq.lua"

    def look(self, job_ids: Sequence[str]) -> list[Found]:
        return self._run(["look", PREFIX, *job_ids])

    def push(
        self,
        links: Sequence[Link],
        is_rescan: Callable[[Link], bool],
        looked_at: datetime | None = None,
    ) -> list[Found]:
        return self._run(["push", PREFIX, *(link.job_id for link in links)])

    def live_ids(self) -> Iterator[Sequence[str]]:
        with redis_errors(self.client):
            for name in ("delayed", "prioritized"):
                yield [text_of(job_id) for job_id in self.client.zrange(PREFIX + name, 0, -1)]
            for name in _LISTS:
                yield from pages(self.client, PREFIX + name)

    def counts(self) -> QueueCounts:
        with redis_errors(self.client):
            pipeline = self.client.pipeline(transaction=False)
            for name in _LISTS:
                pipeline.llen(PREFIX + name)
            for name in _SETS:
                pipeline.zcard(PREFIX + name)
            pipeline.hexists(f"{PREFIX}meta", "paused")
            pipeline.lindex(f"{PREFIX}wait", -1)
            *counts, suspended, first = replies(pipeline)
            created_at = self.client.hget(PREFIX + text_of(first), "timestamp") if first else None
        wait, paused, active, delayed, prioritized, failed, completed = (n or 0 for n in counts)
        return QueueCounts(
            waiting=wait + paused + prioritized,
            active=active,
            delayed=delayed,
            completed=completed,
            failed=failed,
            is_suspended=bool(suspended),
            oldest_waiting_at=_moment(created_at),
        )

    def workers(self) -> list[Worker]:
        with redis_errors(self.client):
            clients = self.client.client_list()
        return [
            Worker(name=client["name"].removeprefix(f"{_CONNECTION}:w:"), host=client["addr"])
            for client in clients
            # A worker's other connections have names with further endings, such as `:qe`.
            if client["name"] == _CONNECTION or client["name"].startswith(f"{_CONNECTION}:w:")
        ]

    def is_suspended(self) -> bool:
        with redis_errors(self.client):
            return bool(self.client.hexists(f"{PREFIX}meta", "paused"))

    def sample(self, limit: int) -> list[str]:
        with redis_errors(self.client):
            pipeline = self.client.pipeline(transaction=False)
            for name in _LISTS:
                pipeline.lrange(PREFIX + name, 0, limit - 1)
            answers = replies(pipeline)
        return [text_of(job_id) for page in answers for job_id in page or ()][:limit]

    def has_keys(self) -> bool:
        with redis_errors(self.client):
            return bool(self.client.exists(*(PREFIX + name for name in ("meta", *_LISTS, *_SETS))))

    def read_job(self, job_id: str) -> QueuedJob:
        [found] = self.look([job_id])
        with redis_errors(self.client):
            pipeline = self.client.pipeline(transaction=False)
            pipeline.hmget(PREFIX + job_id, *_JOB_FIELDS)
            pipeline.zscore(f"{PREFIX}delayed", job_id)
            row, due = replies(pipeline)
        created_at, started_at, worker = row or [None] * len(_JOB_FIELDS)
        return QueuedJob(
            job_id=job_id,
            state=found.state,
            status=None if found.state is JobState.NONE else found.state.value,
            created_at=_moment(created_at),
            started_at=_moment(started_at),
            due_at=None if due is None else moment_of(due / _DELAY_FACTOR),
            worker=text_of(worker) or None,
        )


def _moment(milliseconds: Any) -> datetime | None:
    number = number_of(milliseconds)
    return None if number is None else moment_of(number / 1000)
