"""Reading Docora's own BullMQ queue, which is in the same Redis."""

from __future__ import annotations

from typing import cast

from redis import Redis

from docora_ops.jobs import BullmqQueue

_PREFIX = "bull:snapshot-queue:"
_JOBS = tuple(_PREFIX + name for name in ("wait", "active", "delayed"))
# A running BullMQ worker sets this key each 30 seconds, with a TTL of 30 seconds.
_WORKER = _PREFIX + "stalled-check"
_ACTIVE_ASKED = 100
"""Active jobs whose locks are checked: a worker runs five at once by default."""


def read_bullmq(client: Redis) -> BullmqQueue:
    """Tells whether the BullMQ queue holds jobs, and whether a BullMQ worker runs."""
    if client.exists(_WORKER) or _has_locked_job(client):
        return BullmqQueue.WORKED_ON
    return BullmqQueue.LEFT_JOBS if client.exists(*_JOBS) else BullmqQueue.UNUSED


def _has_locked_job(client: Redis) -> bool:
    """Tells whether a worker holds an active job, whose lock it renews each 15 seconds."""
    if not client.exists(_PREFIX + "active"):
        return False
    job_ids = cast("list[bytes]", client.lrange(_PREFIX + "active", 0, _ACTIVE_ASKED - 1))
    locks = [_PREFIX.encode() + job_id + b":lock" for job_id in job_ids]
    return bool(locks) and client.exists(*locks) > 0
