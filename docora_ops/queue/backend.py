"""Which of the two queues is in use, RQ's or Docora's own, and what is left in the other one."""

from shlex import quote
from typing import cast

from redis import Redis
from redis.exceptions import NoPermissionError
from rq import Queue
from rq.defaults import RQ_KEY_PREFIX
from rq.intermediate_queue import IntermediateQueue
from rq.registry import BaseRegistry, ScheduledJobRegistry, StartedJobRegistry
from rq.worker_registration import WORKERS_BY_QUEUE_KEY

from docora_ops.jobs import (
    BULLMQ_PREFIX,
    QUEUE_NAME,
    Backend,
    BackendChoice,
    BackendSource,
    OtherQueue,
)
from docora_ops.queue.bullmq_reader import BullmqReader
from docora_ops.queue.redis_client import redis_errors
from docora_ops.queue.registries import REGISTRIES, registry_key
from docora_ops.settings import Settings

START = "start Docora's worker if it runs its own, or "
"""Begins the advice where no worker is seen."""


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
TO_REMOVE_BULLMQ_JOBS = _command_to_delete(f"{BULLMQ_PREFIX}:{QUEUE_NAME}:*")
"""The shell command that removes Docora's own queue."""

_RQ_LIST = f"{Queue.redis_queue_namespace_prefix}{QUEUE_NAME}"


def choose_backend(settings: Settings, client: Redis) -> BackendChoice:
    """Returns the backend that is set, otherwise the one that is in use. Raises RedisError.

    Live workers decide; without any, the keys of the two queues do. Not among them is `rq:queues`,
    which stays for ever.
    """
    if settings.backend is not None:
        return BackendChoice(settings.backend, BackendSource.SETTING)
    with redis_errors(client):
        found = _find(client)
    match found:
        case True, True, _, _:
            stop = "stop the workers of one kind, as each link may be worked on twice"
            return _unclear("workers of both RQ and BullMQ run", f"{stop}, then ")
        case True, False, _, _:
            return BackendChoice(Backend.RQ, BackendSource.WORKERS, "RQ workers run")
        case False, True, _, _:
            return BackendChoice(Backend.BULLMQ, BackendSource.WORKERS, "BullMQ workers run")
        case _, _, True, True:
            return _unclear("both RQ and BullMQ have keys, with no worker in sight", START)
        case _, _, True, False:
            why = "only RQ has keys, with no worker in sight"
            return BackendChoice(Backend.RQ, BackendSource.TRACES, why)
        case _, _, False, True:
            why = "only BullMQ has keys, with no worker in sight"
            return BackendChoice(Backend.BULLMQ, BackendSource.TRACES, why)
    return BackendChoice(Backend.RQ, BackendSource.DEFAULT, "nobody has used the queue yet")


def _unclear(why: str, first: str) -> BackendChoice:
    return BackendChoice(Backend.RQ, BackendSource.UNCLEAR, why, first)


def _find(client: Redis) -> tuple[bool, bool, bool, bool]:
    """Tells whether workers of RQ and of BullMQ run, and whether keys of the two queues exist.

    What the user may not read counts as absent: users are made for one of the two.
    """
    reader = BullmqReader(client)
    intermediate = IntermediateQueue.get_intermediate_queue_key(_RQ_LIST)
    registries: list[type[BaseRegistry]] = [StartedJobRegistry, *REGISTRIES.values()]
    pipeline = client.pipeline(transaction=False)
    pipeline.smembers(WORKERS_BY_QUEUE_KEY % QUEUE_NAME)
    pipeline.client_list()
    pipeline.exists(
        _RQ_LIST, intermediate, *(registry_key(each, QUEUE_NAME) for each in registries)
    )
    pipeline.exists(*reader.traces)
    found = []
    for answer in pipeline.execute(raise_on_error=False):
        if isinstance(answer, Exception) and not isinstance(answer, NoPermissionError):
            raise answer
        found.append(None if isinstance(answer, Exception) else answer)
    workers, clients, rq_keys, bullmq_keys = found
    rq_runs = bool(workers and client.exists(*sorted(workers)))
    return rq_runs, bool(reader.workers_among(clients)), bool(rq_keys), bool(bullmq_keys)


def count_rq_workers(client: Redis) -> int:
    """Counts RQ's live workers that listen on the queue. Raises RedisError."""
    with redis_errors(client):
        return _count(client)


def _count(client: Redis) -> int:
    keys = cast("set[bytes]", client.smembers(WORKERS_BY_QUEUE_KEY % QUEUE_NAME))
    return client.exists(*sorted(keys)) if keys else 0


def has_bullmq_worker(client: Redis) -> bool:
    """Tells whether a worker of Docora's own queue is connected. Raises RedisError."""
    with redis_errors(client):
        return bool(BullmqReader(client).workers())


def read_rq_use(client: Redis) -> OtherQueue:
    """Tells for an installation with BullMQ whether RQ is in use beside it. Raises RedisError.

    A user who may not read RQ's keys sees nothing of it.
    """
    with redis_errors(client):
        try:
            if _count(client):
                return OtherQueue.WORKED_ON
            has_jobs = client.exists(_RQ_LIST, registry_key(ScheduledJobRegistry, QUEUE_NAME))
        except NoPermissionError:
            return OtherQueue.UNUSED
        return OtherQueue.LEFT_JOBS if has_jobs else OtherQueue.UNUSED


def read_bullmq_use(client: Redis) -> OtherQueue:
    """Tells for an installation with RQ whether BullMQ is in use beside it. Raises RedisError."""
    with redis_errors(client):
        return BullmqReader(client).use()
