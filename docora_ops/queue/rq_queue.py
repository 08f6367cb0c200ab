"""The RQ queue that the jobs of links stand in, for a Docora whose workers are RQ's.

Unlike RQ's own calls, those that read write nothing and unpickle nothing.
"""

import json
import pickle
import re
import zlib
from base64 import b64decode
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import fields, replace
from datetime import UTC, datetime
from functools import cached_property
from itertools import chain
from typing import cast

from redis import Redis
from rq import Queue, Retry
from rq.executions import WORKER_EXECUTIONS_KEY_TEMPLATE
from rq.job import Job
from rq.scheduler import SCHEDULER_KEY_TEMPLATE, SCHEDULER_LOCKING_KEY_TEMPLATE
from rq.utils import utcformat, utcparse
from rq.worker import Worker as RQWorker
from rq.worker import WorkerStatus
from rq.worker_registration import WORKERS_BY_QUEUE_KEY

from docora_ops.jobs import (
    JOB_FUNCTION,
    MOST_SEARCHED,
    QUEUE_NAME,
    RECENT,
    Backend,
    JobFailure,
    JobPlace,
    JobRecord,
    JobState,
    NoJobCode,
    NoJobReason,
    QueuedJob,
    QueueOverview,
    Scheduler,
    Worker,
)
from docora_ops.links import Outcome, Payload, batches, ids_of_job
from docora_ops.queue.audit_stream import mapping_of
from docora_ops.queue.backend import (
    EXECUTION,
    EXECUTIONS,
    INTERMEDIATE,
    LIST,
    PROCESS_FIELDS,
    REGISTRIES,
    RESULTS,
    SCRIPT_KEYS,
    WIP,
    is_known_dead,
    read_suspension,
)
from docora_ops.queue.link_queue import (
    LAST_SCHEDULE,
    Answer,
    LinkQueue,
    PushRequest,
    longest_wait,
)
from docora_ops.queue.redis_client import (
    Command,
    answers_of,
    moment_of_timestamp,
    optional_text_of,
    read_hashes,
    redis_errors,
    server_time,
    text_of,
    whole_number,
)
from docora_ops.queue.sweep import TO_RUN_OR_FAILED, Place, QueueSweep
from docora_ops.settings import FAILURE_TTL, RESULT_TTL

_OUTCOMES = {
    "queued": Outcome.QUEUED,
    "replaced_finished": Outcome.QUEUED,
    "replaced_stale": Outcome.REPLACED_STALE,
    "waiting": Outcome.ALREADY_QUEUED,
    "delayed": Outcome.ALREADY_QUEUED,
}
_LIVE_PLACES = {
    Place.SCHEDULED: "delayed",
    Place.LIST: "waiting",
    Place.INTERMEDIATE: "waiting",
}
_VARIABLE_FIELDS = frozenset({"data", "description", "created_at", "enqueued_at"})
_PAYLOAD_FIELDS = tuple(field.name for field in fields(Payload))
_MOST_OF_A_TRACEBACK = 1 << 24  # bytes of an unpacked traceback that are read
_LINES = 10  # of a traceback that are shown
_JOB_FIELDS = ("description", "created_at", "enqueued_at", "started_at")
# How docora-ops describes a job. Others may describe theirs with all arguments, which hold secrets.
_DESCRIPTION = re.compile(r"([\w.-]+/[\w.-]+) → (.+)")
_RECORD_FIELDS = (
    *("status", "origin", "retries_left", "worker_name"),
    *("created_at", "enqueued_at", "started_at", "ended_at"),
)
NO_JOB_REASON = "no_job_reason"  # in a worker's hash: JSON, empty while the worker takes jobs
MAY_COMPARE = "may_compare"  # likewise: 0 if its user may not read the mark of the pair
_WORKER_FIELDS = (
    *("birth", "death", "state", "hostname", "pid", "last_heartbeat", "clock_ahead"),
    *(NO_JOB_REASON, MAY_COMPARE),
)
_CLOCKS_APART = 60  # seconds that a worker's clock may be ahead of Redis's
_LEAST_WAITING = 20  # jobs at the head that are compared: `--front` puts new jobs there
_NEWEST = 10  # failed jobs whose ends are compared: the registry is in the order of their expiry
# Milliseconds that are left of a worker's key: each heartbeat sets it to at least 60 s more than
# the time until the next one.
_LEAST_TTL_MS = 50_000
# Seconds without a heartbeat. Ours sends one each second, or each half a minute while it is busy.
_SILENT, _SILENT_BUSY = 10, 75


