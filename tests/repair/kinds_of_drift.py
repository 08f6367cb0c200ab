"""A way to make each kind of drift."""

from collections.abc import Callable

from rq.job import Job, JobStatus
from rq.utils import now

from docora_ops.drift import DriftKind
from tests.support.docora import QUEUE, Docora
from tests.support.rows import TestLink

LATER = now().timestamp() + 10**6

Arrange = Callable[[Docora], TestLink]


def registry(name: str) -> str:
    return f"rq:{name}:{QUEUE}"


def never_queued(docora: Docora) -> TestLink:
    return docora.add_link("pending_snapshot", retry_count=2, last_error="said before")


def in_no_list(docora: Docora) -> TestLink:
    """As after a DEL of the queue by hand."""
    link = docora.add_link()
    docora.queue_job(link)
    docora.redis.lrem(docora.queue.key, 0, link.job_id)
    return link


def failed_job(docora: Docora) -> TestLink:
    link = never_queued(docora)
    docora.leave_job(link.job_id, JobStatus.FAILED)
    return link


def killed(docora: Docora) -> TestLink:
    link = docora.add_link("scanning", retry_count=2, last_error="said before")
    docora.start_job(link.job_id, heartbeat=-10)
    return link


def cut_off(docora: Docora) -> TestLink:
    return docora.add_link("scanning", retry_count=2, last_error="said before")


def orphaned(docora: Docora) -> TestLink:
    link = docora.add_link()
    docora.queue_job(link)
    docora.delete_link(link)
    return link


def orphaned_without_repository(docora: Docora) -> TestLink:
    link = orphaned(docora)
    docora.connection.execute(
        "DELETE FROM repositories WHERE repository_id = %s", (link.repository_id,)
    )
    return link


def orphaned_in(name: str, status: JobStatus) -> Arrange:
    def arrange(docora: Docora) -> TestLink:
        link = orphaned(docora)
        docora.redis.lrem(docora.queue.key, 0, link.job_id)
        docora.redis.hset(Job.key_for(link.job_id), "status", status.value)
        docora.redis.zadd(registry(name), {link.job_id: LATER})
        return link

    return arrange


def thrice(docora: Docora) -> TestLink:
    link = docora.add_link()
    docora.queue_job(link)
    docora.redis.rpush(docora.queue.key, link.job_id, link.job_id)
    return link


def scheduled_too(docora: Docora) -> TestLink:
    link = docora.add_link()
    docora.queue_job(link)
    docora.redis.zadd(registry("scheduled"), {link.job_id: LATER})
    return link


def entry_in(name: str) -> Arrange:
    """Of a job that is gone, for a link that has none."""

    def arrange(docora: Docora) -> TestLink:
        link = docora.add_link("synced")
        docora.redis.zadd(registry(name), {link.job_id: LATER})
        return link

    return arrange


def entry_of_waiting_job(docora: Docora) -> TestLink:
    """A plain enqueue over a failed job leaves it behind."""
    link = docora.add_link("pending_snapshot")
    docora.leave_job(link.job_id, JobStatus.FAILED)
    docora.enqueue(link.job_id)
    return link


def place_without_job(docora: Docora) -> TestLink:
    link = docora.add_link("synced")
    docora.redis.rpush(docora.queue.key, link.job_id, link.job_id)
    return link


def dead_run_without_job(docora: Docora) -> TestLink:
    link = docora.add_link("synced")
    docora.start_job(link.job_id, heartbeat=-10)
    docora.redis.delete(Job.key_for(link.job_id))
    return link


LOST, STUCK, ORPHAN, DUPLICATE, STALE = DriftKind
DRIFT: dict[Arrange, DriftKind] = {
    never_queued: LOST,
    in_no_list: LOST,
    failed_job: LOST,
    killed: STUCK,
    cut_off: STUCK,
    orphaned: ORPHAN,
    orphaned_without_repository: ORPHAN,
    orphaned_in("scheduled", JobStatus.SCHEDULED): ORPHAN,
    orphaned_in("failed", JobStatus.FAILED): ORPHAN,
    thrice: DUPLICATE,
    scheduled_too: DUPLICATE,
    entry_in("failed"): STALE,
    entry_in("scheduled"): STALE,
    entry_of_waiting_job: STALE,
    place_without_job: STALE,
    dead_run_without_job: STALE,
}
