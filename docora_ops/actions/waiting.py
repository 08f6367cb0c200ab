"""Waits for the snapshots of a link or of a bulk operation."""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import asdict, dataclass, replace
from math import inf
from shlex import quote

from docora_ops.actions.change import LinkOutcome
from docora_ops.actions.docora import Docora, warn_of_other_workers, warn_of_workers
from docora_ops.actions.link_jobs import invalid_job_id, job_state
from docora_ops.actions.lookup import resolve_link
from docora_ops.actions.snapshot_results import Following
from docora_ops.database.link_rows import read_link
from docora_ops.errors import NotFoundError, RedisError
from docora_ops.links import Action, Link, LinkResult, LinkStatus, Outcome
from docora_ops.operations import (
    BulkWait,
    Change,
    LinkWait,
    OperationRecord,
    OperationState,
    WaitEnd,
)
from docora_ops.queue.audit_stream import AuditEntry, AuditEvent, add_entry, audit_entry
from docora_ops.queue.operation_links import read_links
from docora_ops.queue.operation_records import read_operation, renew, write_results

_LOOK = 1  # seconds between two looks at an operation


@dataclass(frozen=True)
class LinkStep:
    """The state of a wait for one link. `end`: the result; INTERRUPTED until the last step."""

    link: Link
    workers: int
    wait: BulkWait
    end: LinkWait


def wait(
    docora: Docora, app: str, repository: str, *, timeout: float | None = None
) -> Generator[LinkStep]:
    """Waits for the snapshot of a link, for at most `timeout` seconds if given.

    Ends at once if the link is synced, or is failed and has no live job.
    Raises NotFoundError, AmbiguousError, InvalidJobIdError, PostgresError, RedisError.
    """
    link = resolve_link(docora.database, app, repository)
    if not link.ref.has_valid_job_id:
        raise invalid_job_id(link.ref)
    queue, has_result = docora.queue_to_read, link.status in {LinkStatus.SYNCED, LinkStatus.FAILED}
    job = job_state(docora.database, queue, link.ref) if has_result else None
    if job and not job.is_live:
        workers = queue.use.workers  # no job waits for a worker, so warn of nothing
        warn_of_other_workers(docora)
    else:
        workers = warn_of_workers(docora)
    if link.status == LinkStatus.SYNCED:  # any live job is a rescan
        if job and job.is_live:
            see = f"docora-ops show {link.ref.words}"
            docora.note(
                f"A rescan of this link is {job}, and is not awaited. To see its job: {see}"
            )
        end = LinkWait(WaitEnd.SYNCED, link.status, None, 0)
        yield LinkStep(link, workers, BulkWait(1, 0, 0, 0, (), 0), end)
        return
    if not queue.can_push and link.circuit_is_open:
        close = f"docora-ops retry {link.ref.words} --reset-circuit"
        docora.warn(f"{link.behind_circuit}. To close it: {close}")
    following = Following(docora, link.ref.words)
    following.add([LinkOutcome(link.ref, Outcome.ALREADY_RUNNING)])
    following.start(timeout)
    yield from _wait_for_link(docora, following, link, workers)


def wait_for_change(
    docora: Docora, change: LinkResult, *, timeout: float | None = None
) -> Generator[LinkStep]:
    """Waits for the snapshot of a link after its `retry` or `resync`, like `wait`.

    Adds the result to the audit entries of the change, unless the wait is interrupted or Redis is
    down.
    """
    link = change.link
    following = Following(docora, link.ref.words)
    following.start(timeout)
    if change.action is Action.RETRY and link.status != LinkStatus.FAILED:
        # The job was exempted from a hold, or a circuit was closed: the status is an old result.
        following.add_unchanged([link.ref.id])
    else:
        following.add([LinkOutcome(link.ref, change.outcome)])
        if change.outcome.is_put_to_work:  # an interrupted wait must not show the old error
            link = replace(link, status=LinkStatus.PENDING_SNAPSHOT, error_message=None)
    yield from _wait_for_link(docora, following, link, change.workers, change.run)