class RqQueue(LinkQueue):
    """The RQ queue that the jobs of links stand in. All calls raise RedisError."""

    backend = Backend.RQ
    script_files = ("with_change.lua", "judge.lua", "look_and_push.lua")

    @cached_property
    def sweep(self) -> QueueSweep:
        return QueueSweep(self._client)

    @cached_property
    def common_fields(self) -> list[str]:
        """The fields that the hashes of all jobs have in common, names and values alternating.

        RQ builds one job: a Job object for each link would take longer than all the rest.
        """
        settings = self._settings
        delays = settings.retry_delays
        job = Queue(QUEUE_NAME, connection=self._client).create_job(
            JOB_FUNCTION,
            timeout=settings.job_timeout,
            result_ttl=RESULT_TTL,
            failure_ttl=FAILURE_TTL,
            description="of no link",
            retry=Retry(max=len(delays), interval=delays) if delays else None,
        )
        return [
            text
            for name, value in job.to_dict().items()
            if name not in _VARIABLE_FIELDS
            for text in (name, str(getattr(value, "value", value)))
        ]

    def sample(self, count: int) -> list[str]:
        pipeline = self._client.pipeline(transaction=False)
        pipeline.lrange(LIST, 0, count - 1)
        pipeline.zrange(REGISTRIES["failed"], 0, count - 1)
        with redis_errors(self._client):
            waiting, failed = pipeline.execute()
        return [text_of(each) for each in [*waiting, *failed][:count]]

    def look(self, job_ids: Sequence[str]) -> list[Answer]:
        arguments = ["look", json.dumps(SCRIPT_KEYS), *job_ids]
        return list(map(_answer, job_ids, self._script.run(arguments) if job_ids else ()))

    def push(
        self,
        requests: Sequence[PushRequest],
        *,
        leaves_waiting: bool = False,
        front: bool = False,
        changes_links: bool = True,
        commands: Sequence[Command] = (),
    ) -> list[Answer]:
        if not requests:
            return []
        # By the clock of Redis, the only one that all processes share.
        now = utcformat(datetime.fromtimestamp(self._script.server_time(), UTC))
        config = SCRIPT_KEYS | {
            "fields": [*self.common_fields, "created_at", now, "enqueued_at", now],
            "front": front,
            "leaves_waiting": leaves_waiting,
            "changes_links": changes_links,
            "commands": len(commands),
            **self.mark_to_leave,
        }
        arguments: list[str | bytes | int] = ["push", json.dumps(config)]
        for command in commands:
            arguments += (len(command), *command)
        for request in requests:
            payload = request.payload
            arguments += (
                request.job_id,
                request.disproved,
                job_data(payload, is_rescan=request.is_rescan) if payload else b"",
                payload.description if payload else b"",
            )
        job_ids = [request.job_id for request in requests]
        return list(map(_answer, job_ids, self._script.run(arguments)))

    def pages_of_jobs(self) -> Iterator[tuple[list[str], bool]]:
        for place, job_ids in self.sweep.read().by_place.items():
            for page in batches(list(job_ids), 5000):
                yield list(page), place in TO_RUN_OR_FAILED

    def overview(self, limit: int) -> QueueOverview:
        client, read = self._client, max(limit, _LEAST_WAITING)
        with redis_errors(client):
            now = server_time(client)
            not_expired = f"({now}", cast("int", "+inf")
            pipeline = client.pipeline(transaction=False)
            pipeline.llen(LIST)
            pipeline.zcard(REGISTRIES["scheduled"])
            pipeline.zcount(REGISTRIES["finished"], *not_expired)
            pipeline.zcount(REGISTRIES["failed"], *not_expired)
            # The score of a failed job is the moment until which RQ keeps it. Other programs may
            # keep theirs longer, by default for a year.
            kept_until = now + FAILURE_TTL
            pipeline.zcount(REGISTRIES["failed"], kept_until - RECENT, kept_until + _CLOCKS_APART)
            pipeline.lrange(LIST, 0, read - 1)
            pipeline.lrange(INTERMEDIATE, 0, 999)  # each worker has one id at most
            pipeline.zrange(WIP, *not_expired, byscore=True)
            pipeline.zrange(REGISTRIES["scheduled"], 0, read - 1, withscores=True)
            pipeline.zrange(REGISTRIES["failed"], -_NEWEST, -1)
            pipeline.get(SCHEDULER_LOCKING_KEY_TEMPLATE % QUEUE_NAME)
            pipeline.get(LAST_SCHEDULE)
            length, delayed, finished, failed, recent, *found, lock, last = pipeline.execute()
            head, intermediate, executions, due, newest = found
            last_pass = whole_number(last)
            active = list(dict.fromkeys(_job_id(member) for member in executions))
            taken = [job_id for job_id in map(text_of, intermediate) if job_id not in active]
            due_at = {text_of(job_id): moment_of_timestamp(score) for job_id, score in due}
            first_ids = [*taken, *map(text_of, head)][:read]
            first = _jobs(client, first_ids, "waiting")
            later = _jobs(client, list(due_at)[:limit], "delayed")
            failed_ids = list(map(text_of, newest))
            tried = [*failed_ids, *first_ids, *active[:read], *due_at]  # a next try waits, too
            moments = [
                (_moment(began), _moment(ended))
                for began, ended in read_hashes(
                    client, map(Job.key_for, tried), ["started_at", "ended_at"]
                )
            ]
            ends = [ended for _, ended in moments[: len(failed_ids)]]
            runs = [EXECUTION + text_of(member) for member in executions[:read]]
            live_runs = int(client.exists(*runs)) if runs else 0
            jobs = [
                *_jobs(client, active[:limit], "active"),
                *first[:limit],
                *(replace(job, due_at=due_at[job.job_id]) for job in later),
            ]
            workers, killed = _workers(client, now)
            suspension = read_suspension(client, self.backend)
            scheduler = None
            if lock:
                key = SCHEDULER_KEY_TEMPLATE % text_of(lock)
                fields = ("hostname", "pid", "last_heartbeat")
                [(hostname, pid, heartbeat)] = read_hashes(client, [key], fields)
                scheduler = Scheduler(
                    text_of(lock),
                    optional_text_of(hostname),
                    whole_number(pid),
                    _moment(heartbeat),
                )
        oldest, seconds = longest_wait(first, now)
        return QueueOverview(
            backend=Backend.RQ,
            waiting=length + len(taken),
            active=len(executions),
            completed_jobs=finished,
            failed_jobs=failed,
            delayed=delayed,
            queue_name=QUEUE_NAME,
            oldest_waiting_at=oldest,
            oldest_waiting_seconds=seconds,
            suspended=suspension is not None,
            suspension=suspension,
            workers=workers,
            scheduler=scheduler,
            jobs=jobs[:limit],
            last_failed_at=max(filter(None, ends), default=None),
            last_pass_at=None if last_pass is None else moment_of_timestamp(last_pass),
            last_pass_seconds=None if last_pass is None else max(0, int(now - last_pass)),
            backend_source=self.choice.source,
            failed_recently=recent,
            live_runs=live_runs,
            killed_workers=killed,
            last_began_at=max(filter(None, (began for began, _ in moments)), default=None),
        )

    def _live_ids(self, prefixes: tuple[str, ...]) -> Iterator[tuple[str, list[str]]]:
        now = server_time(self._client)
        for place, status in _LIVE_PLACES.items():
            pages = [
                [job_id for job_id in page if job_id.startswith(prefixes)]
                for page in self.sweep.pages(place, now)
            ]
            # The list is read from its tail.
            yield status, list(chain.from_iterable(pages[::-1] if place is Place.LIST else pages))
        executions = self._client.zrange(WIP, f"({now}", cast("int", "+inf"), byscore=True)
        ids = dict.fromkeys(map(_job_id, cast("list[bytes]", executions)))
        yield "active", [job_id for job_id in ids if job_id.startswith(prefixes)]

    def _read_jobs(self, job_ids: Sequence[str], status: str) -> list[QueuedJob]:
        jobs = _jobs(self._client, job_ids, status)
        if status != "delayed":
            return jobs
        pipeline = self._client.pipeline(transaction=False)
        for job_id in job_ids:
            pipeline.zscore(REGISTRIES["scheduled"], job_id)
        return [
            replace(job, due_at=None if score is None else moment_of_timestamp(score))
            for job, score in zip(jobs, pipeline.execute(), strict=True)
        ]

    def job(self, job_id: str) -> JobRecord:
        client, key = self._client, Job.key_for(job_id)
        with redis_errors(client):
            [(status, origin, retries_left, worker, *times)] = read_hashes(
                client, [key], _RECORD_FIELDS
            )
            created_at, enqueued_at, started_at, ended_at = map(_moment, times)
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


