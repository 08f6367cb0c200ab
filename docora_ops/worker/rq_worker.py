"""RQ's worker, with an eye on links whose job is killed."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, ClassVar, Protocol, cast

from redis import Redis, RedisError
from redis.client import Pipeline
from rq import Queue, Worker
from rq.command import PUBSUB_CHANNEL_TEMPLATE
from rq.exceptions import AbandonedJobError, InvalidJobOperation, StopRequested
from rq.executions import Execution
from rq.job import Job, JobStatus
from rq.logutils import colorizer
from rq.registry import StartedJobRegistry
from rq.utils import now
from rq.worker import WorkerStatus

from docora_ops.errors import SnapshotError, WorkerNameTakenError
from docora_ops.interrupts import ENDING, held_back, repeat_if_swallowed
from docora_ops.settings import Settings
from docora_ops.worker.scheduler import Scheduler
from docora_ops.worker.tries import Tries

_WORKER_TTL = 45
"""Seconds; an idle worker looks up 15 s earlier."""
_MAINTENANCE_INTERVAL = 30
_MAINTENANCE_LOCK_LIFE = 120
_WORST_CLOCK = 30
"""Seconds by which the clock of this host may differ from Redis's: beyond, heartbeats that others
have just made seem to have expired."""
_PATIENCE = 5
"""Seconds for an answer of Redis that comes at once."""


class _Stopped(SystemExit):
    """The worker was told to end while no job was at work.

    RQ's own StopRequested is lost wherever redis-py catches Exception.
    """


class Caretaker(Protocol):
    """Brings a link in order whose job could not do it itself.

    Nothing may be raised but what `keep_alive` raises.
    """

    def job_was_killed(
        self, app_id: str, repository_id: str, tries: Tries, *, what: str, stopped: bool = False
    ) -> None:
        """The process of the job is gone; `what` happened to it. `stopped`: on purpose."""

    def tidy_up(self, keep_alive: Callable[[], object]) -> None:
        """Look for links that nobody works on any more, calling `keep_alive` now and then."""


class SnapshotWorker(Worker):
    """A worker that lets no killed job leave its link behind.

    RQ's own defaults notice an abandoned job after ten minutes, and while they are busy never.
    """

    def __init__(self, settings: Settings, client: Redis, name: str, caretaker: Caretaker) -> None:
        super().__init__(
            [_Queue(settings.queue_name, connection=client, job_class=_Job)],
            name=name,
            connection=client,
            job_class=_Job,
            worker_ttl=_WORKER_TTL,
            maintenance_interval=_MAINTENANCE_INTERVAL,
            work_horse_killed_handler=self._horse_was_killed,
            exception_handlers=[self._job_was_abandoned],
        )
        colorizer.notty = True  # its codes would be spelled out, as all that strangers write
        self.log_result_lifespan = False
        self.log.addFilter(_without_traceback_of_redis)
        self.stop_was_requested = False
        """Whether somebody has asked it to end."""
        self.found_nothing = False
        """Whether the queue was empty at the last look."""
        self._caretaker = caretaker
        self._clock_is_wrong = False
        self._show_life: Callable[[], object] = _nothing
        self._is_registered = False
        """Whether the name on RQ's screens is this process."""

    def work_until_stopped(self, *, burst: bool) -> None:
        """Work, until a signal comes or, in a burst, until the queue is empty.

        Raises WorkerNameTakenError, and RuntimeError when it ends for another reason: RQ has
        logged that, and nothing more is known of it.
        """
        self._check_permissions()
        repeat_if_swallowed(SystemExit, self._stop_if_idle)
        try:
            # RQ does so only once its scheduler runs: a signal before that would leave it behind.
            self._install_signal_handlers()
            self.work(burst=burst, logging_level=None, with_scheduler=True)
        except _Stopped:
            self.teardown()  # RQ does so only once its loop has begun
        finally:
            # It ends anyway, and what is said of that must not be cut off.
            for number in ENDING:
                signal.signal(number, signal.SIG_IGN)
        if not self.stop_was_requested and not (burst and self.found_nothing):
            raise RuntimeError("the worker could not go on")

    def _check_permissions(self) -> None:
        """Raise NoPermissionError for what RQ would silently do without, or meet only midway.

        Where INFO is refused it takes Redis for an old one, and takes jobs so that one is lost
        with a worker that is killed just then.
        """
        self.connection.info("server")
        self.connection.time()
        with self.connection.pubsub() as channel:  # type: ignore[no-untyped-call]
            channel.subscribe(PUBSUB_CHANNEL_TEMPLATE % self.name)
            channel.get_message(timeout=_PATIENCE)

    def handle_job_failure(
        self,
        job: Job,
        queue: Queue,
        started_job_registry: object = None,
        exc_string: str = "",
        execution: Execution | None = None,
    ) -> None:
        """What RQ does, and before it what it leaves out for a job that never began.

        Not a second time: a process may be killed when it has just done this itself, and a job that
        never began may have been queued again by others.
        """
        if execution is None:
            if self._waits(job, queue):
                # Its next worker has a minute of its own.
                self.connection.delete(queue.intermediate_queue.get_first_seen_key(job.id))
                return
            execution = self._take_up(job)
            self._take_care(job, "its worker was killed before it began")
        elif self._stopped_job_id != job.id and self._is_back_in_queue(job, execution):
            with self.connection.pipeline() as pipeline:
                super().cleanup_execution(job, pipeline, execution)
                pipeline.execute()
            return
        super().handle_job_failure(job, queue, started_job_registry, exc_string, execution)

    def cleanup_execution(
        self, job: Job, pipeline: Pipeline, execution: Execution | None = None
    ) -> None:
        """As RQ does; and a job that never began stands no longer where it was popped to.

        In one step with what becomes of it: cleaning would take it for stuck there, and one that
        stands nowhere is lost.
        """
        super().cleanup_execution(job, pipeline, execution)
        pipeline.lrem(self.queues[0].intermediate_queue_key, 1, job.id)

    def subscribe(self) -> None:
        """As RQ does, in a thread that takes no signals.

        One that is delivered there wakes nobody: the main thread, which Python's handlers run in,
        may be waiting for Redis or for a job.
        """
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            super().subscribe()  # type: ignore[no-untyped-call]
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def _start_scheduler(self, burst: bool = False, *_: object) -> None:
        """As RQ does, with a scheduler that does not outlive us."""
        self.scheduler = Scheduler(
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

    def _install_signal_handlers(self) -> None:
        """Take SIGHUP for SIGTERM, unless it is ignored, as `nohup` has it."""
        super()._install_signal_handlers()  # type: ignore[no-untyped-call]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            signal.signal(signal.SIGHUP, self.request_stop)

    def setup_work_horse_signals(self) -> None:
        """Have the process of a job ignore SIGHUP like SIGINT: the worker decides about the job."""
        super().setup_work_horse_signals()  # type: ignore[no-untyped-call]
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def handle_warm_shutdown_request(self) -> None:
        """Note it, beside what RQ does."""
        self.stop_was_requested = True
        self._stop_requested = True
        # A closed terminal often sends two, from the shell and from the kernel: only SIGINT and
        # SIGTERM count as a second signal, which kills the job.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        super().handle_warm_shutdown_request()  # type: ignore[no-untyped-call]

    def _shutdown(self) -> None:
        """End after the job at work. Raises _Stopped when there is none."""
        with suppress(StopRequested):
            super()._shutdown()  # type: ignore[no-untyped-call]
        self._stop_if_idle()

    def _stop_if_idle(self) -> None:
        if self.get_state() != WorkerStatus.BUSY:
            raise _Stopped

    def register_death(self) -> None:
        """Take the name off RQ's screens, unless it is another worker's."""
        if self._is_registered:
            super().register_death()  # type: ignore[no-untyped-call]
            self._is_registered = False

    def teardown(self) -> None:
        """Clean up as RQ does, once, and only after this process has registered its name."""
        if self._is_registered:
            super().teardown()  # type: ignore[no-untyped-call]

    def run_maintenance_tasks(self) -> None:
        """RQ's, and ours; on a host whose clock is wrong neither cleans anything.

        A job that can't be read breaks off RQ's; it must not end each worker at its start.
        """
        self._compare_clocks()
        try:
            super().run_maintenance_tasks()  # type: ignore[no-untyped-call]
        except RedisError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a strange job leads to
            self.log.warning(
                "Worker %s: maintenance broke off: %s", self.name, type(error).__name__
            )
            self.last_cleaned_at = now()  # type: ignore[assignment]
        if not self._clock_is_wrong:
            self._caretaker.tidy_up(self._show_life)

    def clean_registries(self) -> None:
        """Does what RQ does, unless the clock of this host is wrong: RQ judges by that."""
        if self._clock_is_wrong:
            self.last_cleaned_at = now()  # type: ignore[assignment]
        else:
            super().clean_registries()  # type: ignore[no-untyped-call]

    def _compare_clocks(self) -> None:
        """Compare the clock of this host with Redis's; log when it goes wrong or right."""
        before = time.time()
        seconds, microseconds = self.connection.time()
        ahead = (before + time.time()) / 2 - seconds - microseconds / 1e6
        _StartedJobs.clock_ahead = ahead
        was_wrong, self._clock_is_wrong = self._clock_is_wrong, abs(ahead) > _WORST_CLOCK
        if self._clock_is_wrong and not was_wrong:
            self.log.warning(
                "Worker %s: the clock of this host is %.0f s %s Redis's: cleaning up after killed "
                "workers is left to others",
                self.name,
                abs(ahead),
                "ahead of" if ahead > 0 else "behind",
            )
        elif was_wrong and not self._clock_is_wrong:
            self.log.warning("Worker %s: the clock of this host is right again", self.name)

    def maintain_heartbeats(self, job: Job, execution: Execution) -> None:
        """Beside the heartbeats, maintenance: a worker may be busy for an hour.

        A heartbeat that Redis does not take costs nothing yet: it lives for three of them.
        """
        beat = partial(super().maintain_heartbeats, job, execution)
        try:
            beat()
            if self.should_run_maintenance_tasks:
                # It may find a hundred links to see to, and wait for each.
                self._show_life = beat
                self.run_maintenance_tasks()
        except RedisError as error:
            self.log.warning("Worker %s: no heartbeat: %s", self.name, type(error).__name__)
        finally:
            self._show_life = _nothing

    def handle_exception(self, job: Job, *exc_info: Any) -> None:
        """Say what RQ says, and see to the link, unless the job itself has done both."""
        error = exc_info[1]
        if isinstance(error, SnapshotError):
            return
        name = type(error).__name__
        if isinstance(error, RedisError):
            self.log.warning("Worker %s: job %s has lost Redis: %s", self.name, job.id, name)
        else:
            super().handle_exception(job, *exc_info)
        self._take_care(job, f"it could not be run: {name}")

    def register_birth(self) -> None:
        """Register the name, with signals held back: afterwards it is known whose the name is.

        Raises WorkerNameTakenError.
        """
        with held_back():
            try:
                super().register_birth()  # type: ignore[no-untyped-call]
            except ValueError as error:
                raise WorkerNameTakenError(
                    f"a worker named {self.name!r} is at work already",
                    hint="give another --name; that of a killed worker is free two minutes later",
                ) from error
            self._is_registered = True

    def dequeue_job_and_maintain_ttl(
        self, timeout: int | None, max_idle_time: int | None = None
    ) -> tuple[Job, Queue] | None:
        """As RQ does; notes when there is nothing left."""
        found = super().dequeue_job_and_maintain_ttl(timeout, max_idle_time)
        self.found_nothing = found is None
        return found

    def _horse_was_killed(self, job: Job, pid: int | None, status: int, _usage: object) -> None:
        if pid is not None:
            # The git of the job, in the same process group, would go on at the clone.
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGTERM)
        self._take_care(job, f"its process was killed (wait status {status})")

    def _job_was_abandoned(self, job: Job, kind: type[BaseException], *_: object) -> None:
        if kind is AbandonedJobError:
            self._take_care(job, "its worker was killed")

    def _handle_stopped_job(self, job: Job, queue: Queue, execution: Execution) -> None:
        self._take_care(job, "it was stopped by an operator", stopped=True)
        super()._handle_stopped_job(job, queue, execution)

    def _waits(self, job: Job, queue: Queue) -> bool:
        """Whether it stands in the queue's list or schedule."""
        schedule = queue.scheduled_job_registry.key
        return (
            self.connection.lpos(queue.key, job.id) is not None
            or self.connection.zscore(schedule, job.id) is not None
        )

    def _is_back_in_queue(self, job: Job, execution: Execution) -> bool:
        """Whether this execution has ended, and its job waits for another one."""
        wip = job.started_job_registry.key
        if self.connection.zscore(wip, execution.composite_key) is not None:
            return False
        with suppress(InvalidJobOperation):
            return job.get_status() in {JobStatus.QUEUED, JobStatus.SCHEDULED}
        return False

    def _take_up(self, job: Job) -> Execution:
        """Show a job that never began as running, or who retries its link now finds it waiting."""
        with self.connection.pipeline() as pipeline:
            execution = Execution.create(job, 2 * _WORKER_TTL, pipeline, worker_name=self.name)
            pipeline.execute()
        return execution

    def _take_care(self, job: Job, what: str, *, stopped: bool = False) -> None:
        self._show_life()
        ids = _link_ids(job)
        if ids is not None:
            self._caretaker.job_was_killed(*ids, Tries(job), what=what, stopped=stopped)


