"""The edge to Redis: the RQ queue of jobs, the progress of bulk operations, the audit trail."""

from redis import Redis

from docora_ops.queue.audit import History
from docora_ops.queue.connection import connect
from docora_ops.queue.inspection import QueueReader
from docora_ops.queue.links import Answer, LinkQueue, PushRequest
from docora_ops.queue.progress import ProgressStore
from docora_ops.queue.waiting import WaitingList

__all__ = [
    "Answer",
    "History",
    "LinkQueue",
    "ProgressStore",
    "PushRequest",
    "QueueReader",
    "Redis",
    "WaitingList",
    "connect",
]
