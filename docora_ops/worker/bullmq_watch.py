"""Looking for workers of Docora's own, which must not work beside those of docora-ops."""

from __future__ import annotations

import time
from contextlib import suppress

from redis import Redis

from docora_ops.errors import RedisError
from docora_ops.queue.backend import has_bullmq_worker
from docora_ops.worker.log import log

INTERVAL = 5
"""Seconds between two looks."""


class BullmqWatch:
    """Tells whether a BullMQ worker of Docora is connected; logs when one comes, and goes."""

    def __init__(self, client: Redis, name: str) -> None:
        self._client = client
        self._name = name
        self._next_look = 0.0
        self._sees_worker = False

    def sees_worker(self) -> bool:
        """Looks, unless the last look was within the last seconds. An error changes nothing."""
        if time.monotonic() >= self._next_look:
            saw_worker = self._sees_worker
            with suppress(RedisError):
                self._sees_worker = has_bullmq_worker(self._client)
            self._next_look = time.monotonic() + INTERVAL
            if self._sees_worker and not saw_worker:
                log.warning(
                    "worker %s: a BullMQ worker of Docora is connected: takes no job until it is "
                    "gone, as each link would be worked on twice; run Docora with RUN_MODE=api",
                    self._name,
                )
            elif saw_worker and not self._sees_worker:
                log.warning("worker %s: no BullMQ worker is connected: goes on", self._name)
        return self._sees_worker
