"""Reads RQ's jobs without unpickling them, unlike RQ itself."""

import re
import zlib
from base64 import b64decode
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime

from redis import Redis
from rq.job import Job
from rq.utils import utcparse

from docora_ops.jobs import (
    JobFailure,
    JobPlace,
    JobRecord,
    QueuedJob,
)
from docora_ops.links import ids_of_job
from docora_ops.queue.redis_client import (
    answers_of,
    moment_of_timestamp,
    optional_text_of,
    read_hashes,
    redis_errors,
    text_of,
    whole_number,
)
from docora_ops.queue.rq_keys import (
    EXECUTION,
    EXECUTIONS,
    INTERMEDIATE,
    LIST,
    REGISTRIES,
    RESULTS,
)
from docora_ops.text import mask

JOB_FUNCTION = "docora_ops.worker.snapshot"  # RQ's workers call it for each job
LONGEST_FAILURE = 10_000  # characters kept of a failure's text
# Entries at the head of a list that are searched for a job: a longer search would block Redis.
_MOST_SEARCHED = 10_000
_MOST_OF_A_TRACEBACK = 1 << 24  # bytes read of a decompressed traceback
_LINES = 10  # lines of a traceback to show
# In a job's hash: `SENT TOTAL BEGAN`, the files of the running try and when this try began.
_FILES = "files"
_KEEP_FILES = """
local began = redis.call('HGET', KEYS[1], 'started_at')
if began and began ~= '' then
    redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ' ' .. began)
end
"""
_JOB_FIELDS = ("description", "created_at", "enqueued_at", "started_at", _FILES)
# How docora-ops describes its jobs. Descriptions of other producers may contain secret arguments.
_DESCRIPTION = re.compile(r"([\w.-]+/[\w.-]+) → (.+)")
_RECORD_FIELDS = (
    *("status", "origin", "retries_left", "worker_name"),
    *("created_at", "enqueued_at", "started_at", "ended_at"),
)


def read_jobs(client: Redis, job_ids: Sequence[str], status: str) -> list[QueuedJob]:
    """Reads these jobs.

    status: the status of all these jobs: `active`, `waiting` or `delayed`.
    """
    rows = read_hashes(client, [Job.key_for(job_id) for job_id in job_ids], _JOB_FIELDS)
    jobs = []
    for job_id, (text, created_at, enqueued_at, started_at, sent) in zip(
        job_ids, rows, strict=True
    ):
        described = _DESCRIPTION.fullmatch(text_of(text or b""))
        app_id, repository_id = ids_of_job(job_id) or (None, None)
        is_active = status == "active"
        files_sent, files_total = _files_of(sent, started_at) if is_active else (None, None)
        jobs.append(
            QueuedJob(
                job_id=job_id,
                status=status,
                name=JOB_FUNCTION if described else None,
                app_id=app_id,
                app_name=described[2] if described else None,
                repository_id=repository_id,
                repository_name=described[1] if described else None,
                created_at=moment_of(created_at),
                processed_at=moment_of(started_at) if is_active else None,
                enqueued_at=moment_of(enqueued_at),
                files_sent=files_sent,
                files_total=files_total,
            )
        )
    return jobs


def keep_files(client: Redis, job: Job, sent: int, total: int) -> None:
    """Records how many of its files a running job has sent. Raises the client's RedisError.

    Does nothing if the job was removed meanwhile: a write would create a hash that never expires.
    """
    client.eval(_KEEP_FILES, 1, job.key, _FILES, f"{sent} {total}")


def _files_of(value: bytes | None, started_at: bytes | None) -> tuple[int | None, int | None]:
    """Parses the number of files sent, and the number of all files to send.

    Returns None for both unless the numbers are of the try that began at `started_at`.
    """
    numbers, _, began = (value or b"").rpartition(b" ")
    sent, _, total = numbers.partition(b" ")
    if started_at is None or began != started_at:
        return None, None
    return whole_number(sent), whole_number(total)


def read_record(client: Redis, job_id: str) -> JobRecord:
    """Reads everything that RQ records of one job. Raises RedisError."""
    key = Job.key_for(job_id)
    with redis_errors(client):
        [(status, origin, retries_left, worker, *times)] = read_hashes(
            client, [key], _RECORD_FIELDS
        )
        created_at, enqueued_at, started_at, ended_at = map(moment_of, times)
        ttl = client.pttl(key)
        return JobRecord(
            status=optional_text_of(status),
            origin=optional_text_of(origin),
            created_at=created_at,
            enqueued_at=enqueued_at,
            started_at=started_at,
            ended_at=ended_at,
            attempts=None,
            retries_left=whole_number(retries_left),
            worker=optional_text_of(worker),
            expires_in=ttl // 1000 if ttl >= 0 else None,
            places=_places(client, job_id),
            last_failure=_last_failure(client, job_id),
        )


def _places(client: Redis, job_id: str) -> list[JobPlace]:
    pipeline = client.pipeline(transaction=False)
    pipeline.zrange(EXECUTIONS + job_id, 0, -1)
    pipeline.lpos(LIST, job_id, count=0, maxlen=_MOST_SEARCHED)
    pipeline.lpos(INTERMEDIATE, job_id, count=0)
    for registry in REGISTRIES.values():
        pipeline.zscore(registry, job_id)
    executions, indexes, between, *scores = pipeline.execute()
    keys = [f"{EXECUTION}{job_id}:{text_of(execution)}" for execution in executions]
    known = read_hashes(client, keys, ("created_at", "worker_name"))
    return [
        *(JobPlace("list", position=index + 1) for index in indexes),
        *(JobPlace("intermediate", position=index + 1) for index in between),
        *(
            JobPlace(name, score_at=moment_of_timestamp(score))
            for name, score in zip(REGISTRIES, scores, strict=True)
            if score is not None
        ),
        *(
            JobPlace("execution", alive=at is not None, worker=optional_text_of(worker))
            for at, worker in known
        ),
    ]


def _last_failure(client: Redis, job_id: str) -> JobFailure | None:
    pipeline = client.pipeline(transaction=False)
    pipeline.xrevrange(RESULTS + job_id, count=10)
    [entries] = answers_of(pipeline)
    for entry_id, values in entries or ():
        with suppress(ValueError, zlib.error):  # others may have written it
            packed = b64decode(values.get(b"exc_string") or b"")
            text = text_of(zlib.decompressobj().decompress(packed, _MOST_OF_A_TRACEBACK)).rstrip()
            if text:
                failed_at = moment_of_timestamp(int(entry_id.partition(b"-")[0]) / 1000)
                worker = optional_text_of(values.get(b"worker_name"))
                lines = "\n".join(text.split("\n")[-_LINES:])
                last_lines = mask(lines)[-LONGEST_FAILURE:]
                return JobFailure(failed_at, worker, last_lines, last_lines.rpartition("\n")[2])
    return None


def job_id_of(execution: bytes) -> str:
    """Returns the job id in a member of `WIP` or of a worker's executions."""
    return text_of(execution).partition(":")[0]


def moment_of(value: bytes | None) -> datetime | None:
    """Parses a time as RQ writes it; returns None for anything else."""
    with suppress(ValueError):
        if value:
            return utcparse(text_of(value))
    return None
