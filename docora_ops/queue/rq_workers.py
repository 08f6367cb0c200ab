"""Reads which RQ workers are alive and what they do; suspends and resumes them."""

import json
from collections.abc import Sequence
from dataclasses import astuple
from datetime import UTC, datetime, timedelta
from math import ceil
from typing import cast

from redis import Redis
from redis.client import Pipeline
from rq.suspension import WORKERS_SUSPENDED
from rq.worker import Worker as RQWorker
from rq.worker import WorkerStatus
from rq.worker_registration import REDIS_WORKER_KEYS, WORKERS_BY_QUEUE_KEY

from docora_ops.jobs import (
    QUEUE_NAME,
    AnyWorker,
    NoJobCode,
    NoJobReason,
    Suspension,
    Worker,
)
from docora_ops.operations import Change
from docora_ops.queue.audit_stream import AuditEvent, add_entry, audit_entry
from docora_ops.queue.processes import Process, this_process
from docora_ops.queue.redis_answers import (
    answers_of,
    mapping_of,
    moment_of_timestamp,
    optional_text_of,
    read_hashes,
    text_of,
    whole_number,
)
from docora_ops.queue.redis_client import redis_errors, server_time
from docora_ops.queue.rq_jobs import job_id_of, moment_of, read_jobs
from docora_ops.queue.rq_keys import EXECUTION, EXECUTIONS_OF_WORKER

# In the registration of our workers. RQ's own workers have only `pid`.
_PROCESS_FIELDS = ("boot_id", "pid_namespace", "pid", "process_started_at")
NO_JOB_REASON = "no_job_reason"  # in a worker's hash: JSON, empty while the worker takes jobs
MAY_COMPARE = "may_compare"  # likewise: 0 if its user may not read the mark of the pair
MAY_RECORD = "may_record"  # likewise: 0 if its user may not write the record of outcomes
OBEYS_HOLDS = "obeys_holds"  # likewise: 1 if it takes no job of a held app
_WORKER_FIELDS = (
    *("birth", "death", "state", "hostname", "pid", "last_heartbeat", "clock_ahead"),
    *(NO_JOB_REASON, MAY_COMPARE, MAY_RECORD, OBEYS_HOLDS),
)
_OF_QUEUE = WORKERS_BY_QUEUE_KEY % QUEUE_NAME  # a set of the keys of workers
# The TTL of a worker's key falls below this only if the worker misses heartbeats: each heartbeat
# sets the TTL to at least 60 s more than the time until the next heartbeat.
_LEAST_TTL_MS = 50_000
# Seconds without a heartbeat. Our workers send one every second; while busy, one every 30 s.
_SILENT, _SILENT_BUSY = 10, 75


def live_rq_workers(client: Redis, keys: Sequence[str]) -> list[str]:
    """Returns the keys of the workers that are registered and not known to be dead.

    Raises the client's RedisError.
    """
    pipeline = client.pipeline(transaction=False)
    for key in keys:
        pipeline.exists(key)
        pipeline.hmget(key, _PROCESS_FIELDS)
    answers = answers_of(pipeline, keeps_denials=True)
    return [
        key
        for key, exists, row in zip(keys, answers[::2], answers[1::2], strict=True)
        if exists == 1 and not (isinstance(row, list) and _is_known_dead(row))
    ]


def workers_by_name(client: Redis, field: str) -> dict[str, bytes | None]:
    """Returns the value of `field` in each live worker's registration, by worker name.

    Raises the client's RedisError.
    """
    keys = sorted(map(text_of, cast("set[bytes]", client.smembers(_OF_QUEUE))))
    rows = read_hashes(client, keys, ("birth", "death", field, *_PROCESS_FIELDS))
    return {
        key.removeprefix(RQWorker.redis_worker_namespace_prefix): value
        for key, (birth, death, value, *process) in zip(keys, rows, strict=True)
        if birth and not death and not _is_known_dead(process)
    }


