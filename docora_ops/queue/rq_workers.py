"""The workers of RQ that listen on the queue, as commands of either backend see them."""

from __future__ import annotations

from typing import cast

from redis import Redis
from redis.exceptions import NoPermissionError
from rq import Queue
from rq.defaults import RQ_KEY_PREFIX
from rq.registry import ScheduledJobRegistry
from rq.worker_registration import WORKERS_BY_QUEUE_KEY

from docora_ops.jobs import OtherQueue
from docora_ops.queue.redis_client import redis_errors
from docora_ops.queue.registries import registry_key
from docora_ops.queue.values import command_to_delete, literal
from docora_ops.settings import Settings


def count_workers(settings: Settings, client: Redis) -> int:
    """Counts the live workers. Raises RedisError."""
    with redis_errors(client):
        return _count(settings, client)


def read_use(settings: Settings, client: Redis) -> OtherQueue:
    """Tells for an installation with BullMQ whether RQ is in use beside it. Raises RedisError.

    A user who may not read RQ's keys sees nothing of it.
    """
    with redis_errors(client):
        try:
            if _count(settings, client):
                return OtherQueue.WORKED_ON
            has_jobs = client.exists(f"{Queue.redis_queue_namespace_prefix}{settings.queue_name}")
            has_jobs = has_jobs or client.exists(
                registry_key(ScheduledJobRegistry, settings.queue_name)
            )
        except NoPermissionError:
            return OtherQueue.UNUSED
        return OtherQueue.LEFT_JOBS if has_jobs else OtherQueue.UNUSED


def command_to_remove_jobs(settings: Settings) -> str:
    """Returns the shell command that removes the queue of RQ and the jobs of links.

    `rq empty` leaves delayed jobs, and needs the same privileges.
    """
    return command_to_delete(
        f"{RQ_KEY_PREFIX}:*:{literal(settings.queue_name)}", f"{RQ_KEY_PREFIX}:*:app_*-repo_*"
    )


def _count(settings: Settings, client: Redis) -> int:
    keys = cast("set[bytes]", client.smembers(WORKERS_BY_QUEUE_KEY % settings.queue_name))
    return client.exists(*sorted(keys)) if keys else 0
