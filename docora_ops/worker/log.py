"""The log of workers and jobs: their logger, and how its lines name a link."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from redis import RedisError

from docora_ops import links
from docora_ops.text import inert, mask

# Below RQ's logger, so that `rq worker` shows the lines of a job, too.
NAME = "rq.worker.snapshot"

log = logging.getLogger(NAME)


def link_name(app_name: str, repository_name: str) -> str:
    """Returns `App ← owner/name`, inert and without secrets."""
    return inert(mask(links.link_name(app_name, repository_name)))


def name_of_arguments(arguments: Mapping[str, object]) -> str:
    """Names the link of a job by the job's arguments, by its ids if these hold no names."""
    given = [arguments.get(key) for key in ("app_name", "owner", "name")]
    if all(isinstance(each, str) for each in given):
        app_name, owner, name = given
        return link_name(str(app_name), f"{owner}/{name}")
    return inert(f"{arguments.get('app_id')} {arguments.get('repository_id')}")


def without_redis_traceback(record: logging.LogRecord) -> bool:
    """Replaces the traceback of a Redis error, which is no bug, by the error's name."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, RedisError):
        record.msg, record.args = "%s (%s)", (record.getMessage(), type(error).__name__)
        record.exc_info = None
    return True
