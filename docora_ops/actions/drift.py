"""Finding what is out of step between database and queue."""

from __future__ import annotations

from docora_ops.database import Database
from docora_ops.drift import DriftReport
from docora_ops.models import LinkRef
from docora_ops.queue import LinkQueue


def find_drift(
    database: Database,
    queue: LinkQueue,
    *,
    grace_seconds: float,
    app_id: str | None = None,
    ref: LinkRef | None = None,
) -> DriftReport:
    """What is wrong everywhere, with one app, or with one link; writes nothing.

    Where the first look finds something, looks again `grace_seconds` later, holding no lock and no
    transaction, and counts only what was wrong in the same way both times; with 0 it looks once.
    Raises PostgresError, RedisError.
    """
    raise NotImplementedError
