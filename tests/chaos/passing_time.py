"""What happens as time goes by, without waiting for it."""

from __future__ import annotations

from typing import cast

from docora_ops.queue import connect
from docora_ops.settings import Settings
from docora_ops.worker.caretaker import LinkCaretaker
from docora_ops.worker.rq_worker import SnapshotWorker
from tests.support.docora import QUEUE, Docora
from tests.support.worker_processes import expire_heartbeats

_WIP = f"rq:wip:{QUEUE}"
_INTERMEDIATE = f"rq:queue:{QUEUE}:intermediate"
_LOCKS = ("rq:clean_registries:*", "rq:scheduler-lock:*", "docora:repo-lock:*")


def expire_heartbeats_of(docora: Docora, worker: str) -> None:
    """Let a worker, or all of one command, be silent for so long that it is taken for dead."""
    for member in cast("list[bytes]", docora.redis.zrange(_WIP, 0, -1)):
        key = f"rq:execution:{member.decode()}"
        name = cast("bytes | None", docora.redis.hget(key, "worker_name")) or b""
        if name.decode() == worker or name.startswith(f"{worker}-".encode()):
            docora.redis.zadd(_WIP, {member: 1})
            docora.redis.delete(key)


def tidy_up(docora: Docora, settings: Settings) -> None:
    """Let all heartbeats and locks expire, and another worker of ours start and look around."""
    expire_heartbeats(docora)
    with connect(settings) as client:
        worker = SnapshotWorker(settings, client, "tidy", LinkCaretaker(settings, client))
        for _ in range(2):  # a job that was popped and never begun is only noted at first
            for pattern in _LOCKS:
                for key in docora.redis.scan_iter(pattern):
                    docora.redis.delete(key)
            worker.run_maintenance_tasks()
            for job_id in cast("list[bytes]", docora.redis.lrange(_INTERMEDIATE, 0, -1)):
                docora.redis.set(f"{_INTERMEDIATE}:first_seen:{job_id.decode()}", 1, xx=True)
