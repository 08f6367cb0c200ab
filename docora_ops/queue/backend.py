"""The keys of the two queues, RQ's and Docora's own, which of them is in use, and by whom."""

import json
from base64 import b64encode
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import astuple
from datetime import UTC, datetime, timedelta
from math import ceil
from typing import cast

from redis import Redis
from redis.exceptions import NoPermissionError
from rq import Queue
from rq.defaults import RQ_KEY_PREFIX
from rq.executions import ExecutionRegistry
from rq.intermediate_queue import IntermediateQueue
from rq.job import Job
from rq.registry import (
    CanceledJobRegistry,
    DeferredJobRegistry,
    FailedJobRegistry,
    FinishedJobRegistry,
    ReadyJobRegistry,
    ScheduledJobRegistry,
    StartedJobRegistry,
)
from rq.suspension import WORKERS_SUSPENDED
from rq.worker import Worker as RQWorker
from rq.worker_registration import REDIS_WORKER_KEYS, WORKERS_BY_QUEUE_KEY

from docora_ops.audit import Change
from docora_ops.jobs import (
    BULLMQ_PREFIX,
    QUEUE_NAME,
    AnyWorker,
    Backend,
    BackendChoice,
    BackendSource,
    Suspension,
    Worker,
)
from docora_ops.processes import Process, this_process
from docora_ops.queue.audit_stream import AuditEvent, add_entry, audit_entry, mapping_of
from docora_ops.queue.redis_client import (
    moment_of_timestamp,
    optional_text_of,
    read_hashes,
    redis_errors,
    server_time,
    text_of,
    whole_number,
)
from docora_ops.settings import Settings

LIST = Queue.redis_queue_namespace_prefix + QUEUE_NAME  # of waiting jobs
INTERMEDIATE = IntermediateQueue.get_intermediate_queue_key(LIST)  # of jobs just taken by workers
WIP = StartedJobRegistry.key_template.format(QUEUE_NAME)  # the registry of running jobs
EXECUTIONS = ExecutionRegistry.key_template.format("")  # begins the key of a job's executions
EXECUTION = f"{RQ_KEY_PREFIX}:execution:"  # begins the key of one execution
RESULTS = f"{RQ_KEY_PREFIX}:results:"  # begins the key of a job's results
# All other registries of the queue.
REGISTRIES = {
    "failed": FailedJobRegistry.key_template.format(QUEUE_NAME),
    "finished": FinishedJobRegistry.key_template.format(QUEUE_NAME),
    "canceled": CanceledJobRegistry.key_template.format(QUEUE_NAME),
    "deferred": DeferredJobRegistry.key_template.format(QUEUE_NAME),
    "scheduled": ScheduledJobRegistry.key_template.format(QUEUE_NAME),
    "ready": ReadyJobRegistry.key_template.format(QUEUE_NAME),
}
# RQ's keys, and prefixes to a job id, for the Lua scripts.
SCRIPT_KEYS: dict[str, object] = {
    "queues": Queue.redis_queues_keys,
    "list": LIST,
    "intermediate": INTERMEDIATE,
    "wip": WIP,
    "registries": list(REGISTRIES.values()),
    "registry_of_status": {
        "scheduled": REGISTRIES["scheduled"],
        "deferred": REGISTRIES["deferred"],
        "ready_to_enqueue": REGISTRIES["ready"],
    },
    "job_prefix": Job.redis_job_namespace_prefix,
    "results_prefix": RESULTS,
    "executions_prefix": EXECUTIONS,
    "execution_prefix": EXECUTION,
}

BULLMQ = f"{BULLMQ_PREFIX}:{QUEUE_NAME}:"  # begins all keys of Docora's own queue
BULLMQ_LISTS = ("wait", "paused", "active")
BULLMQ_SETS = ("delayed", "failed", "completed")
BULLMQ_PLACES = (*BULLMQ_LISTS, *BULLMQ_SETS)  # in the first four, the jobs are to be run
_BULLMQ_WORKER = f"{BULLMQ_PREFIX}:{b64encode(QUEUE_NAME.encode()).decode()}"

