"""`show`: all that is known of one link."""

from collections.abc import Sequence
from dataclasses import dataclass

from docora_ops.actions.docora import Docora
from docora_ops.database import lists as sql
from docora_ops.database.lists import DeliveredFile, StoredCommit
from docora_ops.links import RESUME_RQ, Backend, JobState, Link, LinkStatus
from docora_ops.queue.backend import QueuedJob


@dataclass(frozen=True)
class LinkDetails:
    """One link, what was delivered, its job, and one sentence on what to do next.

    delivered: the number of files that the app has received.
    files: those of them that were asked for, the latest first.
    """

    link: Link
    commit: StoredCommit | None
    delivered: int
    files: Sequence[DeliveredFile]
    job: QueuedJob
    next_step: str


def read_details(docora: Docora, link: Link, *, all_files: bool = False) -> LinkDetails:
    """Reads both servers. `all_files`: also read the delivered files.

    Raises PostgresError, RedisError.
    """
    with docora.database.transaction():
        commit = sql.read_commit(docora.database, link.repository_id)
        delivered, files = sql.read_deliveries(docora.database, link, None if all_files else 0)
    job = docora.queue.read_job(link.job_id)
    return LinkDetails(link, commit, delivered, files, job, _next_step(docora, link, job))


def _next_step(docora: Docora, link: Link, job: QueuedJob) -> str:
    is_bullmq = docora.queue.backend is Backend.BULLMQ
    if job.state is JobState.WAITING and not docora.queue.workers():
        start = "start Docora's worker" if is_bullmq else "docora-ops worker"
        return f"its job waits, but no worker is running: {start}"
    if job.state is JobState.WAITING and docora.queue.is_suspended():
        resume = "" if is_bullmq else f": {RESUME_RQ}"
        return f"its job waits, but the workers are suspended{resume}"
    if job.state.is_live:
        return f"nothing: its job is {job.state}"
    # Docora's scheduler waits for the circuit; ours queues the job at once.
    close = " --reset-circuit" if is_bullmq and link.circuit_is_open else ""
    match link.status:
        case LinkStatus.FAILED:
            cause = "git works again" if link.circuit_is_open else "the cause is gone"
            return f"once {cause}: docora-ops retry {link.words}{close}"
        case LinkStatus.PENDING_SNAPSHOT if is_bullmq:
            if close:
                return "nothing: Docora's scheduler queues its job once the circuit is closed"
            return "nothing: Docora's scheduler queues its job within a minute"
        case LinkStatus.SYNCED:
            return f"nothing; to compare what was delivered: docora-ops verify {link.words}"
    return f"it has lost its job: docora-ops repair {link.words}"
