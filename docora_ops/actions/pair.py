"""Refuses changes with the Redis of another Docora."""

from docora_ops.actions.docora import Docora
from docora_ops.database.link_rows import linked_jobs
from docora_ops.errors import ServersMismatchedError
from docora_ops.links import ids_of_job
from docora_ops.text import amount


def require_pair(docora: Docora) -> None:
    """Raises ServersMismatchedError if Redis seems to belong to another database.

    Even a retry is refused: its job would wait in a queue whose workers do not know the link.
    """
    if mismatch := find_mismatch(docora):
        raise ServersMismatchedError(
            f"{docora.servers}: this Redis seems to belong to another database: {mismatch}. "
            "Nothing was changed",
            hint="check DATABASE_URL and REDIS_URL; if both are right, and the links of these jobs "
            f"were deleted: {docora.queue.advice.to_drop_jobs}",
        )


def find_mismatch(docora: Docora) -> str | None:
    """Says that the database knows none of the queue's first jobs; None if it knows one.

    Looks up to 100 jobs up. An empty queue can't tell, so it passes. Raises PostgresError,
    RedisError.
    """
    sample = list(filter(ids_of_job, docora.queue.use.sample))
    if not sample or linked_jobs(docora.database, sample):
        return None
    return f"none of {amount(len(sample), 'job')} looked up has a link in the database"
