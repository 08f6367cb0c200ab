"""Looking at the queue, and at everything about one link."""

from __future__ import annotations

from docora_ops.queue import QueueReader
from docora_ops.views import QueueOverview


def queue_overview(reader: QueueReader, limit: int) -> QueueOverview:
    """Counts, workers, scheduler, and at most `limit` jobs. Raises RedisError."""
    return reader.overview(limit)
