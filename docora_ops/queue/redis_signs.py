"""Reads who uses this Redis: which backend's workers and keys.

BullMQ is recognized by the keys of Docora's own queue, and its workers by their connections.
"""

import time
from base64 import b64encode
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from redis import Redis
from redis.exceptions import NoPermissionError

from docora_ops.jobs import QUEUE_NAME, Backend, BackendChoice, BackendSource, Worker
from docora_ops.queue.redis_client import (
    answers_of,
)
from docora_ops.queue.rq_keys import INTERMEDIATE, LIST, REGISTRIES, WIP
from docora_ops.queue.rq_workers import WORKERS, workers_by_name

SAMPLE = 100
"""The maximum number of ids of jobs that are read to tell what else uses Redis."""
_PREFIX = "bull"
BULLMQ = f"{_PREFIX}:{QUEUE_NAME}:"  # prefix of all keys of the queue
BULLMQ_LISTS = ("wait", "paused", "active")
BULLMQ_SETS = ("delayed", "failed", "completed")
BULLMQ_PLACES = (*BULLMQ_LISTS, *BULLMQ_SETS)  # the first four hold live jobs
# A worker sets this key to keep the others from checking for stalled jobs in the same 30 s.
_STALLED_CHECK = f"{BULLMQ}stalled-check"
# A shell command that removes the queue.
TO_REMOVE_BULLMQ_JOBS = (
    f"""{{ redis-cli -u "$REDIS_URL" --scan --pattern '{BULLMQ}*'; }} | """
    'xargs -r -n 100 redis-cli -u "$REDIS_URL" del'
)
# BullMQ's worker closes its connection if a reply is more than a second late, for example because
# Redis stood still, and connects again a second later.
_RECONNECTION = 2  # seconds
_WORKER = f"{_PREFIX}:{b64encode(QUEUE_NAME.encode()).decode()}"  # prefix of a connection's name
_START = "start Docora's worker if it runs its own, or "  # begins the advice if no worker is seen
_RQ_KEYS = (LIST, INTERMEDIATE, WIP, *REGISTRIES.values())
_BULLMQ_KEYS = [BULLMQ + name for name in ("id", "events", *BULLMQ_PLACES)]


@dataclass(frozen=True)
class BackendSigns:
    """The signs that one backend is in use, as far as our user may read them.

    workers: the number of live workers that listen on its queue. For BullMQ, 0 if our user may not
        list clients.
    is_at_work: whether a worker is live. For BullMQ, if our user may not list clients, whether a
        worker was live in the last 30 s.
    keys: how many keys of its queue exist.
    jobs: how many keys with live jobs exist: RQ's list and scheduled registry, or BullMQ's wait,
        paused, active and delayed.
    samples: the first job ids in RQ's list and failed registry, or in BullMQ's wait and paused;
        None for a key of another type.
    """

    workers: int
    is_at_work: bool
    keys: int
    jobs: int
    samples: Sequence[Sequence[bytes] | None]


@dataclass(frozen=True)
class Signs:
    """The signs of who uses this Redis.

    denial: the error if our user may not read RQ's workers or some of the keys.
    """

    rq: BackendSigns
    bullmq: BackendSigns
    denial: NoPermissionError | None


