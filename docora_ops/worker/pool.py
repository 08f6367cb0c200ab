"""RQ's pool of processes, and its worker, which runs one job at a time in its own process."""

import os
import signal
import threading
import time
from contextlib import suppress
from datetime import timedelta
from typing import Any, cast

from redis import RedisError, exceptions
from rq import Queue, SimpleWorker
from rq.exceptions import StopRequested
from rq.job import Job
from rq.scheduler import RQScheduler
from rq.suspension import is_suspended
from rq.utils import now  # noqa: TID251 - as RQ itself does
from rq.worker import WorkerStatus
from rq.worker_pool import WorkerData, WorkerPool

from docora_ops.errors import ExitCode, SnapshotError
from docora_ops.links import QUEUE_NAME
from docora_ops.queue.rq import CLEANING
from docora_ops.worker.host import await_recovery
from docora_ops.worker.log import log
from docora_ops.worker.resources import current_resources, use_settings

_INTERVAL = 15  # seconds between two heartbeats of an execution
_EXECUTION_TTL = 90  # seconds that an execution lives after its last heartbeat
_WORKER_TTL = 17  # seconds; RQ waits 15 s less for a job: 2 s
_LONGEST_CLEANING = 10  # seconds
_CLEANING = 30  # seconds between two looks for the jobs of killed workers
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class SnapshotWorker(SimpleWorker):
    """Runs jobs in its own process, which keeps its connections from job to job."""

    max_connection_wait_time = 2.0

    def __init__(self, *arguments: Any, **options: Any) -> None:
        for number in ENDING:
            signal.signal(number, signal.SIG_DFL)  # until RQ sets its own handlers
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the pool passes it on
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
        self.parent = os.getppid()
        options |= {"worker_ttl": _WORKER_TTL, "maintenance_interval": 1}
        while True:
            with suppress(exceptions.ConnectionError, exceptions.TimeoutError):
                super().__init__(*arguments, **options)
                break
            time.sleep(1)
        # RQ would run it in a process, which would outlive a killed worker. Its lock lives for 60 s
        # more than the interval: 10 s, in case that this worker is killed while it has the lock.
        self.due_jobs: Any = RQScheduler(
            [QUEUE_NAME], self.connection, interval=-50, logging_level="WARNING"
        )
        self.cleaned_at = float("-inf")
        self.is_burst = False

    def work(self, burst: bool = False, *_: object, **__: object) -> bool:
        """Runs jobs until a signal comes; in a burst, until the queue is empty."""
        self.is_burst = burst
        use_settings(current_resources().settings, self.connection)
        threading.Thread(target=self.keep_alive, daemon=True).start()
        with suppress(RedisError):  # the registration can't be removed; it expires
            return super().work(burst, "WARNING", with_scheduler=False)
        return False

    def subscribe(self) -> None:
        """Listens to no commands: with redis-py 8.2, the end of RQ's thread takes a minute."""

    def get_heartbeat_ttl(self, job: Job, working_time: float = 0.0) -> int:  # noqa: ARG002
        """Returns the seconds that an execution lives; RQ's own worker would renew none."""
        return _EXECUTION_TTL

    def check_for_suspension(self, burst: bool) -> None:
        """Does nothing: `run_maintenance_tasks` looks once a second, also while no job comes."""

    def run_maintenance_tasks(self) -> None:
        """Queues delayed jobs that are due, and every 30 s the jobs of killed workers.

        Before that, waits while workers are suspended, with heartbeats, which RQ's own wait lacks.
        """
        worker = cast("Any", self)
        worker.last_cleaned_at = now()  # RQ calls this again a second later
        if os.getppid() != self.parent:
            raise StopRequested  # the pool was killed
        while is_suspended(self.connection):
            if self.is_burst:
                raise StopRequested
            self.set_state(WorkerStatus.SUSPENDED)
            self.heartbeat()
            time.sleep(1)
        self.due_jobs.acquire_locks()
        self.due_jobs.enqueue_scheduled_jobs()
        self.due_jobs.release_locks()
        if time.monotonic() > self.cleaned_at + _CLEANING:
            self.cleaned_at = time.monotonic()
            # A worker that was killed while it cleaned leaves RQ's own lock behind, for 15 minutes.
            if self.connection.set(CLEANING, self.name, nx=True, ex=_LONGEST_CLEANING):
                for queue in worker.queues:
                    queue.release_maintenance_lock()
                worker.clean_registries()
                self.connection.delete(CLEANING)
            if not self.is_burst and not self.connection.hexists(self.key, "birth"):
                raise StopRequested  # Redis was emptied: the next process registers itself

    def heartbeat(self, timeout: int | None = None, pipeline: Any = None) -> None:
        """Tells Redis that the worker lives, once a second: RQ asks for nine times per job."""
        last = self.last_heartbeat
        if pipeline is not None or last is None or now() - last > timedelta(seconds=1):
            super().heartbeat(timeout, pipeline)

    def keep_alive(self) -> None:
        """Every 15 s, renews the lease of the running job, and keeps its execution alive."""

        def beat() -> None:
            for execution in [*self.executions.values()]:
                self.maintain_heartbeats(execution.job, execution)

        # The main thread must get the signals, while it waits.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while True:
            time.sleep(_INTERVAL)
            if lease := current_resources().lease:
                lease.renew(beat)

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Runs a job; then waits while the host has a fault."""
        self.perform_job(job, queue, self.prepare_execution(job))
        resources = current_resources()
        fault, resources.fault = resources.fault, None
        if fault is not None:
            self.set_state(WorkerStatus.IDLE)
            if self.is_burst:
                log.warning("ends: %s (%s)", fault.message, fault.hint)
                raise SystemExit(ExitCode.PROBLEMS)
            await_recovery(fault, resources.settings, self.connection, self.heartbeat)

    def handle_execution_ended(self, job: Job, queue: Queue, heartbeat_ttl: int) -> None:  # noqa: ARG002
        """Gives up the lease before RQ writes how the job has ended."""
        if lease := current_resources().lease:
            lease.release()
        job.ended_at = now()

    def handle_exception(self, job: Job, *exc_info: Any) -> None:
        """Logs an exception, unless the job has logged it."""
        if not isinstance(exc_info[1], SnapshotError):
            super().handle_exception(job, *exc_info)


class Pool(WorkerPool):
    """Keeps the processes running."""

    exit_code = ExitCode.OK

    def check_workers(self, respawn: bool = True) -> None:
        """Replaces ended processes. Signals wait meanwhile: a new process must not get them."""
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
        super().check_workers(respawn)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)

    def handle_dead_worker(self, worker_data: WorkerData) -> None:
        """Logs how a process has ended, unless it has ended well."""
        super().handle_dead_worker(worker_data)
        if code := worker_data.process.exitcode:
            how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
            log.warning("a worker process %s", how)
            self.exit_code = ExitCode.PROBLEMS
