"""Lets heartbeats and locks expire without waiting."""

from typing import cast

from docora_ops.queue import connect
from docora_ops.settings import Settings
from docora_ops.worker.rq_worker import SnapshotWorker
from tests.support.docora import QUEUE, Docora
from tests.support.worker_processes import expire_heartbeats

WIP = f"rq:wip:{QUEUE}"
INTERMEDIATE = f"rq:queue:{QUEUE}:intermediate"
LOCKS = ("rq:clean_registries:*", "rq:scheduler-lock:*", "docora:repo-lock:*")


def expire_heartbeats_of(docora: Docora, worker: str) -> None:
    """Lets the heartbeats of a worker, or of all workers of one command, expire."""
    for member in cast("list[bytes]", docora.redis.zrange(WIP, 0, -1)):
        key = f"rq:execution:{member.decode()}"
        name = cast("bytes | None", docora.redis.hget(key, "worker_name")) or b""
        if name.decode() == worker or name.startswith(f"{worker}-".encode()):
            docora.redis.zadd(WIP, {member: 1})
            docora.redis.delete(key)


def tidy_up(docora: Docora, settings: Settings) -> None:
    """Lets all heartbeats and locks expire, and runs the maintenance of a new worker."""
    expire_heartbeats(docora)
    with connect(settings) as client:
        worker = SnapshotWorker(settings, client, "tidy")
        for _ in range(2):  # maintenance first only marks a job that was taken and never began
            for pattern in LOCKS:
                for key in docora.redis.scan_iter(pattern):
                    docora.redis.delete(key)
            worker.run_maintenance_tasks()
            for job_id in cast("list[bytes]", docora.redis.lrange(INTERMEDIATE, 0, -1)):
                docora.redis.set(f"{INTERMEDIATE}:first_seen:{job_id.decode()}", 1, xx=True)
