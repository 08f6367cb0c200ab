"""Reads and writes Redis: the job queue, and whatever else docora-ops keeps there."""

from redis import Redis as Redis

from docora_ops.queue.link_queue import Answer as Answer
from docora_ops.queue.link_queue import LinkQueue as LinkQueue
from docora_ops.queue.link_queue import PushRefusedError as PushRefusedError
from docora_ops.queue.link_queue import PushRequest as PushRequest
from docora_ops.queue.redis_client import Command as Command
from docora_ops.queue.redis_client import connect as connect
from docora_ops.queue.rq_queue import RqQueue as RqQueue
