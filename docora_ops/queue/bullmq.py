"""Docora's own queue, which BullMQ 5 keeps: jobs are looked at, and Docora's scheduler queues them.

The scheduler queues each pending link within a minute. A push is a look with the rows locked:
Docora's worker begins a job with a write to the row, so that it waits for our commit.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from typing import cast

from redis import Redis

from docora_ops.jobs import (
    QUEUE_NAME,
    RECENT,
    Backend,
    JobFailure,
    JobPlace,
    JobRecord,
    JobState,
    QueuedJob,
    QueueOverview,
)
from docora_ops.links import LinkStatus, Outcome, ids_of_job
from docora_ops.queue.audit_stream import mapping_of
from docora_ops.queue.backend import (
    BULLMQ,
    BULLMQ_LISTS,
    BULLMQ_PLACES,
    BULLMQ_SETS,
    bullmq_workers,
    read_suspension,
)
from docora_ops.queue.link_queue import Answer, LinkQueue, PushRequest, longest_wait
from docora_ops.queue.redis_client import (
    Command,
    moment_of_timestamp,
    optional_text_of,
    read_hashes,
    redis_errors,
    server_time,
    text_of,
    whole_number,
)

_OUTCOMES = {
    JobState.NONE: Outcome.RESET,
    JobState.FINISHED: Outcome.RESET,
    JobState.STALE: Outcome.RESET,
    JobState.WAITING: Outcome.ALREADY_QUEUED,
}
_ENDED = ("completed", "failed")
# BullMQ's words for the states of a job.
_STATUSES = {
    JobState.FINISHED: "completed",
    JobState.STALE: "failed",
    JobState.WAITING: "wait",
    JobState.RUNNING: "active",
}
_LIVE_PLACES = {
    "delayed": "delayed",
    "paused": "waiting",
    "wait": "waiting",
    "active": "active",
}
_PAGE = 5000
_PER_SECOND = 0x1000 * 1000  # steps of a delayed job's score
_JOB_FIELDS = ("name", "data", "timestamp", "processedOn", "ats", "opts")
_RECORD_FIELDS = ("timestamp", "processedOn", "finishedOn", "pb", "opts", "atm", "failedReason")
_LEAST_WAITING = 20  # jobs at the head that are compared: BullMQ puts stalled jobs there


class BullmqQueue(LinkQueue):
    """Docora's own queue. All calls raise RedisError, and none writes to BullMQ's keys."""

    backend = Backend.BULLMQ
    can_push = False
    is_docoras = True
    script_files = ("with_change.lua", "bullmq.lua")

    def sample(self, count: int) -> list[str]:
        pipeline = self._client.pipeline(transaction=False)
        for name in ("wait", "paused"):
            pipeline.lrange(BULLMQ + name, 0, count - 1)
        with redis_errors(self._client):
            wait, paused = pipeline.execute()
        return [text_of(each) for each in [*wait, *paused][:count]]

    def push(
        self,
        requests: Sequence[PushRequest],
        *,
        leaves_waiting: bool = False,
        front: bool = False,  # noqa: ARG002
        changes_links: bool = True,  # noqa: ARG002
        commands: Sequence[Command] = (),
    ) -> list[Answer]:
        """Looks at each job with the rows locked, and writes the commands."""
        if not requests:
            return []
        config = {"leaves_waiting": leaves_waiting, "commands": len(commands), **self.mark_to_leave}
        arguments: list[str | bytes | int] = ["change", json.dumps({"prefix": BULLMQ, **config})]
        for command in commands:
            arguments += (len(command), *command)
        for request in requests:
            arguments += (request.job_id, "queue" if request.payload else "")
        job_ids = [request.job_id for request in requests]
        return list(map(_answer, job_ids, self._script.run(arguments)))

    def look(self, job_ids: Sequence[str]) -> list[Answer]:
        arguments = ["look", json.dumps({"prefix": BULLMQ}), *job_ids]
        return list(map(_answer, job_ids, self._script.run(arguments) if job_ids else ()))

    def docora_picks_up(self, status: str, answer: Answer) -> bool:
        is_pending = status == LinkStatus.PENDING_SNAPSHOT
        return is_pending and answer.state is not JobState.UNREADABLE

    def overview(self, limit: int) -> QueueOverview:
        client, read = self._client, max(limit, _LEAST_WAITING)
        with redis_errors(client):
            now = server_time(client)
            pipeline = client.pipeline(transaction=False)
            for name in BULLMQ_LISTS:
                pipeline.llen(BULLMQ + name)
            for name in BULLMQ_SETS:
                pipeline.zcard(BULLMQ + name)
            # The next job is at the end of each list.
            pipeline.lrange(f"{BULLMQ}wait", -read, -1)
            pipeline.lrange(f"{BULLMQ}paused", -read, -1)
            pipeline.lrange(f"{BULLMQ}active", -read, -1)
            pipeline.zrange(f"{BULLMQ}delayed", 0, read - 1, withscores=True)
            # Docora has BullMQ keep the last 200.
            recently = int((now - RECENT) * 1000), cast("int", "+inf")
            pipeline.zrange(f"{BULLMQ}failed", *recently, byscore=True, offset=0, num=_PAGE)
            pipeline.zrange(f"{BULLMQ}failed", -1, -1, withscores=True)
            *counts, wait, paused, active, due, recent, newest = pipeline.execute()
            first_ids = [*reversed(wait), *reversed(paused)]
            first = self._jobs(first_ids, "waiting")
            delayed = self._jobs([job_id for job_id, _ in due[:limit]], "delayed")
            running = self._jobs(active[::-1][:limit], "active")
            tried = [*first_ids, *active, *(job_id for job_id, _ in due)]  # a next try waits, too
            keys = (BULLMQ + text_of(each) for each in tried)
            begins = [_moment(began) for [began] in read_hashes(client, keys, ["processedOn"])]
            # Each worker holds the locks of its jobs for half a minute at a time.
            locks = [f"{BULLMQ}{text_of(each)}:lock" for each in active]
            live_runs = int(client.exists(*locks)) if locks else 0
            suspension = read_suspension(client, self.backend)
            workers = bullmq_workers(client)
        count = dict(zip(BULLMQ_PLACES, counts, strict=True))
        jobs = [
            *running,
            *first[:limit],
            *(
                replace(job, due_at=moment_of_timestamp(score / _PER_SECOND))
                for job, (_, score) in zip(delayed, due, strict=False)
            ),
        ]
        oldest, seconds = longest_wait(first, now)
        return QueueOverview(
            backend=Backend.BULLMQ,
            waiting=count["wait"] + count["paused"],
            active=count["active"],
            completed_jobs=count["completed"],
            failed_jobs=count["failed"],
            delayed=count["delayed"],
            queue_name=QUEUE_NAME,
            oldest_waiting_at=oldest,
            oldest_waiting_seconds=seconds,
            suspended=suspension is not None,
            suspension=suspension,
            workers=workers,
            scheduler=None,
            jobs=jobs[:limit],
            last_failed_at=moment_of_timestamp(newest[0][1] / 1000) if newest else None,
            backend_source=self.choice.source,
            failed_recently=len(recent),
            live_runs=live_runs,
            last_began_at=max(filter(None, begins), default=None),
        )

    def _jobs(self, job_ids: Sequence[bytes], status: str) -> list[QueuedJob]:
        keys = (BULLMQ + text_of(each) for each in job_ids)
        jobs = []
        for member, row in zip(job_ids, read_hashes(self._client, keys, _JOB_FIELDS), strict=True):
            name, data, created, began, tries, options = row
            # A job that was tried or delayed has waited for less time than it exists.
            was_moved = (whole_number(tries) or 0) > 0 or bool(mapping_of(options).get("delay"))
            call, job_id = mapping_of(data), text_of(member)
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

    def _live_ids(self, prefixes: tuple[str, ...]) -> Iterator[tuple[str, list[str]]]:
        for name, status in _LIVE_PLACES.items():
            ids = [
                job_id
                for page in _pages(self._client, name)
                for job_id in page
                if job_id.startswith(prefixes)
            ]
            # The next job is at the end of each list.
            yield status, ids[::-1] if name in BULLMQ_LISTS else ids

    def _read_jobs(self, job_ids: Sequence[str], status: str) -> list[QueuedJob]:
        jobs = self._jobs([job_id.encode() for job_id in job_ids], status)
        if status != "delayed":
            return jobs
        pipeline = self._client.pipeline(transaction=False)
        for job_id in job_ids:
            pipeline.zscore(f"{BULLMQ}delayed", job_id)
        return [
            replace(job, due_at=None if score is None else moment_of_timestamp(score / _PER_SECOND))
            for job, score in zip(jobs, pipeline.execute(), strict=True)
        ]

    def job(self, job_id: str) -> JobRecord:
        [answer] = self.look([job_id])
        with redis_errors(self._client):
            [row] = read_hashes(self._client, [BULLMQ + job_id], _RECORD_FIELDS)
        created, began, ended, worker, options, tries, reason = row
        exists, attempts = created is not None, whole_number(tries) or 0
        status = "delayed" if answer.is_delayed else _STATUSES.get(answer.state)
        allowed, ended_at = mapping_of(options).get("attempts"), _moment(ended)
        retries_left = None
        if isinstance(allowed, int) and status not in _ENDED:
            retries_left = max(0, allowed - attempts)
        # A job that has succeeded at last keeps the text of its last failure.
        text = None if status == "completed" else optional_text_of(reason)
        return JobRecord(
            status=status if exists else None,
            origin=QUEUE_NAME if exists else None,
            created_at=_moment(created),
            enqueued_at=None,
            started_at=_moment(began),
            ended_at=ended_at,
            attempts=attempts if exists else None,
            retries_left=retries_left,
            worker=optional_text_of(worker),
            expires_in=None,
            places=[JobPlace(status, QUEUE_NAME)] if exists and status else [],
            last_failure=JobFailure(ended_at, optional_text_of(worker), text) if text else None,
        )

    def pages_of_jobs(self) -> Iterator[tuple[list[str], bool]]:
        with redis_errors(self._client):
            for name in BULLMQ_PLACES:
                for ids in _pages(self._client, name):
                    # BullMQ keeps failed jobs of deleted links, and nobody removes them.
                    yield ids, name not in _ENDED


def _answer(job_id: str, reply: str) -> Answer:
    is_left, reply = reply.startswith("left "), reply.removeprefix("left ")
    word, _, reason = reply.partition(":")
    state = JobState.WAITING if word == "delayed" else JobState(word)
    outcome = None if is_left else _OUTCOMES.get(state)
    return Answer(job_id, state, reason, outcome, word == "delayed", is_left)


def _moment(milliseconds: bytes | None) -> datetime | None:
    number = whole_number(milliseconds)
    return None if number is None else moment_of_timestamp(number / 1000)


def _pages(client: Redis, name: str) -> Iterator[list[str]]:
    """Yields the ids of the jobs in one of BullMQ's lists or sets."""
    start, read = 0, client.lrange if name in BULLMQ_LISTS else client.zrange
    while ids := cast("list[bytes]", read(BULLMQ + name, start, start + _PAGE - 1)):
        start += len(ids)
        yield [text_of(each) for each in ids]


def jobs_with_other_url(client: Redis, app_id: str, base_url: str) -> list[str]:
    """Returns the waiting, delayed and running jobs of an app whose payload has another base_url.

    Only reads. Raises RedisError.
    """
    found = []
    with redis_errors(client):
        for name in (place for place in BULLMQ_PLACES if place not in _ENDED):
            for ids in _pages(client, name):
                of_app = [each for each in ids if each.startswith(f"{app_id}-")]
                rows = read_hashes(client, [BULLMQ + each for each in of_app], ("data",))
                for job_id, [data] in zip(of_app, rows, strict=True):
                    if data is not None and mapping_of(data).get("base_url") != base_url:
                        found.append(job_id)
    return found
