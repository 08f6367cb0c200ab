"""What a pass of the schedule looks at, and leaves."""

from __future__ import annotations

from typing import Any

from rq.job import Job

from tests.harness import Docora


def jobs(docora: Docora) -> dict[str, bool]:
    """The rescan flag of each job in the queue, by its id, from the head."""
    return {
        job_id: Job.fetch(job_id, connection=docora.redis).kwargs["is_rescan"]
        for job_id in docora.waiting()
    }


def rows(docora: Docora) -> dict[str, Any]:
    """All tables, with what shows that a row was written again."""
    return docora.dump()[0]


def set_all(docora: Docora, assignments: str, where: str = "true") -> None:
    docora.connection.execute(f"UPDATE app_repositories SET {assignments} WHERE {where}".encode())
