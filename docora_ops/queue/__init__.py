"""The edge to Redis: the RQ queue of jobs, the progress of bulk operations, the audit entries."""

from redis import Redis

from docora_ops.jobs import Backend, BackendChoice
from docora_ops.queue.backend import choose_backend
from docora_ops.queue.link_queue import Answer, LinkQueue, PushRequest
from docora_ops.queue.progress import PacedRuns, ProgressStore
from docora_ops.queue.redis_client import connect
from docora_ops.queue.rq_queue import RqQueue
from docora_ops.settings import Settings

__all__ = [
    "Answer",
    "LinkQueue",
    "PacedRuns",
    "ProgressStore",
    "PushRequest",
    "Redis",
    "RqQueue",
    "connect",
    "queue_of",
]


def queue_of(settings: Settings, client: Redis, choice: BackendChoice | None = None) -> LinkQueue:
    """Returns the queue of the backend that was chosen or, without `choice`, is set or in use.

    Raises RedisError.
    """
    choice = choice or choose_backend(settings, client)
    if choice.backend is Backend.BULLMQ:
        from docora_ops.queue.bullmq import BullmqQueue

        return BullmqQueue(settings, client, choice)
    return RqQueue(settings, client, choice)