def workers_without_record(client: Redis) -> list[str]:
    """Returns the names of the live workers whose user may not write the record of outcomes.

    Raises RedisError.
    """
    with redis_errors(client):
        workers = workers_by_name(client, MAY_RECORD)
    return [name for name, may_record in workers.items() if may_record == b"0"]


def read_workers(client: Redis, now: float) -> tuple[list[Worker], list[str]]:
    """Reads the live workers of the queue, and the names of workers that are known to be dead.

    A worker that was killed on another host counts as live until Redis forgets it.
    """
    prefix = RQWorker.redis_worker_namespace_prefix
    keys = cast("set[bytes]", client.smembers(_OF_QUEUE))
    names = sorted(text_of(key).removeprefix(prefix) for key in keys)
    rows = read_hashes(client, [prefix + name for name in names], _WORKER_FIELDS + _PROCESS_FIELDS)
    pipeline = client.pipeline(transaction=False)
    for name in names:
        pipeline.smembers(EXECUTIONS_OF_WORKER.format(name))
        pipeline.pttl(prefix + name)
    answers = pipeline.execute()
    workers, killed = [], []
    for name, row, runs, ttl in zip(names, rows, answers[::2], answers[1::2], strict=True):
        birth, death, state, hostname, pid, last_heartbeat, clock_ahead, reason, *others = row
        may_compare, may_record, obeys_holds, *process = others
        if birth is None or death is not None:
            continue
        if _is_known_dead(process):
            killed.append(name)
            continue
        heartbeat_at = moment_of(last_heartbeat)
        seconds = max(0, int(now - heartbeat_at.timestamp())) if heartbeat_at else None
        executions = [EXECUTION + text_of(run) for run in sorted(runs)]
        known = read_hashes(client, executions, ("created_at",))
        running = [job_id_of(run) for run, [at] in zip(sorted(runs), known, strict=True) if at]
        workers.append(
            Worker(
                name=name,
                state=optional_text_of(state),
                hostname=optional_text_of(hostname),
                pid=whole_number(pid),
                last_heartbeat_at=heartbeat_at,
                jobs=read_jobs(client, running, "active"),
                silent_seconds=seconds if _is_silent(state, reason, seconds, ttl) else None,
                clock_ahead_seconds=whole_number(clock_ahead, signed=True),
                no_job_reason=_no_job_reason(state, reason),
                may_compare=may_compare != b"0",
                may_record=may_record != b"0",
                obeys_holds=obeys_holds == b"1",
            )
        )
    return workers, killed


def _is_silent(state: bytes | None, reason: bytes | None, seconds: int | None, ttl: int) -> bool:
    """Tells whether a worker has missed heartbeats.

    If `reason` or `seconds` is None, only `ttl` counts.

    reason: why the worker takes no job; empty if it takes jobs. None for RQ's own workers and for
        workers of older versions, whose heartbeats have the time of their host.
    seconds: the time since the last heartbeat; None if unknown.
    ttl: milliseconds until the key of the worker expires.
    """
    if reason is None or seconds is None:
        return 0 <= ttl < _LEAST_TTL_MS
    return seconds >= (_SILENT_BUSY if state == WorkerStatus.BUSY.encode() else _SILENT)


def _no_job_reason(state: bytes | None, reason: bytes | None) -> NoJobReason | None:
    """Parses why a worker takes no job. RQ's own workers only have the state `suspended`."""
    if not reason:
        is_suspended = state == WorkerStatus.SUSPENDED.encode()
        return NoJobReason(NoJobCode.SUSPENDED, "suspended") if is_suspended else None
    word = mapping_of(reason)
    code, message, hint = (str(word.get(name) or "") for name in ("code", "message", "hint"))
    known = NoJobCode(code) if code in set(NoJobCode) else NoJobCode.UNKNOWN
    return NoJobReason(known, message or "for an unknown reason", hint or None)


