"""A bulk operation: retry, resync or schedule of many links, batch by batch."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass, replace
from os import urandom

from docora_ops.actions.change import Changed, Changer, LinkOutcome
from docora_ops.actions.docora import Docora
from docora_ops.actions.operation_log import OperationLog, Plan
from docora_ops.actions.pair import require_pair
from docora_ops.actions.snapshot_results import Feed, Following
from docora_ops.actions.turns import Turns
from docora_ops.actions.waiting import keep_results
from docora_ops.actions.workers import count_workers, require_right_workers
from docora_ops.database.circuits import reset_circuits
from docora_ops.database.link_rows import names_of
from docora_ops.errors import LinkLockedError, RedisError, ServerError
from docora_ops.links import Action, AppCount, LinkRef, Outcome, PlannedLink
from docora_ops.operations import BulkResult, BulkWait, StoppedBy
from docora_ops.queue.operation_links import end_work

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
    wait: the results of the snapshots so far, if they are awaited.
    is_waiting: all links have been changed, and only the snapshots are awaited.
    limit: with `options.in_flight`, how many snapshots may be in flight now.
    """

    result: BulkResult
    by_app: Mapping[AppCount, Mapping[Outcome, int]]
    deliveries: int = 0
    wait: BulkWait | None = None
    is_waiting: bool = False
    limit: int | None = None