def job_data(payload: Payload, *, is_rescan: bool) -> bytes:
    """Returns the call of a link's job, pickled.

    RQ reads it with or without compression, which would take as long as the push.
    """
    # Not dataclasses.asdict, which takes several times as long.
    arguments: dict[str, object] = {name: getattr(payload, name) for name in _PAYLOAD_FIELDS}
    arguments["is_rescan"] = is_rescan
    return pickle.dumps((JOB_FUNCTION, None, (), arguments), protocol=pickle.HIGHEST_PROTOCOL)


def _answer(job_id: str, reply: str) -> Answer:
    is_left, reply = reply.startswith("left "), reply.removeprefix("left ")
    word, _, reason = reply.partition(":")
    outcome = None if is_left else _OUTCOMES.get(word)
    state = JobState.WAITING if word in _OUTCOMES else JobState(word)
    return Answer(job_id, state, reason, outcome, word == "delayed", is_left)


def _jobs(client: Redis, job_ids: Sequence[str], status: str) -> list[QueuedJob]:
    rows = read_hashes(client, [Job.key_for(job_id) for job_id in job_ids], _JOB_FIELDS)
    jobs = []
    for job_id, (text, created_at, enqueued_at, started_at) in zip(job_ids, rows, strict=True):
        described = _DESCRIPTION.fullmatch(text_of(text or b""))
        app_id, repository_id = ids_of_job(job_id) or (None, None)
        jobs.append(
            QueuedJob(
                job_id=job_id,
                status=status,
                name=JOB_FUNCTION if described else None,
                app_id=app_id,
                app_name=described[2] if described else None,
                repository_id=repository_id,
                repository_name=described[1] if described else None,
                created_at=_moment(created_at),
                processed_at=_moment(started_at) if status == "active" else None,
                enqueued_at=_moment(enqueued_at),
            )
        )
    return jobs


