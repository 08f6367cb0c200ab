"""Which of the two queues is in use, RQ's or Docora's own, and what is left in the other one."""

from base64 import b64encode
from collections.abc import Callable, Sequence
from shlex import quote
from typing import cast

from redis import Redis
from redis.exceptions import NoPermissionError
from rq.defaults import RQ_KEY_PREFIX
from rq.registry import ScheduledJobRegistry, StartedJobRegistry
from rq.worker_registration import WORKERS_BY_QUEUE_KEY

from docora_ops.jobs import (
    BULLMQ_PREFIX,
    QUEUE_NAME,
    Backend,
    BackendChoice,
    BackendSource,
    OtherQueue,
    Worker,
)
from docora_ops.queue.redis_client import redis_errors, text_of
from docora_ops.queue.scripts import INTERMEDIATE, LIST, REGISTRIES, registry_key
from docora_ops.settings import Settings

START = "start Docora's worker if it runs its own, or "
"""Begins the advice where no worker is seen."""
BULLMQ = f"{BULLMQ_PREFIX}:{QUEUE_NAME}:"
"""The beginning of all keys of Docora's own queue."""
BULLMQ_LISTS = ("wait", "paused", "active")
BULLMQ_SETS = ("delayed", "prioritized", "waiting-children", "failed", "completed")
BULLMQ_PLACES = (*BULLMQ_LISTS, *BULLMQ_SETS)
"""The ends of the keys that hold jobs; in the first five, the jobs are to be run."""
_BULLMQ_WORKER = f"{BULLMQ_PREFIX}:{b64encode(QUEUE_NAME.encode()).decode()}"


def _command_to_delete(*patterns: str) -> str:
    redis = 'redis-cli -u "$REDIS_URL"'
    scans = "; ".join(f"{redis} --scan --pattern {quote(each)}" for each in patterns)
    return f"{{ {scans}; }} | xargs -r -n 100 {redis} del"


TO_REMOVE_RQ_JOBS = _command_to_delete(
    f"{RQ_KEY_PREFIX}:*:{QUEUE_NAME}", f"{RQ_KEY_PREFIX}:*:app_*-repo_*"
)
"""The shell command that removes RQ's queue and the jobs of links.

`rq empty` leaves delayed jobs, and needs the same privileges.
"""
TO_REMOVE_BULLMQ_JOBS = _command_to_delete(f"{BULLMQ}*")
"""The shell command that removes Docora's own queue."""


def choose_backend(settings: Settings, client: Redis) -> BackendChoice:
    """Returns the backend that is set, otherwise the one that is in use. Raises RedisError.

    Live workers decide; without any, the keys of the two queues do. Not among them are `rq:queues`,
    which stays for ever, and BullMQ's `meta`, which Docora's API writes also with `RUN_MODE=api`.
    """
    if settings.backend is not None:
        return BackendChoice(settings.backend, BackendSource.SETTING)
    with redis_errors(client):
        in_use = [bool(_permitted(_count_rq_workers, client)), bool(bullmq_workers(client))]
        if all(in_use):
            stop = "stop the workers of one kind, as each link may be worked on twice"
            return _unclear("workers of both RQ and BullMQ run", f"{stop}, then ")
        if any(in_use):
            return _the_one(in_use, BackendSource.WORKERS, "{} workers run")
        in_use = [bool(_permitted(read, client)) for read in (_count_rq_keys, _count_bullmq_keys)]
        if all(in_use):
            return _unclear("both RQ and BullMQ have keys, with no worker in sight", START)
        if any(in_use):
            why = "only {} has keys, with no worker in sight"
            return _the_one(in_use, BackendSource.TRACES, why)
    return BackendChoice(Backend.RQ, BackendSource.DEFAULT, "nobody has used the queue yet")


def _unclear(why: str, first: str) -> BackendChoice:
    return BackendChoice(Backend.RQ, BackendSource.UNCLEAR, why, first)