def _without_traceback_of_redis(record: logging.LogRecord) -> bool:
    """For what RQ says of a Redis that is out of reach, which is no bug of anybody's."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, RedisError):
        record.msg, record.args = "%s (%s)", (record.getMessage(), type(error).__name__)
        record.exc_info = None
    return True


def _nothing() -> None:
    """No job is at work meanwhile."""


class _Job(Job):
    """A job that is scheduled for its next try in one step.

    RQ's own says that it is scheduled, and is so a moment later. Were its process killed in
    between, RQ would take it for one that has long gone on, and drop it.
    """

    _retried_in: Pipeline | None = None

    @property
    def started_job_registry(self) -> StartedJobRegistry:
        """The registry of running jobs, with heartbeats by Redis's clock."""
        return _StartedJobs(
            self.origin,
            connection=self.connection,
            job_class=type(self),
            serializer=self.serializer,
        )

    def retry(self, queue: Queue, pipeline: Pipeline) -> None:
        """As RQ does, all of it in the pipeline."""
        self._retried_in = pipeline
        try:
            super().retry(queue, pipeline)
        finally:
            self._retried_in = None

    def set_status(self, status: JobStatus, pipeline: Pipeline | None = None) -> None:
        """As RQ does."""
        super().set_status(status, self._retried_in if pipeline is None else pipeline)