def _workers(client: Redis, now: float) -> tuple[list[Worker], list[str]]:
    """Reads the live workers of the queue, and the names of those that are known to be dead.

    Redis forgets a killed worker some time later, wherever it ran.
    """
    prefix = RQWorker.redis_worker_namespace_prefix
    keys = cast("set[bytes]", client.smembers(WORKERS_BY_QUEUE_KEY % QUEUE_NAME))
    names = sorted(text_of(key).removeprefix(prefix) for key in keys)
    rows = read_hashes(client, [prefix + name for name in names], _WORKER_FIELDS + PROCESS_FIELDS)
    pipeline = client.pipeline(transaction=False)
    for name in names:
        pipeline.smembers(WORKER_EXECUTIONS_KEY_TEMPLATE.format(name))
        pipeline.pttl(prefix + name)
    answers = pipeline.execute()
    workers, killed = [], []
    for name, row, runs, ttl in zip(names, rows, answers[::2], answers[1::2], strict=True):
        birth, death, state, hostname, pid, last_heartbeat, clock_ahead, reason, *others = row
        may_compare, *process = others
        if birth is None or death is not None:
            continue
        if is_known_dead(process):
            killed.append(name)
            continue
        heartbeat_at = _moment(last_heartbeat)
        seconds = max(0, int(now - heartbeat_at.timestamp())) if heartbeat_at else None
        executions = [EXECUTION + text_of(each) for each in sorted(runs)]
        known = read_hashes(client, executions, ("created_at",))
        running = [_job_id(run) for run, [at] in zip(sorted(runs), known, strict=True) if at]
        workers.append(
            Worker(
                name=name,
                state=optional_text_of(state),
                hostname=optional_text_of(hostname),
                pid=whole_number(pid),
                last_heartbeat_at=heartbeat_at,
                jobs=_jobs(client, running, "active"),
                silent_seconds=seconds if _is_silent(state, reason, seconds, ttl) else None,
                clock_ahead_seconds=whole_number(clock_ahead, signed=True),
                no_job_reason=_no_job_reason(state, reason),
                may_compare=may_compare != b"0",
            )
        )
    return workers, killed


