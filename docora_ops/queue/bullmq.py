"""Docora's own queue, which BullMQ 5 keeps: jobs are looked at, and Docora's scheduler queues them.

The scheduler queues each pending link within a minute. A push is a look with the rows locked:
Docora's worker begins a job with a write to the row, so that it waits for our commit.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from importlib.resources import files
from types import MappingProxyType
from typing import Any, cast

from redis import Redis

from docora_ops.jobs import (
    MOST_SEARCHED,
    QUEUE_NAME,
    Backend,
    BackendChoice,
    JobFailure,
    JobPlace,
    JobRecord,
    JobState,
    OtherQueue,
    QueuedJob,
    QueueHealth,
    QueueOverview,
    Suspension,
)
from docora_ops.links import LinkStatus, Outcome, ids_of_job
from docora_ops.queue.audit_stream import AuditEntry
from docora_ops.queue.backend import (
    BULLMQ,
    BULLMQ_LISTS,
    BULLMQ_PLACES,
    BULLMQ_SETS,
    TO_REMOVE_RQ_JOBS,
    bullmq_workers,
    read_rq_use,
)
from docora_ops.queue.link_queue import Answer, LinkQueue, PushRequest
from docora_ops.queue.redis_client import (
    answers_of,
    moment_of_timestamp,
    optional_text_of,
    prepare,
    redis_errors,
    server_time,
    text_of,
    whole_number,
    with_rows_locked,
)
from docora_ops.settings import Settings

_OUTCOMES = {
    JobState.NONE: Outcome.RESET,
    JobState.FINISHED: Outcome.RESET,
    JobState.STALE: Outcome.RESET,
    JobState.WAITING: Outcome.ALREADY_QUEUED,
}
_ENDED = ("completed", "failed")
_PAGE = 5000
_PER_MILLISECOND = 0x1000
"""The score of a delayed job counts so many steps for each millisecond."""
_JOB_FIELDS = ("name", "data", "timestamp", "processedOn", "ats", "opts")
_RECORD_FIELDS = ("timestamp", "processedOn", "finishedOn", "pb", "opts", "atm", "failedReason")
_LEAST_WAITING = 20
"""Jobs at the head that are compared for the oldest: BullMQ puts stalled jobs there."""


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

    def sample(self, count: int) -> list[str]:
        """Returns the ids of at most `count` jobs that wait, the latest ones."""
        with redis_errors(self._client), self._client.pipeline(transaction=False) as pipeline:
            for name in ("wait", "paused"):
                pipeline.lrange(BULLMQ + name, 0, count - 1)
            wait, paused = pipeline.execute()
        return [text_of(each) for each in [*wait, *paused][:count]]

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
        arguments = [json.dumps({"prefix": BULLMQ, "audit": dict(audit)}), *job_ids]
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
            return len(bullmq_workers(self._client))

    def read_other(self) -> OtherQueue:
        """Tells whether RQ's queue holds jobs, and whether a worker of RQ listens on it."""
        return read_rq_use(self._client)

    def read_suspension(self) -> Suspension | None:
        """Returns the suspension if the queue is paused."""
        with redis_errors(self._client):
            is_paused = self._client.hget(f"{BULLMQ}meta", "paused")
        return _SUSPENSION if is_paused else None

    def health(self) -> QueueHealth:
        """Reads what `doctor` checks."""
        overview = self.overview(1)
        with redis_errors(self._client):
            active = self._active()
            meta = cast("dict[bytes, bytes]", self._client.hgetall(f"{BULLMQ}meta"))
        return QueueHealth(
            waiting=overview.waiting,
            oldest_waits_for=overview.oldest_waiting_seconds,
            workers=len(overview.workers),
            suspension=overview.suspension,
            bullmq_version=text_of(meta.get(b"version", b"")) if meta else None,
            active=len(active),
            delayed=overview.delayed,
            other=self.read_other(),
            to_remove_others=TO_REMOVE_RQ_JOBS,
        )

    def _active(self) -> list[bytes]:
        return cast("list[bytes]", self._client.lrange(f"{BULLMQ}active", 0, -1))

    def _locked(self, job_ids: Sequence[bytes]) -> set[bytes]:
        """Returns the ids of the jobs whose locks a worker renews."""
        pipeline = self._client.pipeline(transaction=False)
        for job_id in job_ids:
            pipeline.exists(f"{BULLMQ}{text_of(job_id)}:lock")
        found = zip(job_ids, pipeline.execute(), strict=True)
        return {job_id for job_id, is_locked in found if is_locked}

    def overview(self, limit: int) -> QueueOverview:
        """Reads the counts, the workers and the first `limit` jobs."""
        with redis_errors(self._client):
            return self._overview(limit)

    def _overview(self, limit: int) -> QueueOverview:
        now = server_time(self._client)
        pipeline = self._client.pipeline(transaction=False)
        for name in BULLMQ_LISTS:
            pipeline.llen(BULLMQ + name)
        for name in BULLMQ_SETS:
            pipeline.zcard(BULLMQ + name)
        read = max(limit, _LEAST_WAITING)
        # The next job is at the end of each list.
        pipeline.lrange(f"{BULLMQ}wait", -read, -1)
        pipeline.lrange(f"{BULLMQ}paused", -read, -1)
        pipeline.zrange(f"{BULLMQ}prioritized", 0, read - 1)
        pipeline.lrange(f"{BULLMQ}active", -limit, -1)
        pipeline.zrange(f"{BULLMQ}delayed", 0, limit - 1, withscores=True)
        *counts, wait, paused, prioritized, active, due = pipeline.execute()
        count = dict(zip(BULLMQ_PLACES, counts, strict=True))
        first = self._jobs([*reversed(wait), *reversed(paused), *prioritized], "waiting")
        due_at = [moment_of_timestamp(_due(score)) for _, score in due]
        delayed = self._jobs([job_id for job_id, _ in due], "delayed")
        locked = self._locked(active)
        jobs = [
            *(
                job if job.job_id.encode() in locked else replace(job, status="abandoned")
                for job in self._jobs(active[::-1], "active")
            ),
            *first[:limit],
            *(replace(job, due_at=at) for job, at in zip(delayed, due_at, strict=True)),
        ]
        oldest = None
        # The list is in order of time behind its first jobs, the other set is not.
        if count["prioritized"] <= read and all(job.enqueued_at for job in first):
            oldest = min((job.enqueued_at for job in first if job.enqueued_at), default=None)
        suspension = self.read_suspension()
        return QueueOverview(
            backend=Backend.BULLMQ,
            waiting=sum(count[name] for name in ("wait", "paused", *BULLMQ_SETS[1:3])),
            active=count["active"],
            completed_jobs=count["completed"],
            failed_jobs=count["failed"],
            delayed=count["delayed"],
            queue_name=QUEUE_NAME,
            oldest_waiting_at=oldest,
            oldest_waiting_seconds=max(0, int(now - oldest.timestamp())) if oldest else None,
            suspended=suspension is not None,
            suspension=suspension,
            workers=bullmq_workers(self._client),
            scheduler=None,
            jobs=jobs[:limit],
            backend_source=self.choice.source,
        )

    def _jobs(self, job_ids: Sequence[bytes], status: str) -> list[QueuedJob]:
        pipeline = self._client.pipeline(transaction=False)
        for each in job_ids:
            pipeline.hmget(BULLMQ + text_of(each), list(_JOB_FIELDS))
        rows = [row or [None] * len(_JOB_FIELDS) for row in answers_of(pipeline)]
        jobs = []
        for member, row in zip(job_ids, rows, strict=True):
            name, data, created, began, tries, options = row
            # A job that was tried or delayed has waited for less time than it exists.
            was_moved = (whole_number(tries) or 0) > 0 or bool(_object_of(options).get("delay"))
            call, job_id = _object_of(data), text_of(member)
            app_id, repository_id = ids_of_job(job_id) or (None, None)
            owner, repository = call.get("owner"), call.get("name")
            jobs.append(
                QueuedJob(
                    job_id=job_id,
                    status=status,
                    name=optional_text_of(name),
                    app_id=app_id,
                    app_name=str(call["app_name"]) if "app_name" in call else None,
                    repository_id=repository_id,
                    repository_name=f"{owner}/{repository}" if owner and repository else None,
                    created_at=_moment(created),
                    processed_at=_moment(began) if status == "active" else None,
                    enqueued_at=_moment(created) if status == "waiting" and not was_moved else None,
                )
            )
        return jobs

    def job(self, job_id: str) -> JobRecord:
        """Reads all that BullMQ has of one job."""
        key = BULLMQ + job_id
        pipeline = self._client.pipeline(transaction=False)
        pipeline.hmget(key, list(_RECORD_FIELDS))
        pipeline.exists(f"{key}:lock")
        for name in BULLMQ_LISTS:
            pipeline.lpos(BULLMQ + name, job_id, rank=-1, maxlen=MOST_SEARCHED)
            pipeline.llen(BULLMQ + name)
        for name in BULLMQ_SETS:
            pipeline.zscore(BULLMQ + name, job_id)
        with redis_errors(self._client):
            row, is_locked, *found = answers_of(pipeline)
        in_lists, scores = found[: 2 * len(BULLMQ_LISTS)], found[2 * len(BULLMQ_LISTS) :]
        places = [
            JobPlace(name, QUEUE_NAME, position=length - index)
            for name, index, length in zip(BULLMQ_LISTS, in_lists[::2], in_lists[1::2], strict=True)
            if index is not None
        ]
        for name, score in zip(BULLMQ_SETS, scores, strict=True):
            if score is not None:
                due_at = moment_of_timestamp(_due(score)) if name == "delayed" else None
                places.append(JobPlace(name, QUEUE_NAME, score_at=due_at))
        fields = dict(zip(_RECORD_FIELDS, row or [None] * len(_RECORD_FIELDS), strict=True))
        exists = fields["timestamp"] is not None
        where = [place.where for place in places]
        attempts = whole_number(fields["atm"]) or 0
        allowed = _object_of(fields["opts"]).get("attempts")
        is_ended = not set(_ENDED).isdisjoint(where)
        worker, ended_at = optional_text_of(fields["pb"]), _moment(fields["finishedOn"])
        # A job that has succeeded at last keeps the text of its last failure.
        reason = None if "completed" in where else optional_text_of(fields["failedReason"])
        status = where[0] if where else "wait"
        if status == "active" and not is_locked:
            status = "active, stalled"
        return JobRecord(
            status=status if exists else None,
            origin=QUEUE_NAME if exists else None,
            created_at=_moment(fields["timestamp"]),
            enqueued_at=None,
            started_at=_moment(fields["processedOn"]),
            ended_at=ended_at,
            attempts=attempts if exists else None,
            retries_left=max(0, allowed - attempts)
            if isinstance(allowed, int) and not is_ended
            else None,
            worker=worker,
            expires_in=None,
            places=places,
            last_failure=JobFailure(ended_at, worker, reason) if reason else None,
        )

    def pages_of_jobs(self) -> Iterator[tuple[list[str], bool]]:
        """Yields the ids of all jobs, some thousand at a time, and whether they are to be run.

        BullMQ keeps failed jobs of deleted links, and nobody removes them.
        """
        with redis_errors(self._client):
            for name in BULLMQ_PLACES:
                key, start = BULLMQ + name, 0
                read = self._client.lrange if name in BULLMQ_LISTS else self._client.zrange
                while ids := cast("list[bytes]", read(key, start, start + _PAGE - 1)):
                    start += len(ids)
                    yield [text_of(each) for each in ids], name not in _ENDED

    def made_for_links(self, job_ids: Collection[str]) -> set[str]:
        """Returns the ids that are made of the ids of a link."""
        return {job_id for job_id in job_ids if ids_of_job(job_id)}


_SUSPENSION = Suspension(None, None, None, None, "the BullMQ queue is paused")


def _due(score: float) -> float:
    """Returns the moment in seconds since 1970 that the score of a delayed job stands for."""
    return score / _PER_MILLISECOND / 1000


def _moment(milliseconds: bytes | None) -> datetime | None:
    number = whole_number(milliseconds)
    return None if number is None else moment_of_timestamp(number / 1000)


def _object_of(text: bytes | None) -> dict[str, Any]:
    """Parses a JSON object; returns an empty one for anything else: others may have written it."""
    try:
        found = json.loads(text or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
