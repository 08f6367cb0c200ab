"""A bulk operation: retry, resync or schedule of many links, batch by batch."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from docora_ops.actions.change import Changed, Changer, LinkOutcome
from docora_ops.actions.docora import Docora, require_right_workers, warn_of_workers
from docora_ops.actions.operation_log import OperationLog, PassLog, Plan
from docora_ops.actions.pair import require_pair
from docora_ops.actions.slots import Slots
from docora_ops.actions.snapshot_results import Following
from docora_ops.actions.waiting import keep_results
from docora_ops.database.circuits import reset_circuits
from docora_ops.database.link_rows import names_of
from docora_ops.errors import LinkLockedError, RedisError, ServerError
from docora_ops.links import Action, AppCount, LinkRef, Outcome, PlannedLink, batches
from docora_ops.operations import BulkResult, BulkWait, StoppedBy
from docora_ops.queue.operation_links import end_work
from docora_ops.queue.operation_records import HEARTBEAT

_MISSED = "its snapshot is running; resync it again when that has ended"
_LARGEST_RESYNC_BATCH = 50
"""Links per transaction, which deletes thousands of rows for each link."""
_IDLE = 1  # seconds after which an operation that awaits results checks whether it was cancelled


@dataclass(frozen=True)
class BulkStep:
    """The progress of a bulk operation.

    by_app: the outcomes so far by app, updated in place as the operation continues. Each app comes
        with the number of its selected links.
    deliveries: for a resync, the number of delivery records of the links before the first change.
    wait: the results of the snapshots so far; None if they are not awaited.
    is_waiting: all links have been changed, and only the snapshots are awaited.
    limit: how many snapshots may be in flight now; None without `options.in_flight`.
    """

    result: BulkResult
    by_app: Mapping[AppCount, Mapping[Outcome, int]]
    deliveries: int = 0
    wait: BulkWait | None = None
    is_waiting: bool = False
    limit: int | None = None


def change_links(docora: Docora, plan: Plan) -> Generator[BulkStep]:
    """Carries out a plan. Yields a step before the first change, and one after each batch.

    To change nothing, for example if a person declines, close the generator after the first step.
    If you close the generator later, or the process is killed, repeating the command does the rest.
    With `options.wait`, also yields while the snapshots are awaited.

    Raises WrongBackendError, ServersMismatchedError, PostgresError,
    RedisError; an unfinished batch is rolled back.
    """
    total, dry_run, is_paced = plan.selection.total, plan.options.dry_run, plan.options.is_paced
    following = None
    require_right_workers(docora)
    if total and not dry_run:
        docora.database.require_changes()
        warn_of_workers(docora)
    if (plan.options.wait or is_paced) and not dry_run:  # also if there is nothing to wait for
        following = Following(docora, is_paced=is_paced)
    if total:
        require_pair(docora)
    operation = _BulkOperation(docora, plan, following)
    yield operation.step()
    if dry_run:
        yield from operation.preview()
    elif total:
        yield from operation.carry_out()


class _BulkOperation:
    """Carries out a plan.

    `_batches` decides which links come next, and the Changer changes them. Then the log, the
    Following and the Slots get the outcomes.
    """

    def __init__(self, docora: Docora, plan: Plan, following: Following | None) -> None:
        self._docora, self._plan, self._following = docora, plan, following
        options = plan.options
        self._slots = Slots(following, options) if following and options.is_paced else None
        log = PassLog if plan.action is Action.SCHEDULE else OperationLog
        self._log = log(docora, plan, following)
        self._batch_size = docora.settings.batch_size
        if plan.action is Action.RESYNC:
            self._batch_size = min(self._batch_size, _LARGEST_RESYNC_BATCH)
        claiming, commands = plan.selection.claiming, self._log.commands
        self._changer = Changer(
            docora.database, docora.queue, plan.action, claiming, options, commands
        )
        self._later: list[LinkRef] = []
        """Links to change again: see `Changed.later`."""

    def step(self, *, is_waiting: bool = False) -> BulkStep:
        plan, log = self._plan, self._log
        return BulkStep(
            log.result(),
            log.by_app,
            plan.deliveries,
            self._following.result() if self._following else None,
            is_waiting,
            self._slots.limit if self._slots else None,
        )

    def preview(self) -> Generator[BulkStep]:
        refs, log, changer = self._plan.selection.refs, self._log, self._changer
        for _ in changer.find_misplaced(refs, delay=self._docora.settings.drift_grace):
            yield self.step()
        for batch in batches(refs, self._batch_size):
            changed = self._with_missed(changer.preview(batch))
            log.add(changed)
            names = names_of(self._docora.database, [item.ref for item in changed.outcomes])
            for item, (app_name, repository_name) in zip(changed.outcomes, names, strict=True):
                ref, what = item.ref, (item.outcome, item.error_message)
                ids = (ref.job_id, ref.app_id, app_name or "", ref.repository_id)
                log.planned_links.append(PlannedLink(*ids, repository_name or "", *what))
            yield self.step()

    def carry_out(self) -> Generator[BulkStep]:
        """Changes the links and, if the snapshots are awaited, waits for them."""
        log, following, options = self._log, self._following, self._plan.options
        if following:
            following.start(options.timeout)
        log.begin()
        stopped_by: StoppedBy | None = StoppedBy.INTERRUPTED
        has_redis = True
        try:
            yield self.step()
            yield from self._change_all()
            log.end()
            yield self.step()
            if following:
                if not options.is_paced:  # the timeout is for the wait alone
                    following.start(options.timeout)
                for _ in following.follow():
                    with suppress(RedisError):  # the results are in Postgres
                        log.progress(every=HEARTBEAT)
                    self._reset_locked_circuits(wait=False)
                    yield self.step(is_waiting=not options.is_paced)
            stopped_by = None
        except ServerError as error:
            stopped_by, has_redis = StoppedBy.LOST_SERVER, not isinstance(error, RedisError)
            raise
        finally:
            with suppress(RedisError):
                log.end(stopped_by)
            self._finish(has_redis=has_redis)

    def _change_all(self) -> Generator[BulkStep]:
        log = self._log
        for batch in self._batches():
            if batch is None:
                log.progress(every=_IDLE)
                # Docora's scheduler queues no link whose circuit is open: its slot stays taken.
                self._reset_locked_circuits(wait=False)
                yield self.step()
            elif isinstance(batch, StoppedBy):
                log.stopped_by = batch
            else:
                yield from self._change(batch)
            if log.stopped_by:
                break
        self._reset_locked_circuits(wait=True)

    def _batches(self) -> Iterator[Sequence[LinkRef] | StoppedBy | None]:
        """Yields the links to change next, batch by batch.

        Yields None while no link may be changed yet, and a StoppedBy if the operation has to stop.

        1. All links.
        2. Again, links whose job was waiting or whose row was locked.
        3. One by one, links whose row is still locked.
        """
        options, changer, size = self._plan.options, self._changer, self._batch_size
        hand_out = self._slots.batches if self._slots else batches
        refs = self._plan.selection.refs
        # With --front, each job goes to the head of the queue: the first link is pushed last.
        is_reversed = options.front and not options.is_paced
        yield from hand_out(refs[::-1] if is_reversed else refs, size)
        later, self._later = self._later, []
        if later:  # the job of a link whose row was locked may be waiting, too
            delay = self._docora.settings.drift_grace
            for _ in changer.find_misplaced(later, delay=delay):
                self._log.progress()  # between the looks, somebody may cancel the operation
                yield None
        yield from hand_out(later, size)
        changer.wait_for_rows()
        yield from hand_out(self._later, 1)

    def _change(self, refs: Sequence[LinkRef]) -> Generator[BulkStep]:
        """Changes links. Yields after each transaction; stops if the operation is cancelled."""
        for result in self._changer.change_each(refs):
            changed = self._with_missed(result)
            self._later += changed.later
            try:
                self._log.add(changed)
                if self._following:
                    self._following.add(changed.outcomes)
                if self._slots:
                    self._slots.free(changed.outcomes)
                self._log.progress()
            except ServerError:
                yield self.step()  # the batch is committed
                raise
            yield self.step()
            if self._log.stopped_by:
                return

    def _with_missed(self, changed: Changed) -> Changed:
        """In a resync, replaces ALREADY_RUNNING by NOT_QUEUED: the links were not resynced."""
        if self._plan.action is not Action.RESYNC:
            return changed
        outcomes = [
            LinkOutcome(item.ref, Outcome.NOT_QUEUED, _MISSED)
            if item.outcome is Outcome.ALREADY_RUNNING
            else item
            for item in changed.outcomes
        ]
        return replace(changed, outcomes=outcomes)

    def _reset_locked_circuits(self, *, wait: bool) -> None:
        """Resets circuits whose rows were locked. `wait`: wait for rows that are still locked."""
        log, database = self._log, self._docora.database
        log.circuits_locked -= log.circuits_reset
        if not log.circuits_locked:
            return
        with suppress(LinkLockedError):
            with database.transaction():
                reset = reset_circuits(database, log.circuits_locked, wait=wait)
            log.circuits_reset |= reset
            log.circuits_locked = set() if wait else log.circuits_locked - reset

    def _finish(self, *, has_redis: bool) -> None:
        """Stores the results, and that the operation has ended its work, unless Redis is down."""
        operation_id, following = self._log.operation_id, self._following
        if not (operation_id and has_redis):
            return
        with suppress(RedisError):  # the record of its work expires anyway
            end_work(self._docora.redis, operation_id)
        if following and following.result().total and not following.watch.misses_redis:
            keep_results(self._docora, operation_id, following.result(), self._plan.change)