def _is_silent(state: bytes | None, reason: bytes | None, seconds: int | None, ttl: int) -> bool:
    """Tells whether a worker has missed heartbeats.

    reason: why it takes no job. Only the workers that have this field, even if it is empty, date
        their heartbeats by Redis's clock: those of RQ and of older versions do so by their host's.
    """
    if reason is None or seconds is None:
        return 0 <= ttl < _LEAST_TTL_MS
    return seconds >= (_SILENT_BUSY if state == WorkerStatus.BUSY.encode() else _SILENT)


def _no_job_reason(state: bytes | None, reason: bytes | None) -> NoJobReason | None:
    """Reads why a worker takes no job. RQ's own workers only have the state `suspended`."""
    if not reason:
        is_suspended = state == WorkerStatus.SUSPENDED.encode()
        return NoJobReason(NoJobCode.SUSPENDED, "suspended") if is_suspended else None
    word = mapping_of(reason)
    code, message, hint = (str(word.get(name) or "") for name in ("code", "message", "hint"))
    known = NoJobCode(code) if code in set(NoJobCode) else NoJobCode.UNKNOWN
    return NoJobReason(known, message or "for an unknown reason", hint or None)


def _places(client: Redis, job_id: str) -> list[JobPlace]:
    """Finds the job in the lists and registries of the queue, and its executions."""
    pipeline = client.pipeline(transaction=False)
    pipeline.zrange(EXECUTIONS + job_id, 0, -1)
    pipeline.lpos(LIST, job_id, count=0, maxlen=MOST_SEARCHED)
    pipeline.lpos(INTERMEDIATE, job_id, count=0)
    for registry in REGISTRIES.values():
        pipeline.zscore(registry, job_id)
    executions, indexes, between, *scores = pipeline.execute()
    keys = [f"{EXECUTION}{job_id}:{text_of(each)}" for each in executions]
    known = read_hashes(client, keys, ("created_at", "worker_name"))
    return [
        *(JobPlace("list", QUEUE_NAME, position=index + 1) for index in indexes),
        *(JobPlace("intermediate", QUEUE_NAME, position=index + 1) for index in between),
        *(
            JobPlace(name, QUEUE_NAME, score_at=moment_of_timestamp(score))
            for name, score in zip(REGISTRIES, scores, strict=True)
            if score is not None
        ),
        *(
            JobPlace("execution", QUEUE_NAME, alive=at is not None, worker=optional_text_of(worker))
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
                return JobFailure(failed_at, worker, "\n".join(text.split("\n")[-_LINES:]))
    return None


def _job_id(execution: bytes) -> str:
    return text_of(execution).partition(":")[0]


def _moment(value: bytes | None) -> datetime | None:
    """Parses a time as RQ writes it; returns None for anything else."""
    with suppress(ValueError):
        if value:
            return utcparse(text_of(value))
    return None