def read_signs(client: Redis) -> Signs:
    """Reads who uses this Redis, in one round trip; in two if RQ workers are registered.

    Takes 2 s longer if a BullMQ worker was live in the last 30 s, but none is connected.

    Raises the client's RedisError.
    """
    pipeline = client.pipeline(transaction=False)
    pipeline.client_list()
    pipeline.exists(_STALLED_CHECK)
    pipeline.smembers(WORKERS)
    pipeline.exists(*_RQ_KEYS)
    pipeline.exists(LIST, REGISTRIES["scheduled"])
    pipeline.lrange(LIST, 0, SAMPLE - 1)
    pipeline.zrange(REGISTRIES["failed"], 0, SAMPLE - 1)
    pipeline.exists(*_BULLMQ_KEYS)
    pipeline.exists(*(BULLMQ + name for name in BULLMQ_PLACES[:4]))
    pipeline.lrange(f"{BULLMQ}wait", 0, SAMPLE - 1)
    pipeline.lrange(f"{BULLMQ}paused", 0, SAMPLE - 1)
    connections, stalled_check, *answers = answers_of(pipeline, keeps_denials=True)
    denials = [answer for answer in answers if isinstance(answer, NoPermissionError)]
    members, *answers = (None if answer in denials else answer for answer in answers)
    workers: Mapping[str, object] = {}
    with suppress(NoPermissionError):  # beside BullMQ, our user need not see RQ's workers
        workers = workers_by_name(client, "birth", members or ())
    keys, jobs, *samples = answers[:4]
    rq = BackendSigns(len(workers), bool(workers), keys or 0, jobs or 0, samples)
    connected, is_at_work = _bullmq_workers_among(client, connections, stalled_check)
    if not is_at_work and stalled_check == 1:
        time.sleep(_RECONNECTION)
        connected, is_at_work = bullmq_workers(client)
    keys, jobs, *samples = answers[4:]
    bullmq = BackendSigns(len(connected), is_at_work, keys or 0, jobs or 0, samples)
    return Signs(rq, bullmq, next(iter(denials), None))


def bullmq_workers(client: Redis) -> tuple[list[Worker], bool]:
    """Returns the live workers of Docora's own queue, and whether there are any.

    If our user may not list clients, returns no workers, and whether any worker was live in the
    last 30 s.
    """
    pipeline = client.pipeline(transaction=False)
    pipeline.client_list()
    pipeline.exists(_STALLED_CHECK)
    return _bullmq_workers_among(client, *answers_of(pipeline, keeps_denials=True))


def _bullmq_workers_among(
    client: Redis,
    connections: Sequence[Mapping[str, str]] | NoPermissionError,
    stalled_check: int | NoPermissionError,
) -> tuple[list[Worker], bool]:
    """Returns what `bullmq_workers` returns, given the two replies of Redis.

    A worker counts if it is connected to the client's Redis database. One connection of each worker
    has a name with the name of the queue and, if the worker has one, the name of the worker.
    """
    if isinstance(connections, NoPermissionError):
        return [], stalled_check == 1
    database = str(client.connection_pool.connection_kwargs.get("db", 0))
    workers = []
    for connection in connections:
        name, _, own_name = connection.get("name", "").partition(":w:")
        if name == _WORKER and connection.get("db") == database:
            address = connection.get("addr", "")
            host = address.rpartition(":")[0] or None
            workers.append(Worker(own_name or address, None, host, None, None, jobs=[]))
    return workers, bool(workers)


def choose_backend(signs: Signs) -> BackendChoice:
    """Returns the backend that is in use.

    Live workers decide; without any, the keys of the two queues do. Two keys do not count:
    `rq:queues`, which is never removed, and BullMQ's `meta`, which Docora's API writes even with
    `RUN_MODE=api`.
    """
    rq, bullmq = signs.rq.workers, signs.bullmq.workers
    source, why = BackendSource.WORKERS, "{} workers run"
    if rq and bullmq:
        why = "workers of both RQ and BullMQ run"
        first = "stop the workers of one kind, as each link may be worked on twice, then "
        return BackendChoice(Backend.RQ, BackendSource.UNCLEAR, why, first)
    if not (rq or bullmq):
        source, why = BackendSource.TRACES, "only {} has keys, with no worker in sight"
        rq, bullmq = signs.rq.keys, signs.bullmq.keys
    if rq and bullmq:
        why = "both RQ and BullMQ have keys, with no worker in sight"
        return BackendChoice(Backend.RQ, BackendSource.UNCLEAR, why, _START)
    if rq:
        return BackendChoice(Backend.RQ, source, why.format("RQ"))
    if bullmq:
        return BackendChoice(Backend.BULLMQ, source, why.format("BullMQ"))
    return BackendChoice(Backend.RQ, BackendSource.DEFAULT, "nobody has used the queue yet")


EMPTIED = BackendChoice(
    Backend.RQ,
    BackendSource.UNCLEAR,
    "Redis holds no key of either queue, though links were scanned "
    "(it may have been emptied, or be another Redis)",
    f"check REDIS_URL; {_START}",
)
"""The choice if Redis has no key of either queue although links were scanned."""