def _the_one(in_use: Sequence[bool], source: BackendSource, why: str) -> BackendChoice:
    """Returns the choice of RQ if it comes first in `in_use`, otherwise that of BullMQ."""
    backend, name = (Backend.RQ, "RQ") if in_use[0] else (Backend.BULLMQ, "BullMQ")
    return BackendChoice(backend, source, why.format(name))


def _permitted(count: Callable[[Redis], int], client: Redis) -> int:
    """Counts; 0 for what the user may not read: users are made for one of the two queues."""
    try:
        return count(client)
    except NoPermissionError:
        return 0


def _count_rq_keys(client: Redis) -> int:
    registries = map(registry_key, REGISTRIES.values())
    running = registry_key(StartedJobRegistry)
    return int(client.exists(LIST, INTERMEDIATE, running, *registries))


def _count_bullmq_keys(client: Redis) -> int:
    return int(client.exists(*(BULLMQ + name for name in ("id", "events", *BULLMQ_PLACES))))


def count_rq_workers(client: Redis) -> int:
    """Counts RQ's live workers that listen on the queue. Raises RedisError."""
    with redis_errors(client):
        return _count_rq_workers(client)


def _count_rq_workers(client: Redis) -> int:
    keys = cast("set[bytes]", client.smembers(WORKERS_BY_QUEUE_KEY % QUEUE_NAME))
    return int(client.exists(*sorted(keys))) if keys else 0


def bullmq_workers(client: Redis) -> list[Worker]:
    """Returns the live workers of Docora's own queue in this database of Redis.

    Each worker gives one of its connections the name of the queue, and its own name if any. If the
    user may not list clients, one worker stands for all: without the list, a worker that runs no
    job is seen most of the time, and a killed one for another 30 s.
    """
    try:
        clients = client.client_list()
    except NoPermissionError:
        return [_worker("at least one")] if _permitted(_count_signs_of_life, client) else []
    database = str(client.connection_pool.connection_kwargs.get("db", 0))
    found = []
    for each in clients:
        name, _, own_name = each.get("name", "").partition(":w:")
        if name == _BULLMQ_WORKER and each.get("db") == database:
            address = each.get("addr", "")
            found.append(_worker(own_name or address, address.rpartition(":")[0]))
    return found


def _count_signs_of_life(client: Redis) -> int:
    active = cast("list[bytes]", client.lrange(f"{BULLMQ}active", 0, 99))
    # A worker renews its locks each 15 seconds, and sets the other key each 30.
    locks = [f"{BULLMQ}{text_of(job_id)}:lock" for job_id in active]
    return int(client.exists(f"{BULLMQ}stalled-check", *locks))


def _worker(name: str, host: str = "") -> Worker:
    return Worker(name, None, host or None, None, None, jobs=[])


def has_bullmq_worker(client: Redis) -> bool:
    """Tells whether a worker of Docora's own queue is connected. Raises RedisError."""
    with redis_errors(client):
        return bool(bullmq_workers(client))


def read_rq_use(client: Redis) -> OtherQueue:
    """Tells for an installation with BullMQ whether RQ is in use beside it. Raises RedisError."""
    with redis_errors(client):
        if _permitted(_count_rq_workers, client):
            return OtherQueue.WORKED_ON
        jobs = (LIST, registry_key(ScheduledJobRegistry))
        has_jobs = _permitted(lambda client: int(client.exists(*jobs)), client)
    return OtherQueue.LEFT_JOBS if has_jobs else OtherQueue.UNUSED


def read_bullmq_use(client: Redis) -> OtherQueue:
    """Tells for an installation with RQ whether BullMQ is in use beside it. Raises RedisError."""
    with redis_errors(client):
        if bullmq_workers(client):
            return OtherQueue.WORKED_ON
        has_jobs = client.exists(*(BULLMQ + name for name in BULLMQ_PLACES[:5]))
    return OtherQueue.LEFT_JOBS if has_jobs else OtherQueue.UNUSED
