"""The numbers of a Docora for a monitoring system."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from docora_ops.errors import ServerError
from docora_ops.jobs import QueueOverview
from docora_ops.links import AppCount
from docora_ops.status import DriftCounts, LinkCounts

_WORKER_STATES = ("started", "idle", "busy", "suspended")
"""RQ's words."""
_UNKNOWN, _SILENT = "unknown", "silent"


class Server(StrEnum):
    """The servers that docora-ops reads."""

    POSTGRES = "postgres"
    REDIS = "redis"


@dataclass(frozen=True)
class Metrics:
    """The numbers at one moment. Numbers of a server that is down are None."""

    links: LinkCounts | None
    failed_by_app: Sequence[AppCount] | None  # None also if not asked for
    queue: QueueOverview | None
    backend_ok: bool | None  # the workers that run are those of the backend
    drift: DriftCounts | None  # needs both servers, and the right backend
    scrape_seconds: float
    errors: Mapping[Server, ServerError]  # of the servers that are down

    @property
    def up(self) -> Mapping[Server, bool]:
        """Tells which servers answered and permitted everything."""
        return {server: server not in self.errors for server in Server}

    @property
    def workers(self) -> Mapping[str, int] | None:
        """Counts the live workers by state. Redis may hold any text there: it counts as unknown.

        A worker that has missed a heartbeat counts as silent, whatever it was doing before.
        """
        if self.queue is None:
            return None
        counts = dict.fromkeys((*_WORKER_STATES, _UNKNOWN, _SILENT), 0)
        for worker in self.queue.live_workers:
            state = worker.state if worker.state in _WORKER_STATES else _UNKNOWN
            counts[state if worker.silent_seconds is None else _SILENT] += 1
        return counts
