"""What a pass of the schedule looks at, and leaves."""

from __future__ import annotations

from typing import Any, cast

from rq.job import Job

from tests.support.docora import Docora

BATCH = 500
LINKS = 4 * BATCH


def document(message: str, **changed: Any) -> dict[str, Any]:
    """The whole document, its counts 0 unless given."""
    names = ("queued", "replaced_stale", "already_queued", "already_running", "skipped", "failed")
    counts = {name: changed.pop(name, 0) for name in names}
    succeeded = counts["queued"] + counts["replaced_stale"] + counts["already_queued"]
    total = sum(counts.values())
    return {
        "data": {
            "message": message,
            "operation_id": None,
            "total": total,
            "completed": total,
            "succeeded": succeeded,
            "cancelled": False,
            "failures": [],
            **counts,
            **changed,
        }
    }


def rows(docora: Docora) -> dict[str, Any]:
    """All tables, with what shows that a row was written again."""
    return docora.dump()[0]


def job_ids(docora: Docora) -> list[str]:
    """Of all links, in their order."""
    return [link.job_id for link in docora.links()]


def known_operations(docora: Docora) -> list[bytes]:
    return cast("list[bytes]", docora.redis.keys("docora:*"))


def jobs(docora: Docora) -> dict[str, bool]:
    """The rescan flag of each job in the queue, by its id, from the head."""
    return {
        job_id: Job.fetch(job_id, connection=docora.redis).kwargs["is_rescan"]
        for job_id in docora.waiting()
    }


def set_all(docora: Docora, assignments: str, where: str = "true") -> None:
    docora.connection.execute(f"UPDATE app_repositories SET {assignments} WHERE {where}".encode())
