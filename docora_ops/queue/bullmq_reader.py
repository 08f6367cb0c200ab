"""Reads Docora's own queue in the key layout of BullMQ 5. Writes nothing."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, cast

from redis import Redis
from redis.client import Pipeline
from redis.exceptions import NoPermissionError

from docora_ops.jobs import (
    Backend,
    JobFailure,
    JobPlace,
    JobRecord,
    OtherQueue,
    QueuedJob,
    QueueHealth,
    QueueOverview,
    Suspension,
    Worker,
)
from docora_ops.queue.redis_client import answers_of, redis_errors, server_time
from docora_ops.queue.values import (
    command_to_delete,
    literal,
    moment_of_timestamp,
    optional_text_of,
    text_of,
    whole_number,
)
from docora_ops.settings import Settings

_QUEUE_OF_DOCORA = "snapshot-queue"
_LISTS = ("wait", "paused", "active")
_SETS = ("delayed", "prioritized", "waiting-children", "failed", "completed")
_OVER = ("completed",)
_PAGE = 5000
_PER_MILLISECOND = 0x1000
"""The score of a delayed job counts so many steps for each millisecond."""
_JOB_FIELDS = ("name", "data", "timestamp", "processedOn")
_RECORD_FIELDS = (
    *("timestamp", "processedOn", "finishedOn", "pb", "opts", "atm"),
    "failedReason",
)


def read_use(settings: Settings, client: Redis) -> OtherQueue:
    """Tells for an installation with RQ whether BullMQ is in use beside it. Raises RedisError."""
    with redis_errors(client):
        return BullmqReader(settings, client, _QUEUE_OF_DOCORA).use()


def command_to_remove_jobs(settings: Settings) -> str:
    """Returns the shell command that removes Docora's own queue."""
    return command_to_delete(f"{literal(settings.bullmq_prefix)}:{_QUEUE_OF_DOCORA}:*")


