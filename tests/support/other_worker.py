"""A worker that is not ours: it takes jobs from the queue and writes results."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread
from typing import cast

import psycopg

from tests.support.docora import Docora
from tests.support.proxy import patience

_WRITE_RESULT = """
UPDATE app_repositories
SET status = CASE WHEN %(error)s::text IS NULL THEN 'synced' ELSE 'failed' END,
    last_error = %(error)s
WHERE app_id || '-' || repository_id = %(job_id)s
"""
_END = b"the-end"
GOES_ON = "the snapshot goes on"  # instead of an error: the job runs and writes no result


def end_job(docora: Docora, job_id: str, error: str | None = None) -> None:
    """Take a job that waits, and come to a result."""
    # The job first: once the link has its result, another one may be pushed.
    docora.redis.lrem(docora.queue.key, 1, job_id)
    docora.redis.delete(f"rq:job:{job_id}")
    docora.connection.execute(_WRITE_RESULT, {"job_id": job_id, "error": error})


@contextmanager
def other_worker(
    docora: Docora, error_of: Callable[[str], str | None] = lambda _job_id: None
) -> Iterator[None]:
    docora.add_worker()

    def work() -> None:
        with psycopg.connect(docora.database_access.owner, autocommit=True) as connection:
            while True:
                taken = cast("list[bytes] | None", docora.redis.blpop([docora.queue.key], 1))
                if taken is None:
                    continue
                if taken[1] == _END:  # always taken: left in the list, it would count as a job
                    return
                job_id = taken[1].decode()
                if (error := error_of(job_id)) == GOES_ON:
                    docora.start_job(job_id)
                else:
                    connection.execute(_WRITE_RESULT, {"job_id": job_id, "error": error})
                    docora.redis.delete(f"rq:job:{job_id}")

    thread = Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        docora.redis.rpush(docora.queue.key, _END)
        thread.join(patience())