class _StartedJobs(StartedJobRegistry):
    """A registry of running jobs whose heartbeats expire by Redis's clock.

    RQ's own expire by the clock of this host: where that is behind, others take the job for
    abandoned while it runs.
    """

    clock_ahead: ClassVar[float] = 0
    """Seconds that the clock of this host is ahead of Redis's."""

    def add_execution(
        self, execution: Execution, pipeline: Pipeline, ttl: int = 0, xx: bool = False
    ) -> int:
        """Adds or renews an execution; it expires `ttl` seconds from now by Redis's clock."""
        if ttl < 0:
            return super().add_execution(execution, pipeline, ttl, xx)
        expires_at = time.time() - self.clock_ahead + ttl
        return cast("int", pipeline.zadd(self.key, {execution.composite_key: expires_at}, xx=xx))


class _Queue(Queue):
    def acquire_maintenance_lock(self) -> bool:
        # RQ's own lives for 15 minutes: were its holder killed, nobody would clean up until then.
        taken = self.connection.set(
            self.registry_cleaning_key, 1, nx=True, ex=_MAINTENANCE_LOCK_LIFE
        )
        return bool(taken)


def _link_ids(job: Job) -> tuple[str, str] | None:
    """App and repository that the job is about; None for a job of somebody else's."""
    try:
        arguments = job.kwargs
    except Exception:  # noqa: BLE001 - whatever unpickling may raise
        return None
    app_id, repository_id = arguments.get("app_id"), arguments.get("repository_id")
    if isinstance(app_id, str) and isinstance(repository_id, str):
        return app_id, repository_id
    return None