def run_bulk(docora: Docora, plan: Plan) -> Generator[BulkStep]:
    """Carries out a plan. Yields a step before the first change, and one after each batch.

    To change nothing, for example if a person declines, close the generator after the first step.
    If you close the generator later, or the process is killed, repeating the command does the rest.
    With `options.wait`, also yields while the snapshots are awaited.

    Raises WrongBackendError, ServersMismatchedError, PairMismatchedError, PostgresError,
    RedisError; an unfinished batch is rolled back.
    """
    total, dry_run = plan.selection.total, plan.options.dry_run
    following = Following(docora)
    require_right_workers(docora)
    if total and not dry_run:
        docora.database.require_changes()
        following.watch.had_workers = count_workers(docora) > 0
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

    `_batches` decides which links come next, the Changer changes them, and `_count` passes on their
    outcomes: to the log, to the turns, and to the wait for snapshots.
    """

    def __init__(self, docora: Docora, plan: Plan, following: Following) -> None:
        self._docora, self._plan, self._following = docora, plan, following
        options, batch_size = plan.options, docora.settings.batch_size
        if plan.action is Action.RESYNC:
            batch_size = min(batch_size, _LARGEST_RESYNC_BATCH)
        in_flight = options.in_flight if options.is_paced else None
        self._turns = Turns(in_flight, batch_size, newest_first=options.front)
        self._log = OperationLog(docora, plan, following)
        self._changer = Changer(
            docora.database,
            docora.queue,
            plan.action,
            plan.selection.claiming,
            options,
            self._log.commands,
        )
        self._later: list[LinkRef] = []
        """Links to change again: see `Changed.later`."""

    def step(self, *, is_waiting: bool = False) -> BulkStep:
        plan, log = self._plan, self._log
        return BulkStep(
            log.result(),
            log.by_app,
            plan.deliveries,
            self._following.result() if plan.is_awaited else None,
            is_waiting,
            self._turns.limit,
        )

    def preview(self) -> Generator[BulkStep]:
        refs, log, changer = self._plan.selection.refs, self._log, self._changer
        for _ in changer.find_misplaced(refs, delay=self._docora.settings.drift_grace):
            yield self.step()
        for batch in self._turns.batches(refs):
            changed = self._with_missed(changer.preview(batch))
            log.add(changed)
            names = names_of(self._docora.database, [item.ref for item in changed.outcomes])
            for item, (app_name, repository_name) in zip(changed.outcomes, names, strict=True):
                ref, what = item.ref, (item.outcome, item.error_message)
                ids = (ref.job_id, ref.app_id, app_name or "", ref.repository_id)
                log.planned_links.append(PlannedLink(*ids, repository_name or "", *what))
            yield self.step()

    def carry_out(self) -> Generator[BulkStep]:
        """Changes the links and, with `options.wait`, waits for their snapshots."""
        options = self._plan.options
        if self._plan.action is not Action.SCHEDULE:  # one per minute would crowd out others
            self._log.operation_id = f"bulk_{urandom(8).hex()}"
            self._log.write()
        stopped_by: StoppedBy | None = StoppedBy.INTERRUPTED
        has_redis = True
        try:
            yield self.step()
            if options.is_paced:
                yield from self._change_paced()
            else:
                for refs in self._batches():
                    yield from self._change(refs)
                    if self._log.stopped_by:
                        break
            self._reset_held_circuits(wait=True)
            self._log.write(is_last=True)
            yield self.step()
            if options.wait and not options.is_paced:
                yield self.step(is_waiting=True)
                for _ in self._following.follow(options.timeout):
                    self._log.stay_known()
                    yield self.step(is_waiting=True)
            stopped_by = None
        except ServerError as error:
            stopped_by, has_redis = StoppedBy.LOST_SERVER, not isinstance(error, RedisError)
            raise
        finally:
            with suppress(RedisError) if stopped_by else nullcontext():
                self._end(stopped_by, has_redis=has_redis)

    def _change_paced(self) -> Generator[BulkStep]:
        """Changes links as slots become free, until all have results or the operation must stop."""
        following, turns, batches_left = self._following, self._turns, self._batches()
        with closing(following.follow(self._plan.options.timeout, is_paced=True)) as waits:
            for wait in waits:
                turns.adapt(wait)
                turns.release(following.ended)
                following.ended.clear()
                # Docora's scheduler takes no link whose circuit is open, so its slot stays taken.
                self._reset_held_circuits(wait=False)
                following.more = yield from self._feed(batches_left, wait)
                yield self.step()
        if self._log.left and not self._log.stopped_by:
            is_lost = following.result().only_lost_left
            self._stop(StoppedBy.LOST_JOBS if is_lost else StoppedBy.TIMEOUT)
            yield self.step()

    def _feed(
        self, batches_left: Iterator[Sequence[LinkRef]], wait: BulkWait
    ) -> Generator[BulkStep, None, Feed]:
        """Changes links for the free slots. Returns whether more links will follow."""
        limit, log = self._plan.options.max_failures, self._log
        has_to_stop = limit is not None and limit.is_exceeded(wait.failed, wait.synced)
        if has_to_stop and log.left and not log.stopped_by:
            self._stop(StoppedBy.MAX_FAILURES)
        refs = None if log.stopped_by else next(batches_left, None)
        if refs is None:
            self._log.stay_known()
            return Feed.DONE
        if refs or self._log.is_older_than(_IDLE):
            yield from self._change(refs)
        # While `find_misplaced` runs, the batches are empty, too, but wait for no result.
        return Feed.BLOCKED if not refs and self._turns.has_left else Feed.MORE

    def _batches(self) -> Iterator[Sequence[LinkRef]]:
        """Yields batches of links to change.

        A batch is empty while no slot is free, and while `find_misplaced` runs.
        First come all links, then those whose jobs were waiting or whose rows were locked, and last
        those whose rows are still locked, one by one.
        """
        refs, options = self._plan.selection.refs, self._plan.options
        # With --front, each job goes to the head of the queue: the first link is pushed last.
        is_reversed = options.front and not options.is_paced
        yield from self._turns.batches(refs[::-1] if is_reversed else refs)
        later, self._later = self._later, []
        if later:  # the job of a link whose row was locked may be waiting, too
            delay = self._docora.settings.drift_grace
            for _ in self._changer.find_misplaced(later, delay=delay):
                yield ()
        yield from self._turns.batches(later)
        self._changer.wait_for_rows()
        for batch in self._turns.batches(self._later):
            yield from ([ref] for ref in batch) if batch else ((),)

    def _change(self, refs: Sequence[LinkRef]) -> Generator[BulkStep]:
        """Changes links. Yields after each transaction; stops if the operation is cancelled."""
        if not refs:
            self._log.write()
            yield self.step()
            return
        for changed in self._changer.change_each(refs):
            try:
                self._count(self._with_missed(changed))
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

    def _count(self, changed: Changed) -> None:
        self._log.add(changed)
        self._later += changed.later
        to_release, late = list(changed.later), []
        for item in changed.outcomes:
            if self._plan.is_awaited:
                self._following.add(item.ref, item.outcome)
            if not item.outcome.is_put_to_work:
                to_release.append(item.ref)
            # `wait` follows these links, too, but no push has recorded their row ids.
            is_reset = item.outcome.is_put_to_work and not self._docora.queue.can_push
            if is_reset or item.outcome is Outcome.ALREADY_RUNNING:
                late.append(item.ref.id)
        self._turns.release(ref.id for ref in to_release)
        self._log.write(late_ids=late)

    def _reset_held_circuits(self, *, wait: bool) -> None:
        """Resets circuits whose rows were locked. `wait`: wait for rows that are still locked."""
        log, database = self._log, self._docora.database
        log.circuits_locked -= log.circuits_reset
        if log.circuits_locked:
            with suppress(LinkLockedError), database.transaction():
                log.circuits_reset |= reset_circuits(database, log.circuits_locked, wait=wait)
                log.circuits_locked = set() if wait else log.circuits_locked - log.circuits_reset

    def _stop(self, reason: StoppedBy) -> None:
        """Ends the operation before its next batch. Raises RedisError."""
        self._log.stopped_by = reason
        self._log.write()

    def _end(self, stopped_by: StoppedBy | None, *, has_redis: bool) -> None:
        if stopped_by and self._log.left and not self._log.stopped_by:
            self._log.stopped_by = stopped_by
        self._log.write(is_last=True)
        wait, operation_id = self._following.result(), self._log.operation_id
        if operation_id and has_redis:
            with suppress(RedisError):  # the record of its work expires anyway
                end_work(self._docora.redis, operation_id)
        # If Redis is down, do not wait for its timeout a second time.
        has_redis &= not self._following.watch.misses_redis
        if operation_id and wait.total and has_redis:
            keep_results(self._docora, operation_id, wait, self._plan.change)
