"""Docora's own queue, kept by BullMQ 5. docora-ops only reads it; Docora's scheduler queues jobs.

The scheduler queues each pending link within a minute. `push` queues nothing: it looks at the jobs
while the rows of their links are locked. Docora's worker begins a job with a write to the link's
row, so the worker waits for our commit.
"""

import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from math import ceil
from typing import ClassVar, cast

from redis import Redis

from docora_ops.jobs import (
    QUEUE_NAME,
    Backend,
    JobEnd,
    JobFailure,
    JobPlace,
    JobRecord,
    JobState,
    QueuedJob,
    QueueOverview,
    Suspension,
    longest_wait,
)
from docora_ops.links import LinkStatus, ids_of_job
from docora_ops.queue.link_queue import (
    LEAST_WAITING,
    RECENT,
    Answer,
    LinkQueue,
    PushRequest,
    answers_of_script,
    arguments_of,
)
from docora_ops.queue.outcomes import (
    LONGEST_ERROR,
    OutcomeFilter,
    Outcomes,
    SnapshotOutcome,
)
from docora_ops.queue.redis_client import (
    Command,
    mapping_of,
    moment_of_timestamp,
    optional_text_of,
    read_hashes,
    redis_errors,
    server_time,
    text_of,
    whole_number,
)
from docora_ops.queue.redis_signs import (
    BULLMQ,
    BULLMQ_LISTS,
    BULLMQ_PLACES,
    BULLMQ_SETS,
    bullmq_workers,
)
from docora_ops.queue.rq_jobs import LONGEST_FAILURE
from docora_ops.queue.rq_keys import TO_REMOVE_RQ_JOBS
from docora_ops.queue.rq_workers import WORKER, workers_by_name
from docora_ops.text import mask

_ENDED = ("completed", "failed")
# BullMQ's words for the states of a job.
_STATUSES = {
    JobState.FINISHED: "completed",
    JobState.STALE: "failed",
    JobState.WAITING: "wait",
    JobState.RUNNING: "active",
}
_PAUSED = Suspension(None, None, None, None, "the BullMQ queue is paused")
_LIVE_PLACES = {
    "delayed": "delayed",
    "paused": "waiting",
    "wait": "waiting",
    "active": "active",
}
_PAGE = 5000
_FAILED_KEPT = 200  # number of failed jobs that BullMQ keeps, as set by Docora
_JOB_FIELDS = ("name", "data", "timestamp", "processedOn", "ats", "opts")
_RECORD_FIELDS = ("timestamp", "processedOn", "finishedOn", "pb", "opts", "atm", "failedReason")


