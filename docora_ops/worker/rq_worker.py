"""RQ's worker, which also updates the links of killed jobs."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, cast

from redis import Redis, RedisError
from redis.client import Pipeline
from rq import Queue
from rq.command import PUBSUB_CHANNEL_TEMPLATE
from rq.exceptions import AbandonedJobError, InvalidJobOperation, StopRequested
from rq.executions import Execution
from rq.job import Job, JobStatus
from rq.logutils import colorizer
from rq.suspension import is_suspended
from rq.utils import now
from rq.worker import WorkerStatus

from docora_ops.errors import DocoraOpsError, SnapshotError, WrongBackendError
from docora_ops.interrupts import ENDING, held_back, repeat_if_swallowed
from docora_ops.jobs import QUEUE_NAME
from docora_ops.queue.redis_client import describe
from docora_ops.settings import Settings
from docora_ops.text import inert
from docora_ops.worker import redis_clock
from docora_ops.worker.bullmq_watch import INTERVAL, BullmqWatch
from docora_ops.worker.clock_watch import ClockWatch
from docora_ops.worker.log import log, without_redis_traceback
from docora_ops.worker.memory import limit_memory
from docora_ops.worker.recovery import LinkRecovery, Tries, ids_and_name
from docora_ops.worker.rq_parts import (
    CutOff,
    DelayedJobScheduler,
    SnapshotJob,
    SnapshotQueue,
)
from docora_ops.worker.stopping import StoppableWorker, Stopped

_WORKER_TTL = 45
"""Seconds; an idle worker wakes up 15 s earlier."""
_MAINTENANCE_INTERVAL = 30
_SUBSCRIBE_TIMEOUT = 5


class SnapshotWorker(StoppableWorker):
    """A worker that updates the link of each killed job.

    RQ's own worker notices an abandoned job after ten minutes, and never while it runs a job.
    """

    def __init__(self, settings: Settings, client: Redis, name: str) -> None:
        super().__init__(
            [SnapshotQueue(QUEUE_NAME, connection=client, job_class=SnapshotJob)],
            name=name,
            connection=client,
            job_class=SnapshotJob,
            worker_ttl=_WORKER_TTL,
            maintenance_interval=_MAINTENANCE_INTERVAL,
            queue_class=SnapshotQueue,
            work_horse_killed_handler=self._job_process_was_killed,
            exception_handlers=[self._job_was_abandoned],
        )
        colorizer.notty = True  # the log shows escape sequences as text
        self.log_result_lifespan = False
        self.log.addFilter(without_redis_traceback)
        self.queue_was_empty = False
        """True if the last look into the queue found no job."""
        self.burst_was_suspended = False
        """True if a burst ends since workers are suspended."""
        self._burst_error: DocoraOpsError | None = None
        """The reason why a burst must not work on."""
        self._settings = settings
        self._bullmq = BullmqWatch(client, name)
        self.recovery = LinkRecovery(settings, client)
        self._clock = ClockWatch(client, name)
        self._keep_alive: Callable[[], object] = _nothing

    def work_until_stopped(self, *, burst: bool, grace: int | None = None) -> None:
        """Works until a signal comes or, in a burst, until the queue is empty.

        `grace`: seconds after which a signal cuts off the job at work; None lets it finish.

        A burst also ends if workers are suspended. Raises WorkerNameTakenError, WrongBackendError
        if a burst has met a BullMQ worker of Docora, WrongClockError, and RuntimeError if RQ's
        loop ended for another reason, which RQ has logged.
        """
        self.grace = grace
        self._check_permissions()
        repeat_if_swallowed(SystemExit, self._stop_if_idle)
        try:
            # RQ installs them after its scheduler has started, which an earlier signal would leave
            # running.
            self._install_signal_handlers()
            self.work(burst=burst, logging_level=None, with_scheduler=True)
        except Stopped:
            self.teardown()  # RQ tears down only if its loop has begun
        except SystemExit:
            log.warning("worker %s: ended; its job was killed, and is tried again", self.name)
            raise
        finally:
            # A further signal must not cut off the last messages.
            for number in ENDING:
                signal.signal(number, signal.SIG_IGN)
        if self.stop_was_requested:
            reason = "as told"
        elif self.burst_was_suspended:
            reason = "since workers are suspended; to go on: docora-ops resume"
        elif self._burst_error is not None:
            raise self._burst_error
        elif burst and self.queue_was_empty:
            reason = "since the queue is empty"
        else:
            raise RuntimeError("the worker could not go on")
        log.info("worker %s: ended, %s", self.name, reason)

    def bootstrap(self, *arguments: Any) -> None:
        """Registers the worker and listens for commands; logs that it began."""
        super().bootstrap(*arguments)
        log.info(
            "worker %s: listening on %s, Redis %s",
            self.name,
            inert(", ".join(self.queue_names())),
            describe(self.connection),
        )

    def check_for_suspension(self, burst: bool) -> None:
        """Waits while workers are suspended, a BullMQ worker is connected, or the clock is wrong.

        Raises StopRequested in a burst.
        """
        if is_suspended(self.connection, self):
            self._await_resume(burst)
        if self._bullmq.sees_worker():
            error = WrongBackendError(
                "a BullMQ worker of Docora was started: each link would be worked on twice",
                hint="jobs may wait still: see docora-ops help workers",
            )
            self._wait_while(self._bullmq.sees_worker, error if burst else None)
        if self._clock.is_wrong():
            self._wait_while(self._clock.is_wrong, self._clock.error if burst else None)

    def _await_resume(self, burst: bool) -> None:
        self.end_work_horse()
        if burst:
            self.burst_was_suspended = True
            raise StopRequested
        log.warning("worker %s: suspended, takes no job until `docora-ops resume`", self.name)
        super().check_for_suspension(burst)
        if not self.stop_was_requested:
            log.warning("worker %s: resumed", self.name)

    def _wait_while(self, is_barred: Callable[[], bool], error: DocoraOpsError | None) -> None:
        """Takes no job while it is barred; ends a burst, which has an error."""
        self.end_work_horse()
        if error is not None:
            self._burst_error = error
            raise StopRequested
        state = self.get_state()
        self.set_state(WorkerStatus.SUSPENDED)
        while not self._stop_requested and is_barred():
            self.heartbeat()
            time.sleep(1)
        self.set_state(state)

    def _check_permissions(self) -> None:
        """Raises NoPermissionError for commands whose refusal RQ ignores or meets too late.

        If INFO is refused, RQ assumes an old Redis, and pops jobs without the intermediate list:
        a worker that is killed then loses its job.
        """
        self.connection.info("server")
        redis_clock.measure(self.connection)
        with self.connection.pubsub() as channel:  # type: ignore[no-untyped-call]
            channel.subscribe(PUBSUB_CHANNEL_TEMPLATE % self.name)
            channel.get_message(timeout=_SUBSCRIBE_TIMEOUT)

    def handle_job_failure(
        self,
        job: Job,
        queue: Queue,
        started_job_registry: object = None,
        exc_string: str = "",
        execution: Execution | None = None,
    ) -> None:
        """Records the failure once, also that of a job that never began.

        RQ may call this a second time for a process that was killed just after its own call, and
        for a popped job that was queued again since.
        """
        if execution is None:
            if self._is_waiting(job, queue):
                # The next worker that pops the job gets a minute of its own.
                self.connection.delete(queue.intermediate_queue.get_first_seen_key(job.id))
                return
            # The job counts as running, so that a retry of its link keeps off.
            with self.connection.pipeline() as pipeline:
                execution = Execution.create(job, 2 * _WORKER_TTL, pipeline, worker_name=self.name)
                pipeline.execute()
            self._job_was_killed(job, "its worker was killed before it began")
        elif self._stopped_job_id != job.id and self._is_queued_again(job, execution):
            with self.connection.pipeline() as pipeline:
                super().cleanup_execution(job, pipeline, execution)
                pipeline.execute()
            return
        super().handle_job_failure(job, queue, started_job_registry, exc_string, execution)

    def cleanup_execution(
        self, job: Job, pipeline: Pipeline, execution: Execution | None = None
    ) -> None:
        """Removes the execution, and the job's id from the intermediate list.

        Both in the pipeline that queues the next try or ends the job: maintenance takes an id in
        the intermediate list for stuck, and an id that is in no list is lost.
        """
        super().cleanup_execution(job, pipeline, execution)
        pipeline.lrem(self.queues[0].intermediate_queue_key, 1, job.id)

    def main_work_horse(self, job: Job, queue: Queue) -> None:
        """Runs in the work-horse, with limited memory."""
        limit_memory(self._settings)
        super().main_work_horse(job, queue)

    def subscribe(self) -> None:
        """Listens for RQ's commands in a thread that receives no signals.

        Else the main thread might not wake, which may be waiting for Redis or a job.
        """
        with held_back(signal.valid_signals()):
            super().subscribe()  # type: ignore[no-untyped-call]

    def _start_scheduler(self, burst: bool = False, *_: object) -> None:
        self.scheduler = DelayedJobScheduler(
            self.queues, connection=self.connection, logging_level=self.log.level
        )
        if not self.scheduler.acquire_locks():  # type: ignore[no-untyped-call]
            return
        if not burst:
            self.scheduler.start()
            return
        try:
            self.scheduler.register_birth()
            self.scheduler.enqueue_scheduled_jobs()  # type: ignore[no-untyped-call]
        finally:
            self.scheduler.release_locks()  # type: ignore[no-untyped-call]
            self.scheduler.register_death()

    def run_maintenance_tasks(self) -> None:
        """Cleans RQ's registries and recovers abandoned links, unless the host's clock is wrong.

        A job that RQ cannot read ends RQ's part only.
        """
        clock_is_wrong = self._clock.is_wrong()
        try:
            super().run_maintenance_tasks()  # type: ignore[no-untyped-call]
        except RedisError:
            raise
        except Exception as error:  # noqa: BLE001 - a job of another program can raise anything
            self.log.warning(
                "Worker %s: maintenance broke off: %s", self.name, type(error).__name__
            )
            self.last_cleaned_at = now()  # type: ignore[assignment]
        # A link that Docora's own worker scans has no job of RQ.
        if not clock_is_wrong and not self._bullmq.sees_worker():
            self.recovery.recover_abandoned_links(self._keep_alive)

    def clean_registries(self) -> None:
        """Cleans RQ's registries, unless the host's clock is wrong."""
        if self._clock.was_wrong:
            self.last_cleaned_at = now()  # type: ignore[assignment]
        else:
            super().clean_registries()  # type: ignore[no-untyped-call]

    def maintain_heartbeats(self, job: Job, execution: Execution) -> None:
        """Sends heartbeats, and runs maintenance when it is due: a job may take an hour.

        RQ gives a job up after three missing heartbeats, so a single one is only logged.
        """
        beat = partial(super().maintain_heartbeats, job, execution)
        self._bullmq.sees_worker()
        try:
            beat()
            if self.should_run_maintenance_tasks:
                # Maintenance may recover a hundred links, and wait for the lock of each.
                self._keep_alive = beat
                self.run_maintenance_tasks()
        except RedisError as error:
            self.log.warning("Worker %s: no heartbeat: %s", self.name, type(error).__name__)
        finally:
            self._keep_alive = _nothing

    def handle_exception(self, job: Job, *exc_info: Any) -> None:
        """Logs the error and updates the link, unless the job itself has done both."""
        error = exc_info[1]
        if isinstance(error, CutOff):
            self._job_was_cut_off(cast("SnapshotJob", job))
            return
        if isinstance(error, SnapshotError):
            return
        name = type(error).__name__
        if isinstance(error, RedisError):
            self.log.warning("Worker %s: job %s has lost Redis: %s", self.name, job.id, name)
        else:
            super().handle_exception(job, *exc_info)
        self._job_was_killed(job, f"it could not be run: {name}")

    def dequeue_job_and_maintain_ttl(
        self, timeout: int | None, max_idle_time: int | None = None
    ) -> tuple[Job, Queue] | None:
        """Waits for a job; looks every few seconds whether it may; records if there was none."""
        seconds = timeout and INTERVAL
        found = super().dequeue_job_and_maintain_ttl(seconds, max_idle_time or seconds)
        while found is None and timeout is not None and max_idle_time is None:
            self.check_for_suspension(burst=False)
            found = super().dequeue_job_and_maintain_ttl(seconds, seconds)
        self.queue_was_empty = found is None
        return found

    def _job_process_was_killed(
        self, job: Job, pid: int | None, status: int, _usage: object
    ) -> None:
        if pid is not None:
            # The job's git runs in the same process group, and would go on changing the clone.
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGTERM)
        self._job_was_killed(job, f"its process was killed (wait status {status})")

    def _job_was_abandoned(self, job: Job, kind: type[BaseException], *_: object) -> None:
        if kind is AbandonedJobError:
            self._job_was_killed(job, "its worker was killed")

    def _handle_stopped_job(self, job: Job, queue: Queue, execution: Execution) -> None:
        self._job_was_killed(job, "it was stopped by an operator", stopped=True)
        super()._handle_stopped_job(job, queue, execution)

    def _job_was_killed(self, job: Job, reason: str, *, stopped: bool = False) -> None:
        self._keep_alive()
        found = ids_and_name(job)
        if found is None:  # a job of another program
            log.warning("job %s: failed: %s", inert(job.id), reason)
        else:
            app_id, repository_id, name = found
            self.recovery.count_killed_job(
                app_id, repository_id, Tries(job), reason=reason, stopped=stopped, name=name
            )

    def _job_was_cut_off(self, job: SnapshotJob) -> None:
        job.try_again_at_once()
        found = ids_and_name(job)
        if found is not None:
            self.recovery.release_cut_off_job(*found)

    def _is_waiting(self, job: Job, queue: Queue) -> bool:
        """Returns whether the job is in the queue's list or schedule."""
        schedule = queue.scheduled_job_registry.key
        return (
            self.connection.lpos(queue.key, job.id) is not None
            or self.connection.zscore(schedule, job.id) is not None
        )

    def _is_queued_again(self, job: Job, execution: Execution) -> bool:
        """Returns whether this execution has ended and the job waits for its next try."""
        running = job.started_job_registry.key
        if self.connection.zscore(running, execution.composite_key) is not None:
            return False
        with suppress(InvalidJobOperation):
            return job.get_status() in {JobStatus.QUEUED, JobStatus.SCHEDULED}
        return False


def _nothing() -> None:
    """Is called instead of a heartbeat while no job runs."""
