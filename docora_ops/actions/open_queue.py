"""Opening the queue that is in use."""

from __future__ import annotations

from contextlib import closing

from docora_ops.errors import ConfigurationError, PostgresError
from docora_ops.jobs import Backend, BackendChoice, BackendSource
from docora_ops.queue import LinkQueue, Redis, queue_of
from docora_ops.queue.backend import START
from docora_ops.settings import Settings

_EMPTY = (
    "Redis holds no key of either queue, though links were scanned "
    "(it may have been emptied, or be another Redis)"
)
_PATIENCE = 2
"""Seconds for the one statement: `status` and `doctor` wait for it before they ask Redis."""


def open_queue(settings: Settings, client: Redis) -> LinkQueue:
    """Returns the queue that is set or in use. Raises RedisError.

    A Redis without keys of a queue says nothing if the links were worked on before: it is unclear
    then which workers run.
    """
    queue = queue_of(settings, client)
    if queue.choice.source is BackendSource.DEFAULT and _links_were_scanned(settings):
        unclear = BackendSource.UNCLEAR
        queue.choice = BackendChoice(Backend.RQ, unclear, _EMPTY, f"check REDIS_URL; {START}")
    return queue


def _links_were_scanned(settings: Settings) -> bool:
    """Tells whether a worker has begun with a link; False if Postgres does not tell."""
    from docora_ops.database import Database
    from docora_ops.database.link_reports import has_scanned_links

    try:
        # A connection of its own: another thread may use the command's.
        with closing(Database(settings.hurried(_PATIENCE))) as database:
            return has_scanned_links(database)
    except (ConfigurationError, PostgresError):
        return False
