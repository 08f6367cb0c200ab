"""The RQ queue that the jobs of links stand in, for a Docora whose workers are RQ's."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING

from redis import Redis
from rq.registry import FailedJobRegistry

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
from docora_ops.links import Outcome, batches
from docora_ops.queue.audit_stream import AuditEntry
from docora_ops.queue.backend import count_rq_workers, read_bullmq_use
from docora_ops.queue.job_template import JobTemplate
from docora_ops.queue.link_queue import Answer, LinkQueue, PushRequest
from docora_ops.queue.progress import EXPIRY, links_key
from docora_ops.queue.redis_client import redis_errors, text_of
from docora_ops.queue.scripts import LIST, JobScript, registry_key
from docora_ops.queue.suspension import read_suspension
from docora_ops.settings import Settings

if TYPE_CHECKING:
    from docora_ops.queue.rq_reader import RqReader
    from docora_ops.queue.sweep import QueueSweep


class RqQueue(LinkQueue):
    """The RQ queue that the jobs of links stand in. All calls raise RedisError."""

    backend = Backend.RQ

    def __init__(
        self, settings: Settings, client: Redis, choice: BackendChoice | None = None
    ) -> None:
        super().__init__(settings, client, choice)
        self._script = JobScript(client, "look_and_push.lua")

    def sample(self, count: int) -> list[str]:
        """Returns the ids of at most `count` jobs that wait or have failed."""
        with redis_errors(self._client), self._client.pipeline(transaction=False) as pipeline:
            pipeline.lrange(LIST, 0, count - 1)
            pipeline.zrange(registry_key(FailedJobRegistry), 0, count - 1)
            waiting, failed = pipeline.execute()
        return [text_of(each) for each in [*waiting, *failed][:count]]

    def look(self, job_ids: Sequence[str]) -> list[Answer]:
        """Returns the state of each job by its own keys; writes nothing."""
        return list(map(_answer, job_ids, self._script.run("look", job_ids) if job_ids else ()))

    def is_in_place(self, job_id: str) -> bool:
        """Tells whether a waiting job stands where RQ takes it from.

        Searches the queue's list. True for any other job.
        """
        return self._script.run("locate", [job_id]) != ["missing"]

    def prepare(self) -> None:
        """Connects and loads the script before rows are locked."""
        self._script.prepare()

    def push(
        self,
        requests: Sequence[PushRequest],
        *,
        front: bool = False,
        operation_id: str | None = None,
        audit: Mapping[Outcome, AuditEntry] = MappingProxyType({}),
    ) -> list[Answer]:
        """Queues each job unless it is live, and removes finished and stale jobs; see LinkQueue."""
        if not requests:
            return []
        template = self._template
        arguments: list[str | bytes] = []
        for request in requests:
            payload = request.payload
            arguments += (
                request.job_id,
                request.disproved.encode(errors="surrogateescape"),
                template.data(payload, is_rescan=request.is_rescan) if payload else b"",
                payload.description if payload else b"",
                bytes.fromhex(request.row_id.replace("-", "")),
            )
        replies = self._script.run(
            "push",
            arguments,
            rows_locked=True,
            front=front,
            fields=template.fields,
            links_key=operation_id and links_key(operation_id),
            links_expiry=EXPIRY,
            audit={word: audit[each].xadd for word, each in _AUDITED.items() if each in audit},
        )
        return [
            replace(_answer(request.job_id, reply), outcome=_OUTCOMES.get(reply))
            for request, reply in zip(requests, replies, strict=True)
        ]

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
        return self._reader.health(self.read_other())

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
        from docora_ops.queue.sweep import TO_RUN_OR_FAILED

        for place, job_ids in self.sweep.read().by_place.items():
            for page in batches(list(job_ids), 5000):
                yield list(page), place in TO_RUN_OR_FAILED

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
    "delayed": Outcome.ALREADY_QUEUED,
}
_AUDITED = {**_OUTCOMES, "none": Outcome.NOT_QUEUED}


def _answer(job_id: str, reply: str) -> Answer:
    word, _, reason = reply.partition(":")
    state = JobState.WAITING if word in _OUTCOMES else JobState(word)
    return Answer(job_id, state, reason, is_delayed=word == "delayed")
