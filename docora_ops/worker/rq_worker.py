"""The loop of a worker: takes job after job, and looks after the jobs of killed workers."""

import json
import os
import time
from contextlib import suppress
from dataclasses import asdict
from types import FrameType
from typing import Any

from redis import Redis, RedisError
from redis.client import Pipeline
from redis.exceptions import LockError
from rq.exceptions import NoSuchJobError
from rq.executions import Execution
from rq.job import Job
from rq.scheduler import RQScheduler
from rq.utils import utcformat
from rq.worker import WorkerStatus
from rq.worker_registration import clean_worker_registry

from docora_ops.errors import DocoraOpsError, PostgresError, WorkerNameTakenError
from docora_ops.jobs import QUEUE_NAME, NoJobCode
from docora_ops.queue.redis_client import describe, explained, is_outage
from docora_ops.queue.rq_workers import (
    MAY_RECORD,
    NO_JOB_REASON,
    OBEYS_HOLDS,
    process_fields,
)
from docora_ops.queue.take import JobTaker, TakeResult
from docora_ops.settings import Settings
from docora_ops.text import inert
from docora_ops.worker import host, rq_faults
from docora_ops.worker.interrupts import handle_ending
from docora_ops.worker.log import log
from docora_ops.worker.reasons import Bar, Reasons
from docora_ops.worker.watchdog import Watchdog
from docora_ops.worker.work_horse import JobRunner

_MAINTENANCE_INTERVAL = 30  # seconds
_PAUSE = 1  # seconds between two heartbeats, or looks for due jobs
_LONGEST_PAUSE = 10  # seconds between two attempts to reach a server that is away
# Seconds after a signal in which another one counts as the same: Ctrl-C reaches a worker both from
# the terminal and from its parent, and a closed terminal often sends two.
_SAME_SIGNAL = 1
_ENDS_OF_BURST = {
    TakeResult.EMPTY: "since the queue is empty",
    TakeResult.HELD: "since the apps of all waiting jobs are held",
}


