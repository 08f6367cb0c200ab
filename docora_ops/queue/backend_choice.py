"""Reads who uses this Redis. If the settings name no backend, chooses the one that is in use.

BullMQ is recognized by the keys of Docora's own queue, and its workers by their connections.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from redis import Redis
from redis.exceptions import NoPermissionError
from rq.worker_registration import WORKERS_BY_QUEUE_KEY

from docora_ops.jobs import QUEUE_NAME, Backend, BackendChoice, BackendSource, Worker
from docora_ops.queue.pair_mark import PAIR_KEY, StoredMark, mark_of
from docora_ops.queue.redis_answers import answers_of, text_of
from docora_ops.queue.redis_client import redis_errors
from docora_ops.queue.rq_keys import INTERMEDIATE, LIST, REGISTRIES, WIP
from docora_ops.queue.rq_workers import live_rq_workers
from docora_ops.settings import Settings

if TYPE_CHECKING:
    from docora_ops.queue.link_queue import LinkQueue

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
_WORKER = f"{_PREFIX}:{b64encode(QUEUE_NAME.encode()).decode()}"  # prefix of a connection's name
_START = "start Docora's worker if it runs its own, or "  # begins the advice if no worker is seen
_RQ_KEYS = (LIST, INTERMEDIATE, WIP, *REGISTRIES.values())
_BULLMQ_KEYS = [BULLMQ + name for name in ("id", "events", *BULLMQ_PLACES)]


@dataclass(frozen=True)
class Signs:
    """The signs of who uses this Redis, as far as our user may read them.

    rq_workers: the keys of the live RQ workers that listen on the queue.
    bullmq_workers: the number of live BullMQ workers; 0 if our user may not list clients.
    bullmq_is_at_work: whether a BullMQ worker is live or, if our user may not list clients, was
        live in the last 30 s.
    mark: the mark that names the database of this Redis.
    denial: the error if our user may not read RQ's workers or some of the keys.
    rq_keys, bullmq_keys: how many keys of each queue exist.
    rq_jobs: how many of RQ's keys of waiting jobs exist: the list, the scheduled registry.
    bullmq_jobs: how many of BullMQ's keys of live jobs exist: wait, paused, active, delayed.
    """

    rq_workers: Sequence[str]
    bullmq_workers: int
    bullmq_is_at_work: bool
    mark: StoredMark
    denial: NoPermissionError | None
    rq_keys: int
    bullmq_keys: int
    rq_jobs: int
    bullmq_jobs: int


def read_signs(client: Redis) -> Signs:
    """Reads who uses this Redis, in one round trip; in two if RQ workers are registered.

    Raises the client's RedisError.
    """
    pipeline = client.pipeline(transaction=False)
    pipeline.client_list()
    pipeline.exists(_STALLED_CHECK)
    pipeline.hgetall(PAIR_KEY)
    pipeline.smembers(WORKERS_BY_QUEUE_KEY % QUEUE_NAME)
    pipeline.exists(*_RQ_KEYS)
    pipeline.exists(*_BULLMQ_KEYS)
    pipeline.exists(LIST, REGISTRIES["scheduled"])
    pipeline.exists(*(BULLMQ + name for name in BULLMQ_PLACES[:4]))
    connections, stalled_check, mark, *others = answers_of(pipeline, keeps_denials=True)
    denial = next((answer for answer in others if isinstance(answer, NoPermissionError)), None)
    members, *counts = (0 if isinstance(answer, NoPermissionError) else answer for answer in others)
    workers, at_work = _count_bullmq_workers(client, connections, stalled_check)
    live = live_rq_workers(client, sorted(map(text_of, cast("set[bytes]", members or ()))))
    return Signs(live, workers, at_work, mark_of(mark), denial, *counts)


def bullmq_workers(client: Redis) -> list[Worker]:
    """Returns the live workers of Docora's own queue; none if our user may not list clients."""
    with suppress(NoPermissionError):
        return _workers_among(client.client_list(), client)
    return []


def sees_bullmq_worker(client: Redis) -> bool:
    """Tells whether a worker of Docora's own queue is live.

    If our user may not list clients, tells whether one was live in the last 30 s.
    """
    pipeline = client.pipeline(transaction=False)
    pipeline.client_list()
    pipeline.exists(_STALLED_CHECK)
    _, at_work = _count_bullmq_workers(client, *answers_of(pipeline, keeps_denials=True))
    return at_work


def _count_bullmq_workers(
    client: Redis,
    connections: Sequence[Mapping[str, str]] | NoPermissionError,
    stalled_check: int | NoPermissionError,
) -> tuple[int, bool]:
    """Returns `bullmq_workers` and `bullmq_is_at_work` of `Signs`, from two replies of Redis."""
    if isinstance(connections, NoPermissionError):
        return 0, stalled_check == 1
    workers = len(_workers_among(connections, client))
    return workers, workers > 0


def _workers_among(connections: Sequence[Mapping[str, str]], client: Redis) -> list[Worker]:
    """Returns the workers of Docora's own queue that are connected to the client's Redis database.

    One connection of each worker is named after the queue and, if the worker has a name, after the
    worker.
    """
    database = str(client.connection_pool.connection_kwargs.get("db", 0))
    workers = []
    for connection in connections:
        name, _, own_name = connection.get("name", "").partition(":w:")
        if name == _WORKER and connection.get("db") == database:
            address = connection.get("addr", "")
            host = address.rpartition(":")[0] or None
            workers.append(Worker(own_name or address, None, host, None, None, jobs=[]))
    return workers


def choose_backend(signs: Signs) -> BackendChoice:
    """Returns the backend that is in use.

    Live workers decide; without any, the keys of the two queues do. Two keys do not count:
    `rq:queues` is never removed, and Docora's API also writes BullMQ's `meta` with `RUN_MODE=api`.
    """
    rq, bullmq = len(signs.rq_workers), signs.bullmq_workers
    source, why = BackendSource.WORKERS, "{} workers run"
    if rq and bullmq:
        why = "workers of both RQ and BullMQ run"
        first = "stop the workers of one kind, as each link may be worked on twice, then "
        return BackendChoice(Backend.RQ, BackendSource.UNCLEAR, why, first)
    if not (rq or bullmq):
        source, why = BackendSource.TRACES, "only {} has keys, with no worker in sight"
        rq, bullmq = signs.rq_keys, signs.bullmq_keys
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


def open_queue(settings: Settings, client: Redis) -> LinkQueue:
    """Returns the queue of the backend that is set or, without a setting, in use.

    Raises RedisError.
    """
    signs = None
    if settings.backend is not None:
        choice = BackendChoice(settings.backend, BackendSource.SETTING)
    else:
        with redis_errors(client):
            signs = read_signs(client)
        choice = choose_backend(signs)
    if choice.backend is Backend.BULLMQ:
        from docora_ops.queue.bullmq_queue import BullmqQueue

        return BullmqQueue(client, choice, signs)
    from docora_ops.queue.rq_queue import RqQueue

    return RqQueue(settings, client, choice, signs)
