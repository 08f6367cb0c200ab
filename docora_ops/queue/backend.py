"""Finding out which backend is in use, where `DOCORA_OPS_BACKEND` does not say it."""

from __future__ import annotations

from redis import Redis
from redis.exceptions import NoPermissionError
from rq import Queue
from rq.intermediate_queue import IntermediateQueue
from rq.registry import BaseRegistry, StartedJobRegistry
from rq.worker_registration import WORKERS_BY_QUEUE_KEY

from docora_ops.jobs import Backend, BackendChoice, BackendSource
from docora_ops.queue.bullmq_reader import BullmqReader
from docora_ops.queue.redis_client import redis_errors
from docora_ops.queue.registries import REGISTRIES, registry_key
from docora_ops.settings import Settings

START = "start Docora's worker if it runs its own, or "
"""Begins the advice where no worker is seen."""


def choose_backend(settings: Settings, client: Redis) -> BackendChoice:
    """Returns the backend that is set, otherwise the one that is in use. Raises RedisError.

    Live workers decide; without any, the keys of the two queues do. Not among them is `rq:queues`,
    which stays for ever.
    """
    if settings.backend is not None:
        return BackendChoice(settings.backend, BackendSource.SETTING)
    with redis_errors(client):
        rq_runs, bullmq_runs, rq_exists, bullmq_exists = _find(settings, client)
    match rq_runs, bullmq_runs, rq_exists, bullmq_exists:
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


def _find(settings: Settings, client: Redis) -> tuple[bool, bool, bool, bool]:
    """Tells whether workers of RQ and of BullMQ run, and whether keys of the two queues exist.

    What the user may not read counts as absent: users are made for one of the two.
    """
    queue, reader = settings.queue_name, BullmqReader(settings, client)
    rq_list = Queue(queue, connection=client).key
    intermediate = IntermediateQueue.get_intermediate_queue_key(rq_list)
    registries: list[type[BaseRegistry]] = [StartedJobRegistry, *REGISTRIES.values()]
    pipeline = client.pipeline(transaction=False)
    pipeline.smembers(WORKERS_BY_QUEUE_KEY % queue)
    pipeline.client_list()
    pipeline.exists(rq_list, intermediate, *(registry_key(each, queue) for each in registries))
    pipeline.exists(*reader.traces)
    found = []
    for answer in pipeline.execute(raise_on_error=False):
        if isinstance(answer, Exception) and not isinstance(answer, NoPermissionError):
            raise answer
        found.append(None if isinstance(answer, Exception) else answer)
    workers, clients, rq_keys, bullmq_keys = found
    rq_runs = bool(workers and client.exists(*sorted(workers)))
    return rq_runs, bool(reader.workers_among(clients)), bool(rq_keys), bool(bullmq_keys)
