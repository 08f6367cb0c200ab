"""Reads Docora's own queue in the key layout of BullMQ 5. Writes nothing."""

import json
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, cast

from redis import Redis
from redis.client import Pipeline
from redis.exceptions import NoPermissionError

from docora_ops.jobs import (
    BULLMQ_PREFIX,
    MOST_SEARCHED,
    QUEUE_NAME,
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
from docora_ops.links import ids_of_job
from docora_ops.queue.redis_client import answers_of, server_time
from docora_ops.queue.values import (
    moment_of_timestamp,
    optional_text_of,
    text_of,
    whole_number,
)

_WORKER_NAME = f"{BULLMQ_PREFIX}:{b64encode(QUEUE_NAME.encode()).decode()}"
_LISTS = ("wait", "paused", "active")
_SETS = ("delayed", "prioritized", "waiting-children", "failed", "completed")
_OVER = ("completed",)
_ENDED = ("completed", "failed")
_PAGE = 5000
_PER_MILLISECOND = 0x1000
"""The score of a delayed job counts so many steps for each millisecond."""
_JOB_FIELDS = ("name", "data", "timestamp", "processedOn", "ats", "opts")
_LEAST_WAITING = 20
"""Jobs at the head that are compared for the oldest: BullMQ puts stalled jobs there."""
_RECORD_FIELDS = (
    *("timestamp", "processedOn", "finishedOn", "pb", "opts", "atm"),
    "failedReason",
)


class BullmqReader:
    """Reads one queue of BullMQ. Errors of the Redis client are not translated."""

    prefix = f"{BULLMQ_PREFIX}:{QUEUE_NAME}:"
    """The beginning of all keys of the queue."""

    def __init__(self, client: Redis) -> None:
        self._client = client

    @property
    def traces(self) -> list[str]:
        """The keys one of which exists if the queue has ever held a job.

        Not `meta`, which Docora's API writes for its dashboard, also with `RUN_MODE=api`.
        """
        return [self.prefix + name for name in ("id", "events", *_LISTS, *_SETS)]

    def first_waiting(self, most: int) -> list[bytes]:
        """Returns the ids of at most `most` jobs that wait, the latest ones."""
        pipeline = self._pipeline()
        for name in ("wait", "paused"):
            pipeline.lrange(self.prefix + name, 0, most - 1)
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
        """Returns the live workers of this database of Redis.

        One stands for all if the user may not list clients.

        Each worker gives one of its connections the name of the queue, and its own name if any.
        Without the list of clients, a worker that runs no job is seen most of the time, and a
        killed one for another 30 s.
        """
        try:
            clients = self._client.client_list()
        except NoPermissionError:
            clients = None
        return self.workers_among(clients)

    def workers_among(self, clients: Sequence[Mapping[str, str]] | None) -> list[Worker]:
        """Returns the workers among the clients of Redis; None: the user may not list them."""
        if clients is None:
            return [_worker("at least one")] if self._is_worked_on() else []
        database = str(self._client.connection_pool.connection_kwargs.get("db", 0))
        found = []
        for client in clients:
            name, _, own_name = client.get("name", "").partition(":w:")
            if name == _WORKER_NAME and client.get("db") == database:
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
        version = optional_text_of(meta.get(b"version")) or ""
        return QueueHealth(
            waiting=overview.waiting,
            oldest_waits_for=overview.oldest_waiting_seconds,
            workers=len(overview.workers),
            suspension=overview.suspension,
            bullmq_version=version if meta else None,
            active=len(active),
            delayed=overview.delayed,
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
        read = max(limit, _LEAST_WAITING)
        # The next job is at the end of each list.
        pipeline.lrange(self.prefix + "wait", -read, -1)
        pipeline.lrange(self.prefix + "paused", -read, -1)
        pipeline.zrange(self.prefix + "prioritized", 0, read - 1)
        pipeline.lrange(self.prefix + "active", -limit, -1)
        pipeline.zrange(self.prefix + "delayed", 0, limit - 1, withscores=True)
        pipeline.hget(self.prefix + "meta", "paused")
        *counts, wait, paused, prioritized, active, due, is_paused = pipeline.execute()
        count = dict(zip((*_LISTS, *_SETS), counts, strict=True))
        first = self._jobs([*reversed(wait), *reversed(paused), *prioritized], "waiting")
        due_at = {job_id: moment_of_timestamp(_due(score)) for job_id, score in due}
        locked = self._locked(active)
        running = self._jobs(active[::-1], "active")
        jobs = [
            *(
                job if job.job_id.encode() in locked else replace(job, status="abandoned")
                for job in running
            ),
            *first[:limit],
            *self._jobs(list(due_at), "delayed", list(due_at.values())),
        ]
        oldest = None
        # The list is in order of time behind its first jobs, the other set is not.
        if count["prioritized"] <= read and all(job.enqueued_at for job in first):
            oldest = min((job.enqueued_at for job in first if job.enqueued_at), default=None)
        suspension = _suspension(is_paused)
        return QueueOverview(
            backend=Backend.BULLMQ,
            waiting=sum(count[name] for name in ("wait", "paused", *_SETS[1:3])),
            active=count["active"],
            completed_jobs=count["completed"],
            failed_jobs=count["failed"],
            delayed=count["delayed"],
            queue_name=QUEUE_NAME,
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
        rows = [row or [None] * len(_JOB_FIELDS) for row in answers_of(pipeline)]
        jobs = []
        for index, (job_id, row) in enumerate(zip(job_ids, rows, strict=True)):
            name, data, created, began, tries, options = row
            # A job that was tried or delayed has waited for less time than it exists.
            was_moved = (whole_number(tries) or 0) > 0 or bool(_object_of(options).get("delay"))
            call = _object_of(data)
            app_id, repository_id = ids_of_job(text_of(job_id)) or (None, None)
            owner, repository = call.get("owner"), call.get("name")
            jobs.append(
                QueuedJob(
                    job_id=text_of(job_id),
                    status=status,
                    name=optional_text_of(name),
                    app_id=app_id,
                    app_name=str(call["app_name"]) if "app_name" in call else None,
                    repository_id=repository_id,
                    repository_name=f"{owner}/{repository}" if owner and repository else None,
                    created_at=_moment(created),
                    processed_at=_moment(began) if status == "active" else None,
                    enqueued_at=_moment(created) if status == "waiting" and not was_moved else None,
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
            pipeline.lpos(self.prefix + name, job_id, rank=-1, maxlen=MOST_SEARCHED)
            pipeline.llen(self.prefix + name)
        for name in _SETS:
            pipeline.zscore(self.prefix + name, job_id)
        pipeline.exists(key + ":lock")
        row, *found, locked = answers_of(pipeline)
        in_lists, scores = found[: 2 * len(_LISTS)], found[2 * len(_LISTS) :]
        places = [
            JobPlace(name, QUEUE_NAME, position=length - index)
            for name, index, length in zip(_LISTS, in_lists[::2], in_lists[1::2], strict=True)
            if index is not None
        ]
        places += [
            JobPlace(
                name,
                QUEUE_NAME,
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
        status = places[0].where if places else "wait"
        if status == "active" and not locked:
            status = "active, stalled"
        return JobRecord(
            status=status if exists else None,
            origin=QUEUE_NAME if exists else None,
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
        """Yields the ids of all jobs, and whether they are to be run.

        BullMQ keeps failed jobs of deleted links, and nobody removes them.
        """
        for name in (*_LISTS, *_SETS):
            key, start = self.prefix + name, 0
            read = self._client.lrange if name in _LISTS else self._client.zrange
            while ids := cast("list[bytes]", read(key, start, start + _PAGE - 1)):
                start += len(ids)
                yield [text_of(each) for each in ids], name not in _ENDED

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
