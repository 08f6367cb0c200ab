"""What stands beside us on the queue, and is worth a word before a change."""

from __future__ import annotations

from docora_ops.models import Surroundings
from docora_ops.queue import LinkQueue


def look_around(queue: LinkQueue) -> Surroundings:
    """Read it from Redis. Raises RedisError."""
    return Surroundings(queue.count_workers(), queue.stock_queue_is_used())