_SCAN = 'redis-cli -u "$REDIS_URL" --scan --pattern'
_DELETE = 'xargs -r -n 100 redis-cli -u "$REDIS_URL" del'
# Shell commands that remove a queue with the jobs of links; `rq empty` leaves delayed jobs.
TO_REMOVE_RQ_JOBS = (
    f"{{ {_SCAN} '{RQ_KEY_PREFIX}:*:{QUEUE_NAME}'; {_SCAN} '{RQ_KEY_PREFIX}:*:app_*-repo_*'; }} | "
    + _DELETE
)
TO_REMOVE_BULLMQ_JOBS = f"{{ {_SCAN} '{BULLMQ}*'; }} | {_DELETE}"
START = "start Docora's worker if it runs its own, or "  # begins the advice if no worker is seen


def choose_backend(settings: Settings, client: Redis) -> BackendChoice:
    """Returns the backend that is set, otherwise the one that is in use. Raises RedisError.

    Live workers decide; without any, the keys of the two queues do. Two keys do not count:
    `rq:queues` is never removed, and Docora's API also writes BullMQ's `meta` with `RUN_MODE=api`.
    """
    if settings.backend is not None:
        return BackendChoice(settings.backend, BackendSource.SETTING)
    bullmq_keys = [BULLMQ + name for name in ("id", "events", *BULLMQ_PLACES)]
    with redis_errors(client):
        rq, bullmq = permitted(lambda: count_rq_workers(client)), len(bullmq_workers(client))
        source, why = BackendSource.WORKERS, "{} workers run"
        if rq and bullmq:
            why = "workers of both RQ and BullMQ run"
            first = "stop the workers of one kind, as each link may be worked on twice, then "
            return BackendChoice(Backend.RQ, BackendSource.UNCLEAR, why, first)
        if not (rq or bullmq):
            source, why = BackendSource.TRACES, "only {} has keys, with no worker in sight"
            rq = permitted(lambda: client.exists(LIST, INTERMEDIATE, WIP, *REGISTRIES.values()))
            bullmq = permitted(lambda: client.exists(*bullmq_keys))
    if rq and bullmq:
        why = "both RQ and BullMQ have keys, with no worker in sight"
        return BackendChoice(Backend.RQ, BackendSource.UNCLEAR, why, START)
    if rq:
        return BackendChoice(Backend.RQ, source, why.format("RQ"))
    if bullmq:
        return BackendChoice(Backend.BULLMQ, source, why.format("BullMQ"))
    return BackendChoice(Backend.RQ, BackendSource.DEFAULT, "nobody has used the queue yet")


def permitted(count: Callable[[], object]) -> int:
    """Returns the count, or 0 if the user may not read: users are made for one of the queues."""
    try:
        return cast("int", count())
    except NoPermissionError:
        return 0


def count_rq_workers(client: Redis) -> int:
    """Counts RQ's live workers that listen on the queue, except those that are known to be dead."""
    return len(_rq_workers(client))


def seconds_until_forgotten(client: Redis) -> int | None:
    """Returns the seconds until RQ's workers would be forgotten if they were killed just now.

    Returns None if there are none. Raises RedisError.
    """
    pipeline = client.pipeline(transaction=False)
    with redis_errors(client):
        for key in _rq_workers(client):
            pipeline.pttl(key)
        left = [milliseconds for milliseconds in pipeline.execute() if milliseconds > 0]
    return ceil(max(left) / 1000) if left else None


