"""Docora's own queue, which BullMQ keeps: jobs are looked at, and Docora's scheduler queues them.

The scheduler queues each pending link within a minute. A push is a look with the rows locked:
Docora's worker begins a job with a write to the row, so that it waits for our commit.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.resources import files
from types import MappingProxyType
from typing import cast

from redis import Redis

from docora_ops.jobs import (
    Backend,
    BackendChoice,
    JobRecord,
    JobState,
    OtherQueue,
    QueueHealth,
    QueueOverview,
    Suspension,
)
from docora_ops.links import LinkStatus, Outcome, ids_of_job
from docora_ops.queue.audit_stream import AuditEntry
from docora_ops.queue.bullmq_reader import BullmqReader
from docora_ops.queue.link_queue import Answer, LinkQueue, PushRequest
from docora_ops.queue.redis_client import prepare, redis_errors, with_rows_locked
from docora_ops.queue.rq_workers import command_to_remove_jobs, read_use
from docora_ops.queue.values import text_of
from docora_ops.queue.waiting_list import ExpiredExecutions, WaitingList
from docora_ops.settings import Settings

_OUTCOMES = {
    JobState.NONE: Outcome.RESET,
    JobState.FINISHED: Outcome.RESET,
    JobState.STALE: Outcome.RESET,
    JobState.WAITING: Outcome.ALREADY_QUEUED,
}


class BullmqQueue(LinkQueue):
    """Docora's own queue. All calls raise RedisError, and none writes to BullMQ's keys."""

    backend = Backend.BULLMQ

    def __init__(
        self, settings: Settings, client: Redis, choice: BackendChoice | None = None
    ) -> None:
        super().__init__(settings, client, choice)
        self._client_with_rows_locked = with_rows_locked(client)
        source = files("docora_ops.queue").joinpath("bullmq.lua").read_text(encoding="utf-8")
        self._script = client.register_script(source)
        self._reader = BullmqReader(settings, client)

    def read_waiting(self) -> WaitingList:
        """Returns an empty list: no job is searched there."""
        return WaitingList((), ExpiredExecutions(0, {}))

    def sample(self, count: int) -> list[str]:
        """Returns the ids of at most `count` jobs that wait or, with RQ, have failed."""
        with redis_errors(self._client):
            return [text_of(each) for each in self._reader.first_waiting(count)]

    def look(self, job_ids: Sequence[str]) -> list[Answer]:
        """Returns the state of each job; writes nothing."""
        return self._look(job_ids)

    def prepare(self) -> None:
        """Connects and loads the script before rows are locked."""
        prepare(self._client_with_rows_locked, self._script)

    def push(
        self,
        requests: Sequence[PushRequest],
        *,
        front: bool = False,  # noqa: ARG002
        operation_id: str | None = None,  # noqa: ARG002
        audit: Mapping[Outcome, AuditEntry] = MappingProxyType({}),
    ) -> list[Answer]:
        """Looks at each job with the rows locked, and writes the audit entry.

        Without a job that waits, an operation's links can't be kept before the commit: whoever
        waits for them would take their old status for the result.
        """
        entries = {
            state.value: audit[outcome].xadd
            for state, outcome in _OUTCOMES.items()
            if outcome in audit
        }
        return self._look([each.job_id for each in requests], rows_locked=True, audit=entries)

    def _look(
        self,
        job_ids: Sequence[str],
        *,
        rows_locked: bool = False,
        audit: Mapping[str, list[str | int]] = MappingProxyType({}),
    ) -> list[Answer]:
        """Runs the script. `audit`: the arguments of XADD for an audit entry, by state."""
        if not job_ids:
            return []
        config = {"prefix": self._reader.prefix, "audit": dict(audit)}
        arguments = [json.dumps(config), *job_ids]
        client = self._client_with_rows_locked if rows_locked else self._client
        with redis_errors(self._client, rows_locked=rows_locked):
            replies = cast("list[bytes]", self._script(args=arguments, client=client))
        answers = []
        for job_id, reply in zip(job_ids, replies, strict=True):
            word, _, reason = reply.decode().partition(":")
            state = JobState.WAITING if word == "delayed" else JobState(word)
            outcome = _OUTCOMES.get(state)
            answers.append(Answer(job_id, state, reason, outcome, is_delayed=word == "delayed"))
        return answers

    def docora_picks_up(self, status: str, answer: Answer) -> bool:
        """Tells whether Docora puts a link with this status and this job to work by itself.

        Its scheduler queues pending links.
        """
        is_pending = status == LinkStatus.PENDING_SNAPSHOT
        return is_pending and answer.state is not JobState.UNREADABLE

    def count_workers(self) -> int:
        """Counts the live workers; if the user may not list clients, 1 stands for all."""
        with redis_errors(self._client):
            return len(self._reader.workers())

    def read_other(self) -> OtherQueue:
        """Tells whether RQ's queue holds jobs, and whether a worker of RQ listens on it."""
        return read_use(self._settings, self._client)

    def read_suspension(self) -> Suspension | None:
        """Returns the suspension if the queue is paused."""
        with redis_errors(self._client):
            return self._reader.read_suspension()

    def health(self) -> QueueHealth:
        """Reads what `doctor` checks."""
        with redis_errors(self._client):
            health = self._reader.health()
        to_remove_others = command_to_remove_jobs(self._settings)
        return replace(health, other=self.read_other(), to_remove_others=to_remove_others)

    def overview(self, limit: int) -> QueueOverview:
        """Reads the counts, the workers and the first `limit` jobs."""
        with redis_errors(self._client):
            return replace(self._reader.overview(limit), backend_source=self.choice.source)

    def job(self, job_id: str) -> JobRecord:
        """Reads all that BullMQ has of one job."""
        with redis_errors(self._client):
            return self._reader.job(job_id)

    def pages_of_jobs(self) -> Iterator[tuple[list[str], bool]]:
        """Yields the ids of all jobs, some thousand at a time.

        The flag tells whether they are to be run or have failed. An id may come twice.
        """
        with redis_errors(self._client):
            yield from self._reader.pages_of_jobs()

    def made_for_links(self, job_ids: Collection[str]) -> set[str]:
        """Returns the ids that are made of the ids of a link."""
        return {job_id for job_id in job_ids if ids_of_job(job_id)}
