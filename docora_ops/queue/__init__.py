"""The edge to Redis: the RQ queue of jobs, the progress of bulk operations, the audit entries."""

from redis import Redis

from docora_ops.queue.audit_stream import History
from docora_ops.queue.link_queue import Answer, LinkQueue, PushRequest
from docora_ops.queue.progress import ProgressStore
from docora_ops.queue.queue_reader import QueueReader
from docora_ops.queue.redis_client import connect
from docora_ops.queue.suspension import WorkerSwitch
from docora_ops.queue.waiting_list import ExpiredExecutions, WaitingList

__all__ = [
    "Answer",
    "ExpiredExecutions",
    "History",
    "LinkQueue",
    "ProgressStore",
    "PushRequest",
    "QueueReader",
    "Redis",
    "WaitingList",
    "WorkerSwitch",
    "connect",
]