def process_fields() -> dict[str, str | int]:
    """Returns the fields that identify this process in a registration; none without /proc."""
    process = this_process()
    values = astuple(process) if process else ()
    return dict(zip(_PROCESS_FIELDS, values, strict=False))


def _is_known_dead(row: Sequence[bytes | None]) -> bool:
    """Tells whether the worker with these `_PROCESS_FIELDS` ran here, and its process is gone."""
    boot_id, pid_namespace, *numbers = row
    pid, started_at = map(whole_number, numbers)
    if not boot_id or not pid_namespace or pid is None or started_at is None:
        return False
    return Process(text_of(boot_id), text_of(pid_namespace), pid, started_at).is_known_dead


def suspend_workers(client: Redis, seconds: int | None, change: Change) -> Suspension:
    """Suspends all workers for `seconds`, or until `resume` if None. Raises RedisError.

    Replaces an earlier suspension, and writes the audit entry.
    """
    with redis_errors(client), client.pipeline() as pipeline:
        at = int(server_time(client))
        # RQ only checks whether the key exists, so the value can hold the time, who and why.
        # RQ's own `suspend` sends SET, then EXPIRE: killed in between, it would suspend forever.
        value = {"suspended_at": at, "who": change.who, "reason": change.reason or ""}
        pipeline.set(WORKERS_SUSPENDED, json.dumps(value), ex=seconds)
        add_entry(pipeline, audit_entry(change, AuditEvent.DONE))
        pipeline.execute()
    begin = datetime.fromtimestamp(at, UTC)
    end = None if seconds is None else begin + timedelta(seconds=seconds)
    return Suspension(begin, end, seconds, change.who, change.reason)


def resume_workers(client: Redis, change: Change) -> None:
    """Ends the suspension, and writes the audit entry. Raises RedisError."""
    with redis_errors(client), client.pipeline() as pipeline:
        pipeline.delete(WORKERS_SUSPENDED)
        add_entry(pipeline, audit_entry(change, AuditEvent.DONE))
        pipeline.execute()


def ask_suspension(pipeline: Pipeline) -> None:
    """Adds three commands to the pipeline. `suspension_of` takes their replies."""
    pipeline.time()
    pipeline.pttl(WORKERS_SUSPENDED)
    pipeline.get(WORKERS_SUSPENDED)


def suspension_of(clock: tuple[int, int], left: int, value: bytes | None) -> Suspension | None:
    """Returns the suspension of the workers; None if they are not suspended.

    clock: the reply of Redis to TIME.
    left: milliseconds until the suspension ends; -1 if it has no end, -2 if there is no suspension.
    value: the value of RQ's key.
    """
    seconds, microseconds = clock
    if left == -2:  # noqa: PLR2004 - Redis: no such key
        return None
    details = mapping_of(value)  # none after `rq suspend`
    begin, who, reason = (details.get(name) for name in ("suspended_at", "who", "reason"))
    end = int(seconds + microseconds / 1e6 + left / 1000) if left >= 0 else None
    return Suspension(
        suspended_at=moment_of_timestamp(begin) if isinstance(begin, int) else None,
        ends_at=None if end is None else moment_of_timestamp(end),
        remaining_seconds=ceil(left / 1000) if left >= 0 else None,
        who=str(who) if who else None,
        reason=str(reason) if reason else None,
    )


def read_workers_of_all_queues(client: Redis) -> list[AnyWorker]:
    """Reads the live workers of all queues of this Redis, ordered by name. Raises RedisError."""
    with redis_errors(client):
        keys = sorted(map(text_of, cast("set[bytes]", client.smembers(REDIS_WORKER_KEYS))))
        rows = read_hashes(client, keys, ("birth", "death", "state", "queues"))
    workers = []
    for key, (birth, death, state, queues) in zip(keys, rows, strict=True):
        if birth is not None and death is None:
            name = key.removeprefix(RQWorker.redis_worker_namespace_prefix)
            names = text_of(queues or b"").split(",")
            workers.append(AnyWorker(name, optional_text_of(state), list(filter(None, names))))
    return workers