class BullmqQueue(LinkQueue):
    """Docora's own queue. Never writes to BullMQ's keys."""

    backend: ClassVar = Backend.BULLMQ
    can_push: ClassVar = False
    to_remove_others: ClassVar = TO_REMOVE_RQ_JOBS
    commands_of_push: ClassVar[Sequence[tuple[str | int, ...]]] = ()
    script_files: ClassVar = ("with_change.lua", "bullmq.lua")
    script_keys: ClassVar = {"prefix": BULLMQ}
    delayed_key: ClassVar = f"{BULLMQ}delayed"
    scores_per_second: ClassVar = 0x1000 * 1000
    sweep = None

    def _read_suspension(self) -> Suspension | None:
        return _PAUSED if self._client.hget(f"{BULLMQ}meta", "paused") else None

    def push(
        self,
        requests: Sequence[PushRequest],
        created_at: float,  # noqa: ARG002
        *,
        refuses_waiting: bool = False,
        front: bool = False,  # noqa: ARG002
        exempts: bool = False,  # noqa: ARG002
        changes_links: bool = True,  # noqa: ARG002
        commands: Sequence[Command] = (),
    ) -> list[Answer]:
        """Looks at all jobs, and runs the Redis `commands`. Queues nothing."""
        if not requests:
            return []
        flags = {"refuses_waiting": refuses_waiting, "commands": len(commands)}
        config = {**self.script_keys, **flags}
        arguments: list[str | bytes | int] = ["push", json.dumps(config)]
        arguments += arguments_of(commands)
        for request in requests:
            arguments += (request.job_id, "queue" if request.payload else "")
        return answers_of_script(
            [request.job_id for request in requests], self.script.run(arguments)
        )

    def docora_picks_up(self, status: str, answer: Answer) -> bool:
        is_pending = status == LinkStatus.PENDING_SNAPSHOT
        return is_pending and answer.state is not JobState.UNREADABLE

    def seconds_until_others_forgotten(self) -> int | None:
        pipeline = self._client.pipeline(transaction=False)
        with redis_errors(self._client):
            for name in workers_by_name(self._client, "birth"):
                pipeline.pttl(WORKER + name)
            left = [milliseconds for milliseconds in pipeline.execute() if milliseconds > 0]
        return ceil(max(left) / 1000) if left else None

    def overview(self, limit: int) -> QueueOverview:
        client, read = self._client, max(limit, LEAST_WAITING)
        use = self.read_use()
        with redis_errors(client):
            now = server_time(client)
            pipeline = client.pipeline(transaction=False)
            pipeline.hgetall(f"{BULLMQ}meta")
            for name in BULLMQ_LISTS:
                pipeline.llen(BULLMQ + name)
            for name in BULLMQ_SETS:
                pipeline.zcard(BULLMQ + name)
            # The next job is at the end of each list.
            pipeline.lrange(f"{BULLMQ}wait", -read, -1)
            pipeline.lrange(f"{BULLMQ}paused", -read, -1)
            pipeline.lrange(f"{BULLMQ}active", -read, -1)
            pipeline.zrange(f"{BULLMQ}delayed", 0, read - 1, withscores=True)
            # BullMQ keeps the last 200, as set by Docora.
            recently = int((now - RECENT) * 1000), cast("int", "+inf")
            pipeline.zrange(f"{BULLMQ}failed", *recently, byscore=True, offset=0, num=_PAGE)
            pipeline.zrange(f"{BULLMQ}failed", -1, -1, withscores=True)
            meta, *answers = pipeline.execute()
            *counts, wait, paused, active, due, recent, newest = answers
            waiting_ids = list(map(text_of, [*reversed(wait), *reversed(paused)]))
            running_ids = list(map(text_of, reversed(active)))
            delayed_ids = [text_of(job_id) for job_id, _ in due]
            first = self._jobs(waiting_ids, "waiting")
            jobs = [
                *self._jobs(running_ids[:limit], "active"),
                *first[:limit],
                *self._read_jobs(delayed_ids[:limit], "delayed"),
            ]
            # Waiting jobs may have been tried before.
            tried = [*waiting_ids, *running_ids, *delayed_ids]
            keys = (BULLMQ + job_id for job_id in tried)
            begins = [_moment(began) for [began] in read_hashes(client, keys, ["processedOn"])]
            # Workers renew the locks of their jobs. A lock expires after half a minute.
            locks = [f"{BULLMQ}{job_id}:lock" for job_id in running_ids]
            live_runs = int(client.exists(*locks)) if locks else 0
            workers = bullmq_workers(client)[0] if use.workers else []
        count = dict(zip(BULLMQ_PLACES, counts, strict=True))
        oldest, seconds = longest_wait(first, now)
        return QueueOverview(
            backend=Backend.BULLMQ,
            waiting=count["wait"] + count["paused"],
            active=count["active"],
            completed_jobs=count["completed"],
            failed_jobs=count["failed"],
            delayed=count["delayed"],
            oldest_waiting_at=oldest,
            oldest_waiting_seconds=seconds,
            suspended=use.suspension is not None,
            suspension=use.suspension,
            other_queue=use.other,
            workers=workers,
            scheduler=None,
            jobs=jobs[:limit],
            first_due_at=moment_of_timestamp(due[0][1] / self.scores_per_second) if due else None,
            last_failed_at=moment_of_timestamp(newest[0][1] / 1000) if newest else None,
            backend_source=self.choice.source,
            failed_recently=len(recent),
            live_runs=live_runs,
            last_began_at=max(filter(None, begins), default=None),
            read_at=moment_of_timestamp(now),
            bullmq_version=text_of(meta.get(b"version", b"")) if meta else None,
        )

    def _jobs(self, job_ids: Sequence[str], status: str) -> list[QueuedJob]:
        keys = (BULLMQ + job_id for job_id in job_ids)
        jobs = []
        for job_id, row in zip(job_ids, read_hashes(self._client, keys, _JOB_FIELDS), strict=True):
            name, data, created, began, tries, options = row
            # A job that was tried or delayed was queued later than it was created.
            was_moved = (whole_number(tries) or 0) > 0 or bool(mapping_of(options).get("delay"))
            call = mapping_of(data)
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
        # A job that finally succeeded keeps the text of its last failure.
        failure, text = None, mask(text_of(reason or b""))[:LONGEST_FAILURE]
        if text and status != "completed":
            message = text.partition("\n")[0]
            failure = JobFailure(ended_at, optional_text_of(worker), text, message)
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
            places=[JobPlace(status)] if exists and status else [],
            last_failure=failure,
        )

    def outcomes(self, which: OutcomeFilter) -> Outcomes:
        with redis_errors(self._client):
            newest_last = self._client.zrange(f"{BULLMQ}failed", -_FAILED_KEPT, -1, withscores=True)
            failed = cast("list[tuple[bytes, float]]", newest_last)[::-1]
            keys = [BULLMQ + text_of(job_id) for job_id, _ in failed]
            rows = read_hashes(self._client, keys, _RECORD_FIELDS)
        entries: list[SnapshotOutcome] = []
        at = None
        for (job_id, milliseconds), row in zip(failed, rows, strict=True):
            at = moment_of_timestamp(milliseconds / 1000)
            ids = ids_of_job(text_of(job_id))
            if at is None or ids is None:
                continue
            if which.since is not None and at < which.since:
                return Outcomes(entries[: which.limit], None)
            if (which.app_id or ids[0], which.repository_id or ids[1]) == ids:
                _, _, _, worker, options, tries, reason = row
                allowed, error = mapping_of(options).get("attempts"), mask(text_of(reason or b""))
                entries.append(
                    SnapshotOutcome(
                        at,
                        *ids,
                        None,
                        JobEnd.FAILED,
                        try_number=whole_number(tries),
                        tries=allowed if isinstance(allowed, int) else None,
                        error_message=error[:LONGEST_ERROR] or None,
                        worker=optional_text_of(worker),
                    )
                )
        return Outcomes(entries[: which.limit], at if len(failed) == _FAILED_KEPT else None)


def _moment(milliseconds: bytes | None) -> datetime | None:
    number = whole_number(milliseconds)
    return None if number is None else moment_of_timestamp(number / 1000)


def _pages(client: Redis, name: str) -> Iterator[list[str]]:
    start, read = 0, client.lrange if name in BULLMQ_LISTS else client.zrange
    while ids := cast("list[bytes]", read(BULLMQ + name, start, start + _PAGE - 1)):
        start += len(ids)
        yield list(map(text_of, ids))


def jobs_with_other_url(client: Redis, app_id: str, base_url: str) -> list[str]:
    """Returns the ids of the app's live jobs whose payload has another URL than `base_url`.

    Only reads. Raises RedisError.
    """
    jobs = []
    with redis_errors(client):
        for name in (place for place in BULLMQ_PLACES if place not in _ENDED):
            for job_ids in _pages(client, name):
                of_app = [job_id for job_id in job_ids if job_id.startswith(f"{app_id}-")]
                rows = read_hashes(client, [BULLMQ + job_id for job_id in of_app], ("data",))
                for job_id, [data] in zip(of_app, rows, strict=True):
                    if data is not None and mapping_of(data).get("base_url") != base_url:
                        jobs.append(job_id)
    return jobs
