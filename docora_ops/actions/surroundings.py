"""What is on the queue, and what stands beside us and is worth a word before a change."""

from __future__ import annotations

from docora_ops.jobs import QueueOverview, Surroundings
from docora_ops.queue import LinkQueue, QueueReader


def look_around(queue: LinkQueue) -> Surroundings:
    """Read it from Redis. Raises RedisError."""
    return Surroundings(queue.count_workers(), queue.read_bullmq())


def queue_overview(reader: QueueReader, limit: int) -> QueueOverview:
    """Counts, workers, scheduler, and at most `limit` jobs. Raises RedisError."""
    return reader.overview(limit)