class SnapshotWorker(JobRunner):
    """A worker that also updates the links of jobs that were killed.

    RQ's loop, `work`, is not used, because most errors of Redis end it. The methods run in the
    worker; RQ also calls `heartbeat` in the work-horse. The comment above each override says what
    RQ does in its place.

    parent: the process id of the parent. The worker ends when its parent has died.
    watchdog: is told that the loop is alive.
    """

    def __init__(
        self,
        settings: Settings,
        client: Redis,
        name: str,
        parent: int | None = None,
        watchdog: Watchdog | None = None,
    ) -> None:
        self._taker = JobTaker(client, reserves=settings.reserve_slot)
        super().__init__(settings, client, name, Reasons(settings, client), watchdog)
        self._parent = parent
        self._is_told_to_end = False
        self._told_at = float("inf")
        self._grace: int | None = None
        self._due_at: dict[str, float] = {}  # by the name of the task; see `_is_due`
        self._bar: Bar | None = None
        self._misses_redis = False
        self._redis_pause = _PAUSE  # before the next attempt

    # The loop

    def run_jobs(self, *, burst: bool, grace: int | None = None) -> None:
        """Runs jobs until a signal comes. Waits while Redis is away or no job may be taken.

        burst: end instead of waiting, and also when the queue is empty, or the apps of all waiting
            jobs are held.
        grace: seconds from the signal until the current job is cut off; None lets it finish.

        Raises WorkerNameTakenError, redis.RedisError. A burst also raises the error that keeps the
        worker from taking jobs, unless workers are suspended.
        """
        self._grace = grace
        self._reasons.look_at_permissions()  # part of the registration
        host.measure_clock(self.connection)
        handle_ending(self.handle_signal)
        try:
            self._register()
            server = describe(self.connection)
            log.info("worker %s: listening on %s, Redis %s", self.name, QUEUE_NAME, server)
            reason = self._work_until_stopped(burst)
        finally:
            self.end_work_horse()
            if self.birth_date is not None:
                with suppress(RedisError):
                    self.register_death()  # type: ignore[no-untyped-call]
        log.info("worker %s: ended, %s", self.name, reason)

    def _register(self) -> None:
        """Registers the worker. Raises WorkerNameTakenError.

        RQ's `bootstrap` would also start a thread that listens to commands, such as to stop a job:
        the thread may receive the signals that end the worker.
        """
        try:
            self.register_birth()  # type: ignore[no-untyped-call]
        except ValueError as error:
            hint = "give another --name; that of a killed worker is free two minutes later"
            taken = f"a worker named {self.name!r} is at work already"
            raise WorkerNameTakenError(taken, hint=hint) from error
        self.set_state(WorkerStatus.STARTED)

    def _work_until_stopped(self, burst: bool) -> str:
        """Takes and runs jobs until the worker must end; returns why.

        Waits while Redis is away, except in a burst.
        """
        reason = None
        while reason is None:
            if self._must_end():
                return "as told"
            try:
                reason = self._take_and_run(burst)
            except RedisError as error:
                if burst or not is_outage(error):
                    raise
                self._miss_redis(error)
                # A job whose end could not be recorded is left to a later maintenance.
                self.executions.clear()
                self.end_work_horse()
                self.connection.connection_pool.disconnect()  # may lead to a former primary
                self._due_at.pop("heartbeat", None)  # another server may answer now
                self._reasons.look_again()
                self._wait(self._redis_pause)
                self._redis_pause = min(2 * self._redis_pause, _LONGEST_PAUSE)
        return reason

    def _take_and_run(self, burst: bool) -> str | None:
        """Takes and runs at most one job. Returns why the worker must end; None if it goes on."""
        self.beat()
        self.heartbeat()
        if self._misses_redis:
            self._find_redis()
            self.set_state(WorkerStatus.IDLE)
        bar = self._reasons.find()
        is_suspended = bar is not None and bar.code is NoJobCode.SUSPENDED
        if burst and bar is not None:
            if is_suspended:
                return f"since {bar.error.message}; to go on: docora-ops resume"
            raise bar.error
        self._show_bar(bar)
        if bar is None or is_suspended:  # queues jobs, but takes none
            if self._is_due("maintenance", _MAINTENANCE_INTERVAL):
                self.maintain()
                return None  # maintenance may have found that Postgres is away
            self._queue_due_jobs()
        if bar is not None:
            time.sleep(_PAUSE)
            return None
        job, result = self._take()
        if job is not None:
            self.execute_job(job, self.queues[0])
            return None
        if burst and result in _ENDS_OF_BURST:
            return _ENDS_OF_BURST[result]
        if result in {TakeResult.EMPTY, TakeResult.HELD, TakeResult.FULL}:
            if result is not TakeResult.FULL:  # a job may be taken as soon as another ends
                self.end_work_horse()
            if self.get_state() != WorkerStatus.IDLE:
                self.set_state(WorkerStatus.IDLE)
            self._taker.wait(_PAUSE)
        return None

    def _show_bar(self, bar: Bar | None) -> None:
        """Shows in the log and in Redis why the worker takes no job, or that it takes jobs again.

        Logs only if the reason has changed.
        """
        before, self._bar = self._bar, bar
        if bar is not None and self.get_state() != WorkerStatus.SUSPENDED:
            self.end_work_horse()
            self.set_state(WorkerStatus.SUSPENDED)
        if (bar and bar.code) is (before and before.code):
            return
        if bar is not None:
            text, error = "worker %s: takes no job: %s (%s)", bar.error
            log.warning(text, self.name, error.message, error.hint)
        else:
            log.warning("worker %s: takes jobs again", self.name)
            self.set_state(WorkerStatus.IDLE)
        self._due_at.pop("heartbeat", None)  # the heartbeat includes the reason
        self.heartbeat()

    def _wait(self, seconds: float) -> None:
        """Waits for `seconds`, or until the worker must end."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self._must_end():
            self.beat()
            time.sleep(_PAUSE)

    def _miss_redis(self, error: RedisError) -> None:
        """Logs that Redis does not answer, once per outage."""
        if not self._misses_redis:
            self._misses_redis = True
            lost = explained(self.connection, error).message
            log.warning("worker %s: %s; waits until it answers", self.name, lost)

    def _find_redis(self) -> None:
        """Logs that Redis answers again."""
        self._misses_redis, self._redis_pause = False, _PAUSE
        log.warning("worker %s: Redis answers again: goes on", self.name)

    def _is_due(self, name: str, interval: float) -> bool:
        """Returns True at most once in `interval` seconds for each name."""
        if time.monotonic() < self._due_at.get(name, 0):
            return False
        self._due_at[name] = time.monotonic() + interval
        return True

    # RQ's `dequeue_any` takes the first job of the list, whatever its app.
    def _take(self) -> tuple[Job | None, TakeResult]:
        """Takes a job if one may run now. Returns the job or None, and what `JobTaker.take` found.

        If the host lacks the resources to read the job, puts the job back and waits. Drops a job
        that is gone, or that can't be read for another reason.
        """
        result, job_id = self._taker.take()
        if result is not TakeResult.TAKEN:
            return None, result
        [queue] = self.queues
        try:
            return self.job_class.fetch(job_id, self.connection, self.serializer), result
        except RedisError:
            raise
        except NoSuchJobError:
            pass
        except Exception as error:  # noqa: BLE001 - a job of another program can raise anything
            if host.is_scarcity(error):
                with self.connection.pipeline() as pipeline:
                    pipeline.lrem(queue.intermediate_queue_key, 1, job_id)
                    queue.push_job_id(job_id, pipeline, at_front=True)
                    pipeline.execute()
                self._reasons.host.suspect()
                self._wait(_PAUSE)
                return None, result
            log.warning("job %s can't be read: %s", inert(job_id), type(error).__name__)
        queue.intermediate_queue.remove(job_id)
        return None, result

    def _queue_due_jobs(self) -> None:
        """Queues the delayed jobs that are due, at most once a second and in one worker at a time.

        RQ's own scheduler is a process that outlives a killed worker.
        """
        # The first call always queues, to show whether Redis permits all commands that this needs.
        is_first = "schedule" not in self._due_at
        if not self._is_due("schedule", _PAUSE):
            return
        schedule = self.queues[0].scheduled_job_registry.key
        if not is_first and not self.connection.zcount(schedule, 0, host.timestamp()):
            return
        scheduler = RQScheduler(self.queues, self.connection, logging_level=self.log.level)
        # RQScheduler opens its own connection. If kept open, it may lead to a former primary.
        with scheduler.connection.connection_pool:
            if scheduler.acquire_locks():  # type: ignore[no-untyped-call]
                try:
                    scheduler.enqueue_scheduled_jobs()  # type: ignore[no-untyped-call]
                finally:
                    scheduler.release_locks()  # type: ignore[no-untyped-call]

    # Signals

    def handle_signal(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Lets the job finish at the first signal, and cuts it off at the second.

        Raises nothing: an exception could lose a job that was just taken. A worker without a job
        ends within about a second.
        """
        moment = time.monotonic()
        if self._is_told_to_end:
            if moment - self._told_at >= _SAME_SIGNAL:
                self._told_at = self._cut_off_at = moment
                log.info("worker %s: told again: ends its job", self.name)
            return
        self._is_told_to_end, self._told_at = True, moment
        if self._watchdog is not None:
            self._watchdog.stop()
        rest = ""
        if self.get_state() == WorkerStatus.BUSY:
            rest = "; its job is finished first"
        if self._grace is not None:  # a job may begin just now
            self._cut_off_at = moment + self._grace
            rest = rest and f"{rest}, or cut off after {self._grace} s"
        log.info("worker %s: told to end%s", self.name, rest)

    def _must_end(self) -> bool:
        if not self._is_told_to_end and self._parent not in {None, os.getppid()}:
            log.warning("worker %s: its parent was killed", self.name)
            self._is_told_to_end = True
        return self._is_told_to_end

    # Registration and maintenance

    # RQ's fields do not tell how far ahead the host's clock is, why the worker takes no job, what
    # its user of Redis may do, or whether its process is gone.
    def serialize(self) -> dict[Any, Any]:
        """Returns the fields that register the worker in Redis."""
        reason = json.dumps(asdict(self._bar.reason)) if self._bar else ""
        return super().serialize() | {
            "clock_ahead": round(host.seconds_ahead()),
            NO_JOB_REASON: reason,
            MAY_RECORD: int(self._reasons.may_record),
            OBEYS_HOLDS: int(self._reasons.obeys_holds),
            **process_fields(),
        }

    # RQ sends three heartbeats for each job, by the clock of this host.
    def heartbeat(self, timeout: int | None = None, pipeline: Pipeline | None = None) -> None:
        """Sends a heartbeat by Redis's clock, at most one a second and none from a work-horse."""
        if self.is_horse:
            return
        if pipeline is None:
            if self._is_due("heartbeat", _PAUSE):
                with self.connection.pipeline() as own:
                    self.heartbeat(timeout, own)
                    own.execute()
            return
        super().heartbeat(timeout, pipeline)
        self.last_heartbeat = host.now()
        pipeline.hset(self.key, "last_heartbeat", utcformat(self.last_heartbeat))
        if self.birth_date is not None:
            rq_faults.register_again(self, pipeline)

    # RQ gives up a job during which Redis is away, and runs maintenance between two jobs only.
    def maintain_heartbeats(self, job: Job, execution: Execution) -> None:
        """Sends the heartbeats of a job. Runs maintenance when due, as a job may take an hour.

        Logs errors of Redis and raises none.
        """
        try:
            super().maintain_heartbeats(job, execution)
            if self._misses_redis:
                self._find_redis()
            if self._is_due("maintenance", _MAINTENANCE_INTERVAL):
                self.maintain()
        except RedisError as error:
            self._miss_redis(error)

    def maintain(self) -> None:
        """Cleans RQ's registries and recovers abandoned links.

        Does nothing if this host's clock is wrong, or Postgres is at fault.
        Beside a BullMQ worker of Docora, only cleans the registries.

        Only one worker does this at a time. RQ first reads an abandoned job, and later queues the
        job again: if another worker recovered the link in between, the link would have two jobs.
        If RQ can't read a job, skips the rest of the cleaning, and recovers the links.
        """
        bar, [queue] = self._reasons.find(), self.queues
        code = bar and bar.code
        if code in {NoJobCode.WRONG_CLOCK, NoJobCode.POSTGRES}:
            return
        lock = rq_faults.maintenance_lock(self.connection, queue)
        if not lock.acquire(blocking=False):
            return

        def beat() -> None:
            self.beat()
            with suppress(LockError):  # lost: this process stood still for longer than the TTL
                lock.reacquire()

        def was_abandoned(job: Job, *_: object) -> None:
            beat()
            self.recovery.count_killed_job(job, "its worker's heartbeat stopped")

        try:
            rq_faults.clean_registries(queue, was_abandoned)
            clean_worker_registry(queue)
            queue.intermediate_queue.cleanup(self, queue)
        except RedisError:
            raise
        except Exception as error:  # noqa: BLE001 - a job of another program can raise anything
            log.warning("worker %s: maintenance broke off: %s", self.name, type(error).__name__)
        # A link that Docora's own worker scans has no job of RQ.
        if code is not NoJobCode.WRONG_BACKEND:
            try:
                self.recovery.recover_abandoned_links(beat)
            except DocoraOpsError as error:
                is_away = isinstance(error, PostgresError) and self._reasons.postgres.look()
                if not is_away:  # otherwise the loop says so
                    log.warning("links left behind can't be looked for: %s", inert(error.message))
        with suppress(LockError):  # lost, so that another worker may hold it
            lock.release()
