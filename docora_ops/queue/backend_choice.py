"""Which backend a command works with: the one that is set, otherwise the one that is in use."""

from dataclasses import replace

from redis import Redis

from docora_ops.jobs import Backend, BackendChoice, BackendSource
from docora_ops.queue.bullmq_traces import BULLMQ, BULLMQ_PLACES, bullmq_workers
from docora_ops.queue.link_queue import LinkQueue
from docora_ops.queue.redis_errors import permitted, redis_errors
from docora_ops.queue.rq_keys import INTERMEDIATE, LIST, REGISTRIES, WIP
from docora_ops.queue.rq_workers import live_rq_workers
from docora_ops.settings import Settings

_START = "start Docora's worker if it runs its own, or "  # begins the advice if no worker is seen


def choose_backend(settings: Settings, client: Redis) -> BackendChoice:
    """Returns the backend that is set, otherwise the one that is in use. Raises RedisError.

    Live workers decide; without any, the keys of the two queues do. Two keys do not count:
    `rq:queues` is never removed, and Docora's API also writes BullMQ's `meta` with `RUN_MODE=api`.
    """
    if settings.backend is not None:
        return BackendChoice(settings.backend, BackendSource.SETTING)
    bullmq_keys = [BULLMQ + name for name in ("id", "events", *BULLMQ_PLACES)]
    with redis_errors(client):
        rq, bullmq = permitted(lambda: len(live_rq_workers(client))), len(bullmq_workers(client))
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
        return BackendChoice(Backend.RQ, BackendSource.UNCLEAR, why, _START)
    if rq:
        return BackendChoice(Backend.RQ, source, why.format("RQ"))
    if bullmq:
        return BackendChoice(Backend.BULLMQ, source, why.format("BullMQ"))
    return BackendChoice(Backend.RQ, BackendSource.DEFAULT, "nobody has used the queue yet")


def emptied(choice: BackendChoice) -> BackendChoice:
    """Makes a choice unclear: links were scanned, so a Redis without keys proves nothing."""
    why = (
        "Redis holds no key of either queue, though links were scanned "
        "(it may have been emptied, or be another Redis)"
    )
    advice = f"check REDIS_URL; {_START}"
    return replace(choice, source=BackendSource.UNCLEAR, why=why, first=advice)


def open_queue(settings: Settings, client: Redis, choice: BackendChoice) -> LinkQueue:
    """Returns the queue of the chosen backend."""
    if choice.backend is Backend.BULLMQ:
        from docora_ops.queue.bullmq_queue import BullmqQueue

        return BullmqQueue(client, choice)
    from docora_ops.queue.rq_queue import RqQueue

    return RqQueue(settings, client, choice)
