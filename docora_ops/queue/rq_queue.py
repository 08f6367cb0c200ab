"""The RQ queue that the jobs of links stand in, for a Docora whose workers are RQ's."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING

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
from docora_ops.links import Outcome
from docora_ops.pages import batches
from docora_ops.queue.audit_stream import AuditEntry
from docora_ops.queue.backend import TO_REMOVE_BULLMQ_JOBS, count_rq_workers, read_bullmq_use
from docora_ops.queue.job_template import JobTemplate
from docora_ops.queue.link_queue import Answer, LinkQueue, PushRequest
from docora_ops.queue.progress import EXPIRY, links_key
from docora_ops.queue.scripts import JobScript
from docora_ops.queue.suspension import read_suspension
from docora_ops.queue.waiting_list import LIST_NOT_READ, ExpiredExecutions, WaitingList
from docora_ops.settings import Settings

if TYPE_CHECKING:
    from docora_ops.queue.rq_reader import RqReader
    from docora_ops.queue.sweep import QueueSweep

_LONG_LIST = 20_000
_AT_ONCE_IN_LONG_LIST = 50
"""Jobs of one call of the script, which walks over the list to find each and to move some."""


class RqQueue(LinkQueue):
    """The RQ queue that the jobs of links stand in. All calls raise RedisError."""

    backend = Backend.RQ

    def __init__(
        self, settings: Settings, client: Redis, choice: BackendChoice | None = None
    ) -> None:
        super().__init__(settings, client, choice)
        self._script = JobScript(client, "look_and_push.lua")

    def read_waiting(self) -> WaitingList:
        """Reads the ids in the queue's list."""
        return self._script.read_waiting()

    def sample(self, count: int) -> list[str]:
        """Returns the ids of at most `count` jobs that wait or, with RQ, have failed."""
        return self._script.sample(count)

    def read_expired(self) -> ExpiredExecutions:
        """Reads the expired executions, before rows are locked: there may be many."""
        return self._script.read_expired()

    def look(
        self,
        job_ids: Sequence[str],
        *,
        waiting: WaitingList | None = None,
        expired: ExpiredExecutions | None = None,
        detailed: bool = False,
        by_status: bool = False,
        rows_locked: bool = False,
    ) -> list[Answer]:
        """Returns the state of each job; writes nothing.

        `waiting`: the list as read before; without it each id is searched. `expired`: the expired
        executions as read before, if `waiting` is not given. `detailed`: tells a finished and
        a stale job from none. `by_status`: believes RQ's status and searches no list.
        `rows_locked`: Redis has 4 s.
        """
        if not job_ids:
            return []
        arguments: list[str | int] = []
        for job_id in job_ids:
            arguments += (job_id, waiting.hint(job_id) if waiting else LIST_NOT_READ)
        replies = self._script.run(
            "look",
            job_ids,
            arguments,
            waiting,
            expired=expired,
            rows_locked=rows_locked,
            detailed=detailed,
            by_status=by_status,
        )
        return list(map(_answer, job_ids, replies))

    def prepare(self) -> None:
        """Connects and loads the script before rows are locked."""
        self._script.prepare()

    def push(
        self,
        requests: Sequence[PushRequest],
        *,
        waiting: WaitingList | None = None,
        expired: ExpiredExecutions | None = None,
        front: bool = False,
        operation_id: str | None = None,
        audit: Mapping[Outcome, AuditEntry] = MappingProxyType({}),
    ) -> list[Answer]:
        """Queues each job unless it is live, and removes finished and stale jobs, in turn.

        Each job is handled atomically: all at once or, in a long list, some at a time.
        Called with the rows locked: Redis has 4 s. A waiting job is kept for good. A running,
        doubtful or unreadable job is left alone, and its answer has no outcome. `front`: pushes
        each job to the head, so that the last one is the first, and moves a waiting job there,
        too, unless it is delayed, in another queue or just taken. `operation_id`: the operation
        that keeps the row ids of the links whose jobs wait now. `audit`: audit entries by outcome,
        `FAILED` for a job that was to be confirmed and is not live; the first outcome that is among
        them writes its entry.
        """
        template = self._template
        entries = {word: audit[each].xadd for word, each in _AUDITED.items() if each in audit}
        answers: list[Answer] = []
        is_long = waiting is not None and waiting.length > _LONG_LIST
        for some in batches(requests, _AT_ONCE_IN_LONG_LIST if is_long else len(requests) or 1):
            arguments: list[str | int | bytes] = []
            for request in some:
                payload = request.payload
                arguments += (
                    request.job_id,
                    waiting.hint(request.job_id)
                    if waiting and not request.is_repeated
                    else LIST_NOT_READ,
                    request.seen.encode(errors="surrogateescape"),
                    template.data(payload, is_rescan=request.is_rescan) if payload else b"",
                    payload.description if payload else b"",
                    bytes.fromhex(request.row_id.replace("-", "")),
                )
            job_ids = [request.job_id for request in some]
            replies = self._script.run(
                "push",
                job_ids,
                arguments,
                waiting,
                expired=expired,
                rows_locked=True,
                front=front,
                fields=template.fields,
                links_key=operation_id and links_key(operation_id),
                links_expiry=EXPIRY,
                audit=entries,
            )
            if not entries.keys().isdisjoint(reply.partition(":")[0] for reply in replies):
                entries = {}  # one of them is written
            pushed = list(map(_answer, job_ids, replies))
            answers += pushed
            if front and waiting:
                waiting.note_pushed_to_head(
                    each.job_id for each in pushed if each.outcome and not each.is_delayed
                )
        return answers

    def count_workers(self) -> int:
        """Counts the live workers that listen on the queue."""
        return count_rq_workers(self._client)

    def read_other(self) -> OtherQueue:
        """Tells whether Docora's own queue holds jobs, and whether a BullMQ worker runs."""
        return read_bullmq_use(self._client)

    def read_suspension(self) -> Suspension | None:
        """Returns the order to all workers to take no jobs, if there is one."""
        return read_suspension(self._client)

    def health(self) -> QueueHealth:
        """Reads what `doctor` checks."""
        health = self._reader.health(self.count_workers(), self.read_other())
        return replace(health, to_remove_others=TO_REMOVE_BULLMQ_JOBS)

    def overview(self, limit: int) -> QueueOverview:
        """Reads the counts, the workers, the scheduler and the first `limit` jobs."""
        return replace(self._reader.overview(limit), backend_source=self.choice.source)

    def job(self, job_id: str) -> JobRecord:
        """Reads all that RQ has of one job."""
        return self._reader.job(job_id)

    def pages_of_jobs(self) -> Iterator[tuple[list[str], bool]]:
        """Yields the ids of all jobs, some thousand at a time.

        The flag tells whether they are to be run or have failed. An id may come twice.
        """
        from docora_ops.queue.sweep import TO_RUN_OR_FAILED, Place

        for place in Place:
            for page in self.sweep.pages(place):
                yield page, place in TO_RUN_OR_FAILED

    def made_for_links(self, job_ids: Collection[str]) -> set[str]:
        """Returns the ids of jobs that call our function with the ids of a link."""
        return self.sweep.made_for_links(job_ids)

    @cached_property
    def sweep(self) -> QueueSweep:
        """Finds and removes entries of the whole queue."""
        from docora_ops.queue.sweep import QueueSweep  # seldom needed

        return QueueSweep(self._client)

    @cached_property
    def _reader(self) -> RqReader:
        from docora_ops.queue.rq_reader import RqReader  # seldom needed

        return RqReader(self._client)

    @cached_property
    def _template(self) -> JobTemplate:
        return JobTemplate(self._settings, self._client)


_OUTCOMES = {
    "queued": Outcome.QUEUED,
    "replaced_finished": Outcome.QUEUED,
    "replaced_stale": Outcome.REPLACED_STALE,
    "waiting": Outcome.ALREADY_QUEUED,
}
_AUDITED = {**_OUTCOMES, "none": Outcome.NOT_QUEUED}


def _answer(job_id: str, reply: str) -> Answer:
    word, _, detail = reply.partition(":")
    if word in _OUTCOMES:
        return Answer(
            job_id,
            JobState.WAITING,
            _OUTCOMES[word],
            is_delayed=detail == "delayed",
            has_replaced=word.startswith("replaced"),
        )
    if word == JobState.UNREADABLE:
        return Answer(job_id, JobState.UNREADABLE, reason=detail)
    return Answer(job_id, JobState(word), evidence=detail)
