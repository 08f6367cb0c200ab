"""What BullMQ and its workers leave in Redis: the keys of Docora's own queue, and connections."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from contextlib import suppress

from redis import Redis
from redis.exceptions import NoPermissionError

from docora_ops.jobs import QUEUE_NAME, Worker

_PREFIX = "bull"
BULLMQ = f"{_PREFIX}:{QUEUE_NAME}:"  # begins all keys of the queue
BULLMQ_LISTS = ("wait", "paused", "active")
BULLMQ_SETS = ("delayed", "failed", "completed")
BULLMQ_PLACES = (*BULLMQ_LISTS, *BULLMQ_SETS)  # in the first four, the jobs are to be run
# With this key a worker keeps the others from looking for stalled jobs in the same 30 s.
STALLED_CHECK = f"{BULLMQ}stalled-check"
# A shell command that removes the queue.
TO_REMOVE_BULLMQ_JOBS = (
    f"""{{ redis-cli -u "$REDIS_URL" --scan --pattern '{BULLMQ}*'; }} | """
    'xargs -r -n 100 redis-cli -u "$REDIS_URL" del'
)
_WORKER = f"{_PREFIX}:{b64encode(QUEUE_NAME.encode()).decode()}"  # begins a connection's name


def bullmq_workers(client: Redis) -> list[Worker]:
    """Returns the live workers of Docora's own queue, none if the user may not list clients."""
    with suppress(NoPermissionError):
        return workers_among(client.client_list(), client)
    return []


def sees_bullmq_worker(client: Redis) -> bool:
    """Tells whether a worker of Docora's own queue is live.

    If the user may not list clients, tells whether one was live in the last 30 s.
    """
    with suppress(NoPermissionError):
        return bool(workers_among(client.client_list(), client))
    with suppress(NoPermissionError):
        return bool(client.exists(STALLED_CHECK))
    return False


def workers_among(connections: Sequence[Mapping[str, str]], client: Redis) -> list[Worker]:
    """Returns the workers of Docora's own queue in the client's database of Redis.

    A worker is known by one of its connections, which has the name of the queue and the worker's
    own name, if any.
    """
    database = str(client.connection_pool.connection_kwargs.get("db", 0))
    workers = []
    for connection in connections:
        name, _, own_name = connection.get("name", "").partition(":w:")
        if name == _WORKER and connection.get("db") == database:
            address = connection.get("addr", "")
            host = address.rpartition(":")[0] or None
            workers.append(Worker(own_name or address, None, host, None, None, jobs=[]))
    return workers
