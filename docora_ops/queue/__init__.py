"""The edge to Redis: the RQ queue of jobs, the progress of bulk operations, the audit entries."""

from redis import Redis

from docora_ops.queue.link_queue import Answer, LinkQueue, PushRequest
from docora_ops.queue.progress import ProgressStore
from docora_ops.queue.redis_client import connect
from docora_ops.queue.rq_queue import RqQueue

__all__ = [
    "Answer",
    "LinkQueue",
    "ProgressStore",
    "PushRequest",
    "Redis",
    "RqQueue",
    "connect",
]