def _rq_workers(client: Redis) -> list[str]:
    """Returns the keys of these workers."""
    keys = sorted(
        map(text_of, cast("set[bytes]", client.smembers(WORKERS_BY_QUEUE_KEY % QUEUE_NAME)))
    )
    pipeline = client.pipeline(transaction=False)
    for key in keys:
        pipeline.exists(key)
    live = [key for key, exists in zip(keys, pipeline.execute(), strict=True) if exists]
    try:
        rows = read_hashes(client, live, PROCESS_FIELDS)
    except NoPermissionError:  # none is known to be dead
        return live
    return [key for key, row in zip(live, rows, strict=True) if not is_known_dead(row)]


# In the registration of our workers; RQ's own have only the third.
PROCESS_FIELDS = ("boot_id", "pid_namespace", "pid", "process_started_at")


def process_fields() -> dict[str, str | int]:
    """Returns what our workers add to their registration; nothing where the system is mute."""
    process = this_process()
    values = astuple(process) if process else ()
    return dict(zip(PROCESS_FIELDS, values, strict=False))


def is_known_dead(row: Sequence[bytes | None]) -> bool:
    """Tells whether the worker with these `PROCESS_FIELDS` ran here, and its process is gone."""
    boot_id, pid_namespace, *numbers = row
    pid, started_at = map(whole_number, numbers)
    if not boot_id or not pid_namespace or pid is None or started_at is None:
        return False
    return Process(text_of(boot_id), text_of(pid_namespace), pid, started_at).is_known_dead


def bullmq_workers(client: Redis) -> list[Worker]:
    """Returns the live workers of Docora's own queue in this database of Redis.

    A worker is known by one of its connections, which has the name of the queue and the worker's
    own name, if any. Returns no workers if the user may not list clients.
    """
    with suppress(NoPermissionError):
        return _listed_bullmq_workers(client)
    return []


def _listed_bullmq_workers(client: Redis) -> list[Worker]:
    clients = client.client_list()
    database = str(client.connection_pool.connection_kwargs.get("db", 0))
    found = []
    for each in clients:
        name, _, own_name = each.get("name", "").partition(":w:")
        if name == _BULLMQ_WORKER and each.get("db") == database:
            address = each.get("addr", "")
            host = address.rpartition(":")[0] or None
            found.append(Worker(own_name or address, None, host, None, None, jobs=[]))
    return found


def sees_bullmq_worker(client: Redis) -> bool:
    """Tells whether a worker of Docora's own queue is live.

    If the user may not list clients: whether one was live within 30 s, by the key with which a
    worker keeps others from looking for stalled jobs at the same time.
    """
    with suppress(NoPermissionError):
        return bool(_listed_bullmq_workers(client))
    return bool(permitted(lambda: client.exists(f"{BULLMQ}stalled-check")))


# The order to workers to take no jobs: with RQ, to all workers of this Redis


def suspend_workers(client: Redis, seconds: int | None, change: Change) -> Suspension:
    """Suspends all workers for `seconds`, or until `resume` if None. Raises RedisError.

    Replaces an earlier suspension, and writes the audit entry.
    """
    with redis_errors(client), client.pipeline() as pipeline:
        at = int(server_time(client))
        # RQ only asks whether its key exists: the value says since when, by whom and why. One SET,
        # since RQ's own `suspend` sends SET, then EXPIRE: killed in between, it suspends for ever.
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


def read_suspension(client: Redis, backend: Backend) -> Suspension | None:
    """Returns the order to take no jobs, None if there is none. Raises RedisError."""
    with redis_errors(client):
        if backend is Backend.BULLMQ:
            is_paused = client.hget(f"{BULLMQ}meta", "paused")
            found = Suspension(None, None, None, None, "the BullMQ queue is paused")
            return found if is_paused else None
        pipeline = client.pipeline(transaction=False)
        pipeline.time()
        pipeline.pttl(WORKERS_SUSPENDED)
        pipeline.get(WORKERS_SUSPENDED)
        (seconds, microseconds), left, value = pipeline.execute()
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


def live_workers(client: Redis) -> list[AnyWorker]:
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