def _wait_for_link(
    docora: Docora, following: Following, link: Link, workers: int, run: str = ""
) -> Generator[LinkStep]:
    for step in following.follow():
        interrupted = (WaitEnd.INTERRUPTED, link.status, link.error_message)
        yield LinkStep(link, workers, step, LinkWait(*interrupted, step.seconds))
    end: tuple[WaitEnd, str | None, str | None] = (WaitEnd.GONE, None, None)
    if step.synced:
        end = (WaitEnd.SYNCED, LinkStatus.SYNCED, None)
    elif step.failed:
        end = (WaitEnd.FAILED, LinkStatus.FAILED, step.failed_links[0].error_message)
    elif step.unfinished and (
        current := read_link(docora.database, link.ref.app_id, link.ref.repository_id)
    ):
        reason = WaitEnd.LOST if step.only_lost_left else WaitEnd.TIMEOUT
        end = (reason, current.status, current.error_message)
    if run and not following.watch.misses_redis:
        entry = _results_entry(docora.describe_change("wait", None), run, step)
        try:
            add_entry(docora.redis, entry)
        except RedisError as error:
            docora.warn(f"history does not show the result: {error.message}")
    yield LinkStep(link, workers, step, LinkWait(*end, step.seconds))


@dataclass(frozen=True)
class OperationStep:
    """The state of a wait for an operation.

    goes_on: whether the operation may still claim links.
    """

    operation: OperationRecord
    wait: BulkWait
    goes_on: bool = True

    @property
    def left(self) -> int:
        """Counts the links that the operation has not handled."""
        return self.operation.total - self.operation.completed


def wait_for_operation(
    docora: Docora, operation_id: str, *, timeout: float | None = None
) -> Generator[OperationStep]:
    """Waits for the snapshots of a bulk operation, for at most `timeout` seconds if given.

    Stores the results with the operation. Raises NotFoundError, PostgresError, RedisError.
    """
    operation = read_operation(docora.redis, operation_id)
    step = OperationStep(operation, BulkWait(0, 0, 0, 0, (), 0))
    if operation.who is None:
        raise NotFoundError(
            f"the links of operation {operation_id!r} are not known: Docora's dashboard runs it",
            hint=f"docora-ops operations {quote(operation_id)} --follow shows how far it is",
        )
    warn_of_workers(docora)
    following = Following(docora)
    following.start(timeout)
    ids: list[str] = []
    looked_at = -inf
    lost: RedisError | None = None
    try:
        yield step
        step = _look_at_operation(docora, following, step, ids)
        for results in following.follow():
            if time.monotonic() - looked_at >= _LOOK:
                looked_at = time.monotonic()
                step = _look_at_operation(docora, following, step, ids)
            step = replace(step, wait=results)
            yield step
    except RedisError as error:
        lost = error
        raise
    finally:
        is_known = step.operation.results and not step.operation.results.unfinished
        results = following.result()
        if results.total and not (is_known or lost or following.watch.misses_redis):
            keep_results(docora, operation_id, results, docora.describe_change("wait", None))


def _look_at_operation(
    docora: Docora, following: Following, step: OperationStep, ids: list[str]
) -> OperationStep:
    """Reads the operation again, and follows the links that it has claimed meanwhile.

    ids: the row ids read so far; new ids are appended.
    """
    operation_id = step.operation.operation_id
    try:
        # Reads the state first: if the operation has ended by then, the ids below are complete.
        operation = read_operation(docora.redis, operation_id)
        new = read_links(docora.redis, operation_id, len(ids))
        if new:
            following.add_unchanged(dict.fromkeys(new).keys() - set(ids))
            ids += new
        # After the ids were read: once `goes_on` is False, the wait does not expect more links.
        goes_on = operation.state is OperationState.RUNNING
        step = OperationStep(operation, step.wait, goes_on)
        renew(docora.redis, operation_id)
    except NotFoundError:
        step = replace(step, goes_on=False)  # the operation has expired meanwhile
    except RedisError as error:
        following.watch.redis_is_away(error)
    following.expects_more = step.goes_on
    return step


def keep_results(docora: Docora, operation_id: str, wait: BulkWait, change: Change) -> None:
    """Stores the results with the operation; warns if that fails."""
    entry = _results_entry(change, operation_id, wait)
    try:
        write_results(docora.redis, operation_id, wait.results, wait.failed_links, entry)
    except RedisError as error:
        docora.warn(f"the results are not kept with the operation: {error.message}")


def _results_entry(change: Change, awaited_id: str, wait: BulkWait) -> AuditEntry:
    counts = asdict(wait.results)
    return audit_entry(change, AuditEvent.AWAITED, operation_id=awaited_id, counts=counts)
