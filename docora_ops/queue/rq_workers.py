"""Reads which RQ workers are alive and what they do; suspends and resumes them."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import astuple
from datetime import UTC, datetime, timedelta
from typing import cast

from redis import Redis
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
from docora_ops.queue.redis_client import (
    mapping_of,
    optional_text_of,
    read_hashes,
    redis_errors,
    server_time,
    text_of,
    whole_number,
)
from docora_ops.queue.rq_jobs import job_id_of, moment_of, read_jobs
from docora_ops.queue.rq_keys import EXECUTION, EXECUTIONS_OF_WORKER

# In the registration of our workers. RQ's own workers have only `pid`.
_PROCESS_FIELDS = ("boot_id", "pid_namespace", "pid", "process_started_at")
NO_JOB_REASON = "no_job_reason"  # in a worker's hash: JSON, empty while the worker takes jobs
MAY_RECORD = "may_record"  # likewise: 0 if its user may not write the record of outcomes
OBEYS_HOLDS = "obeys_holds"  # likewise: 1 if it takes no job of a held app
_WORKER_FIELDS = (
    *("birth", "death", "state", "hostname", "pid", "last_heartbeat", "clock_ahead"),
    *(NO_JOB_REASON, MAY_RECORD, OBEYS_HOLDS),
)
WORKERS = WORKERS_BY_QUEUE_KEY % QUEUE_NAME  # the set of the keys of the queue's workers
WORKER = RQWorker.redis_worker_namespace_prefix  # prefix of a worker's key
# The TTL of a worker's key falls below this only if the worker misses heartbeats: each heartbeat
# sets the TTL to at least 60 s more than the time until the next heartbeat.
_LEAST_TTL_MS = 50_000
# Seconds without a heartbeat after which a worker counts as silent. Our workers send a heartbeat
# every second; while busy, every 30 s.
_SILENT, _SILENT_BUSY = 10, 75


def workers_by_name(
    client: Redis, field: str, members: Iterable[bytes] | None = None
) -> dict[str, bytes | None]:
    """Returns the value of `field` in each live worker's registration, by worker name.

    members: the keys of the registered workers if they are known; None to read them.

    Raises the client's RedisError.
    """
    if members is None:
        members = cast("set[bytes]", client.smembers(WORKERS))
    keys = sorted(map(text_of, members))
    rows = read_hashes(client, keys, ("birth", "death", field, *_PROCESS_FIELDS))
    return {
        key.removeprefix(WORKER): value
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
    keys = cast("set[bytes]", client.smembers(WORKERS))
    names = sorted(text_of(key).removeprefix(WORKER) for key in keys)
    rows = read_hashes(client, [WORKER + name for name in names], _WORKER_FIELDS + _PROCESS_FIELDS)
    pipeline = client.pipeline(transaction=False)
    for name in names:
        pipeline.smembers(EXECUTIONS_OF_WORKER.format(name))
        pipeline.pttl(WORKER + name)
    answers = pipeline.execute()
    executions = [run for runs in answers[::2] for run in sorted(runs)]
    known = read_hashes(client, [EXECUTION + text_of(run) for run in executions], ("created_at",))
    running = [run for run, [at] in zip(executions, known, strict=True) if at]
    read = read_jobs(client, [job_id_of(run) for run in running], "active")
    jobs = dict(zip(running, read, strict=True))
    workers, killed = [], []
    for name, row, runs, ttl in zip(names, rows, answers[::2], answers[1::2], strict=True):
        birth, death, state, hostname, pid, last_heartbeat, clock_ahead, reason, *others = row
        may_record, obeys_holds, *process = others
        if birth is None or death is not None:
            continue
        if _is_known_dead(process):
            killed.append(name)
            continue
        heartbeat_at = moment_of(last_heartbeat)
        seconds = max(0, int(now - heartbeat_at.timestamp())) if heartbeat_at else None
        workers.append(
            Worker(
                name=name,
                state=optional_text_of(state),
                hostname=optional_text_of(hostname),
                pid=whole_number(pid),
                last_heartbeat_at=heartbeat_at,
                jobs=[jobs[run] for run in sorted(runs) if run in jobs],
                silent_seconds=seconds if _is_silent(state, reason, seconds, ttl) else None,
                clock_ahead_seconds=whole_number(clock_ahead, signed=True),
                no_job_reason=_no_job_reason(state, reason),
                may_record=may_record != b"0",
                obeys_holds=obeys_holds == b"1",
            )
        )
    return workers, killed


def _is_silent(state: bytes | None, reason: bytes | None, seconds: int | None, ttl: int) -> bool:
    """Tells whether a worker has missed heartbeats.

    reason: why the worker takes no job; empty if it takes jobs. None for workers that date
        heartbeats by the clock of their host: RQ's own, and those of older versions.
    seconds: since the last heartbeat; None if unknown. Ignored if `reason` is None.
    ttl: milliseconds until the key of the worker expires. Counts only if `reason` or `seconds` is
        None.
    """
    if reason is None or seconds is None:
        return 0 <= ttl < _LEAST_TTL_MS
    return seconds >= (_SILENT_BUSY if state == WorkerStatus.BUSY.encode() else _SILENT)


def _no_job_reason(state: bytes | None, reason: bytes | None) -> NoJobReason | None:
    """Returns why a worker takes no job; None if it takes jobs.

    state: the state of the worker. For RQ's own workers, `suspended` is the only reason.
    reason: the reason in JSON, which only our workers write; empty while they take jobs.
    """
    if not reason:
        is_suspended = state == WorkerStatus.SUSPENDED.encode()
        return NoJobReason(NoJobCode.SUSPENDED, "suspended") if is_suspended else None
    word = mapping_of(reason)
    code, message, hint = (str(word.get(name) or "") for name in ("code", "message", "hint"))
    known = NoJobCode(code) if code in set(NoJobCode) else NoJobCode.UNKNOWN
    return NoJobReason(known, message or "for an unknown reason", hint or None)


def process_fields() -> dict[str, str | int]:
    """Returns the fields that identify this process to other workers; none without /proc."""
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


def read_workers_of_all_queues(client: Redis) -> list[AnyWorker]:
    """Reads the live workers of all queues of this Redis, ordered by name. Raises RedisError."""
    with redis_errors(client):
        keys = sorted(map(text_of, cast("set[bytes]", client.smembers(REDIS_WORKER_KEYS))))
        rows = read_hashes(client, keys, ("birth", "death", "state", "queues"))
    workers = []
    for key, (birth, death, state, queues) in zip(keys, rows, strict=True):
        if birth is not None and death is None:
            name = key.removeprefix(WORKER)
            names = text_of(queues or b"").split(",")
            workers.append(AnyWorker(name, optional_text_of(state), list(filter(None, names))))
    return workers
