"""Waiting until workers have noticed that they are suspended."""

from __future__ import annotations

import time

from docora_ops.interrupts import Stop
from docora_ops.jobs import AnyWorker
from docora_ops.queue import WorkerSwitch

_PATIENCE = 7
"""Seconds without a change. A worker looks once a second while it takes no job. One that waits for
a job looks every five seconds or, if it is RQ's own, only after the next job."""
_PAUSE = 0.2


def await_stopped(switch: WorkerSwitch, stop: Stop) -> list[AnyWorker]:
    """Waits until each live worker is suspended or busy, or none has changed for some seconds.

    Returns the workers as they are at the end. Raises RedisError.
    """
    workers = switch.workers()
    changed_at = time.monotonic()
    while not all(worker.is_stopped for worker in workers):
        if stop.requested or time.monotonic() - changed_at > _PATIENCE:
            break
        stop.sleep(_PAUSE)
        before, workers = workers, switch.workers()
        if workers != before:
            changed_at = time.monotonic()
    return workers