class BullmqReader:
    """Reads one queue of BullMQ. Errors of the Redis client are not translated."""

    def __init__(self, settings: Settings, client: Redis, queue: str | None = None) -> None:
        self._client = client
        self._queue = queue or settings.queue_name
        base = f"{settings.bullmq_prefix}:"
        self.prefix = f"{base}{self._queue}:"
        """The beginning of all keys of the queue."""
        self._worker_name = base + b64encode(self._queue.encode()).decode()

    def read_list(self, most: int | None = None) -> list[bytes]:
        """Returns the ids of the jobs that wait, in order of their turn from the end.

        `most`: reads only so many of each list, from its beginning.
        """
        pipeline = self._pipeline()
        for name in ("wait", "paused"):
            pipeline.lrange(self.prefix + name, 0, most - 1 if most else -1)
        wait, paused = pipeline.execute()
        return [*wait, *paused][:most]

    def use(self) -> OtherQueue:
        """Tells whether the queue holds jobs, and whether a worker runs."""
        if self.workers():
            return OtherQueue.WORKED_ON
        names = ("wait", "paused", "active", "delayed", "prioritized")
        jobs = (self.prefix + name for name in names)
        return OtherQueue.LEFT_JOBS if self._client.exists(*jobs) else OtherQueue.UNUSED

    def workers(self) -> list[Worker]:
        """Returns the live workers; one stands for all if the user may not list clients.

        Each worker gives one of its connections the name of the queue, and its own name if any.
        Without the list of clients, a worker that runs no job is seen most of the time, and a
        killed one for another 30 s.
        """
        try:
            clients = self._client.client_list()
        except NoPermissionError:
            return [_worker("at least one")] if self._is_worked_on() else []
        found = []
        for client in clients:
            name, _, own_name = client.get("name", "").partition(":w:")
            if name == self._worker_name:
                address = client.get("addr", "")
                found.append(_worker(own_name or address, address.rpartition(":")[0]))
        return found

    def _is_worked_on(self) -> bool:
        active = cast("list[bytes]", self._client.lrange(self.prefix + "active", 0, 99))
        locks = [self._lock(job_id) for job_id in active]
        # A worker renews its locks each 15 seconds, and sets the other key each 30.
        return bool(self._client.exists(self.prefix + "stalled-check", *locks))

    def _lock(self, job_id: bytes) -> str:
        return f"{self.prefix}{text_of(job_id)}:lock"

    def read_suspension(self) -> Suspension | None:
        """Returns the suspension if the queue is paused."""
        paused = cast("bytes | None", self._client.hget(self.prefix + "meta", "paused"))
        return _suspension(paused)

    def health(self) -> QueueHealth:
        """Reads what `doctor` checks."""
        overview = self.overview(1)
        active = self._active()
        unlocked = set(active) - self._locked(active)
        if unlocked:
            unlocked.intersection_update(self._active())  # without jobs that ended meanwhile
        meta = cast("dict[bytes, bytes]", self._client.hgetall(self.prefix + "meta"))
        version = optional_text_of(meta.get(b"version")) or "an unknown version of BullMQ"
        return QueueHealth(
            waiting=overview.waiting,
            head_waits_for=overview.oldest_waiting_seconds,
            workers=len(overview.workers),
            suspension=overview.suspension,
            bullmq_version=version if meta else None,
            active=len(active),
            stalled=len(unlocked),
        )

    def _locked(self, job_ids: Sequence[bytes]) -> set[bytes]:
        """Returns the ids of the jobs whose locks a worker renews."""
        pipeline = self._pipeline()
        for job_id in job_ids:
            pipeline.exists(self._lock(job_id))
        found = zip(job_ids, pipeline.execute(), strict=True)
        return {job_id for job_id, is_locked in found if is_locked}

    def _active(self) -> list[bytes]:
        return cast("list[bytes]", self._client.lrange(self.prefix + "active", 0, -1))

    def overview(self, limit: int) -> QueueOverview:
        """Reads the counts, the workers and the first `limit` jobs."""
        now = server_time(self._client)
        pipeline = self._pipeline()
        for name in _LISTS:
            pipeline.llen(self.prefix + name)
        for name in _SETS:
            pipeline.zcard(self.prefix + name)
        # The next job is at the end of each list.
        pipeline.lrange(self.prefix + "wait", -limit, -1)
        pipeline.lrange(self.prefix + "paused", -limit, -1)
        pipeline.zrange(self.prefix + "prioritized", 0, limit - 1)
        pipeline.lrange(self.prefix + "active", -limit, -1)
        pipeline.zrange(self.prefix + "delayed", 0, limit - 1, withscores=True)
        pipeline.hget(self.prefix + "meta", "paused")
        *counts, wait, paused, prioritized, active, due, is_paused = pipeline.execute()
        count = dict(zip((*_LISTS, *_SETS), counts, strict=True))
        waiting = [*reversed(wait), *reversed(paused), *prioritized][:limit]
        first = self._jobs(waiting, "waiting")
        due_at = {job_id: moment_of_timestamp(_due(score)) for job_id, score in due}
        locked = self._locked(active)
        running = self._jobs(active[::-1], "active")
        jobs = [
            *(
                job if job.id.encode() in locked else replace(job, status="abandoned")
                for job in running
            ),
            *first,
            *self._jobs(list(due_at), "delayed", list(due_at.values())),
        ]
        oldest = min(filter(None, (job.created_at for job in first)), default=None)
        suspension = _suspension(is_paused)
        return QueueOverview(
            backend=Backend.BULLMQ,
            waiting=sum(count[name] for name in ("wait", "paused", *_SETS[1:3])),
            active=count["active"],
            completed=count["completed"],
            failed=count["failed"],
            delayed=count["delayed"],
            queue=self._queue,
            oldest_waiting_at=oldest,
            oldest_waiting_seconds=max(0, int(now - oldest.timestamp())) if oldest else None,
            suspended=suspension is not None,
            suspension=suspension,
            workers=self.workers(),
            scheduler=None,
            jobs=jobs[:limit],
        )

    def _jobs(
        self, job_ids: Sequence[bytes], status: str, due_at: Sequence[datetime | None] = ()
    ) -> list[QueuedJob]:
        pipeline = self._pipeline()
        for job_id in job_ids:
            pipeline.hmget(self.prefix + text_of(job_id), list(_JOB_FIELDS))
        jobs = []
        for index, (job_id, row) in enumerate(zip(job_ids, answers_of(pipeline), strict=True)):
            name, data, created, began = row or [None] * len(_JOB_FIELDS)
            call = _object_of(data)
            owner, repository = call.get("owner"), call.get("name")
            created_at = _moment(created)
            jobs.append(
                QueuedJob(
                    id=text_of(job_id),
                    status=status,
                    name=optional_text_of(name),
                    app_name=str(call["app_name"]) if "app_name" in call else None,
                    repository_name=f"{owner}/{repository}" if owner and repository else None,
                    created_at=created_at,
                    processed_on=_moment(began) if status == "active" else None,
                    enqueued_at=created_at,
                    due_at=due_at[index] if due_at else None,
                )
            )
        return jobs

    def job(self, job_id: str) -> JobRecord:
        """Reads all that BullMQ has of one job."""
        key = self.prefix + job_id
        pipeline = self._pipeline()
        pipeline.hmget(key, list(_RECORD_FIELDS))
        for name in _LISTS:
            pipeline.lpos(self.prefix + name, job_id, rank=-1)
            pipeline.llen(self.prefix + name)
        for name in _SETS:
            pipeline.zscore(self.prefix + name, job_id)
        pipeline.exists(key + ":lock")
        row, *found, locked = answers_of(pipeline)
        in_lists, scores = found[: 2 * len(_LISTS)], found[2 * len(_LISTS) :]
        places = [
            JobPlace(name, self._queue, position=length - index)
            for name, index, length in zip(_LISTS, in_lists[::2], in_lists[1::2], strict=True)
            if index is not None
        ]
        places += [
            JobPlace(
                name,
                self._queue,
                score_at=moment_of_timestamp(_due(score)) if name == "delayed" else None,
            )
            for name, score in zip(_SETS, scores, strict=True)
            if score is not None
        ]
        fields = dict(zip(_RECORD_FIELDS, row or [None] * len(_RECORD_FIELDS), strict=True))
        worker = optional_text_of(fields["pb"])
        attempts = whole_number(fields["atm"])
        allowed = _object_of(fields["opts"]).get("attempts")
        exists = fields["timestamp"] is not None
        # A job that has succeeded at last keeps the text of its last failure.
        is_over = any(place.where in _OVER for place in places)
        is_ended = is_over or any(place.where == "failed" for place in places)
        reason = None if is_over else optional_text_of(fields["failedReason"])
        ended_at = _moment(fields["finishedOn"])
        status = places[0].where if places else None
        if status == "active" and not locked:
            status = "active, stalled"
        return JobRecord(
            status=status if exists else None,
            origin=self._queue if exists else None,
            created_at=_moment(fields["timestamp"]),
            enqueued_at=None,
            started_at=_moment(fields["processedOn"]),
            ended_at=ended_at,
            attempts=(attempts or 0) if exists else None,
            retries_left=max(0, allowed - (attempts or 0))
            if isinstance(allowed, int) and not is_ended
            else None,
            worker=worker,
            expires_in=None,
            places=places,
            last_failure=JobFailure(ended_at, worker, reason) if reason else None,
        )

    def pages_of_jobs(self) -> Iterator[tuple[list[str], bool]]:
        """Yields the ids of all jobs, and whether they are to be run or have failed."""
        for name in (*_LISTS, *_SETS):
            key, start = self.prefix + name, 0
            read = self._client.lrange if name in _LISTS else self._client.zrange
            while ids := cast("list[bytes]", read(key, start, start + _PAGE - 1)):
                start += len(ids)
                yield [text_of(each) for each in ids], name not in _OVER

    def _pipeline(self) -> Pipeline:
        return self._client.pipeline(transaction=False)


def _worker(name: str, host: str = "") -> Worker:
    return Worker(name, None, host or None, None, None, alive=True, jobs=[])


def _suspension(paused: bytes | None) -> Suspension | None:
    return Suspension(None, None, None, None, "the BullMQ queue is paused") if paused else None


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
