"""Runs jobs in a work-horse (RQ's name for the process that runs jobs); records how they end.

The work-horse is a fork of its worker, so both have the same `JobRunner`. Here, `worker` is the
parent and `work-horse` the child.
"""

import os
import resource
import signal
import socket
import time
from contextlib import suppress
from typing import Any

from redis import Redis, RedisError
from redis.client import Pipeline
from rq import Queue, Worker
from rq.executions import Execution
from rq.job import Job

from docora_ops.errors import SnapshotError
from docora_ops.jobs import QUEUE_NAME
from docora_ops.queue.redis_client import explain
from docora_ops.settings import Settings
from docora_ops.worker import host, resources, rq_faults
from docora_ops.worker.interrupts import deferred
from docora_ops.worker.log import log
from docora_ops.worker.reasons import Reasons
from docora_ops.worker.recovery import LinkRecovery
from docora_ops.worker.tries import SnapshotJob
from docora_ops.worker.watchdog import Watchdog

_WORKER_TTL = 45  # seconds; RQ adds a minute, after which the name of a killed worker is free
_POLL = 0.2  # seconds between two looks whether a job is to be cut off
_MOST_GROWTH = 1 << 15  # KiB by which a work-horse may grow before it is replaced
# Messages of a work-horse: its job has succeeded; is the error of its job the host's fault?
_SUCCEEDED, _ASKS = b"1", b"?"
# The worker's answers to that question: the host's fault; the link's fault.
_OF_HOST, _OF_LINK = b"h", b"l"


class JobRunner(Worker):
    """RQ's worker of one queue. Its work-horse runs many jobs, one after another.

    A fork for each job would take as long as a snapshot without changes. The comment above each
    override says what RQ does in its place.

    reasons: is told of faults that keep the worker from taking jobs.
    watchdog: is told that the worker is alive.
    """

    # The two ends of the socket between the worker and its living work-horse.
    _to_horse: socket.socket
    _to_worker: socket.socket

    def __init__(
        self,
        settings: Settings,
        client: Redis,
        name: str,
        reasons: Reasons,
        watchdog: Watchdog | None,
    ) -> None:
        super().__init__(
            [Queue(QUEUE_NAME, connection=client, job_class=SnapshotJob)],
            name=name,
            connection=client,
            job_class=SnapshotJob,
            worker_ttl=_WORKER_TTL,
            work_horse_killed_handler=self._work_horse_was_killed,
        )
        self.recovery = LinkRecovery(settings, client)
        self._settings, self._reasons, self._watchdog = settings, reasons, watchdog
        self._cut_off_at = float("inf")
        self._cuts_off = False
        self._living_horse = 0  # its process id, also while it waits for a job

    def beat(self) -> None:
        """Shows that the worker is alive."""
        if self._watchdog is not None:
            self._watchdog.beat()

    # In the worker

    # RQ ends if the host starts no process, and shows the worker as idle between two jobs.
    def execute_job(self, job: Job, queue: Queue) -> None:
        """Has a work-horse run the job. If the host can't start one, the job is queued again."""
        execution = self.prepare_execution(job)
        try:
            self.fork_work_horse(job, queue)
        except OSError:
            self._reasons.host.suspect()
            self.recovery.release_cut_off_job(job)
            self.handle_job_failure(job, queue, execution=execution)
        else:
            self.monitor_work_horse(job, queue, execution)

    # RQ forks a work-horse for each job.
    def fork_work_horse(self, job: Job, queue: Queue) -> None:
        """Gives the job to the living work-horse or, if there is none, to a new one.

        Raises OSError if the host starts no process.
        """
        if self._living_horse and self.execution is not None:
            try:
                self._to_horse.recv(1)  # _SUCCEEDED, which `wait_for_horse` has left there
                self._to_horse.send(f"{job.id} {self.execution.id}".encode())
            except OSError:  # it was killed while it waited
                self.end_work_horse()
            else:
                self._horse_pid = self._living_horse
                return
        worker = os.getpid()
        self._to_horse, self._to_worker = socket.socketpair()
        self._to_horse.settimeout(_POLL)
        try:
            super().fork_work_horse(job, queue)
        except BaseException:
            if os.getpid() != worker:
                os._exit(1)
            raise
        self._to_worker.close()
        self._living_horse = self.horse_pid

    # RQ waits until the work-horse ends: ours may go on, ask, or have to be cut off by a signal.
    def wait_for_horse(self) -> tuple[int | None, int | None, resource.struct_rusage | None]:
        """Waits until the job succeeds or the work-horse ends.

        Meanwhile, answers the work-horse's questions. Kills the work-horse when its job is to be
        cut off.
        """
        while self._living_horse:
            try:
                # RQ's alarm may interrupt this method, and RQ then calls it again. So the message
                # stays in the socket: a question until `_answer`, _SUCCEEDED until the next job.
                message = self._to_horse.recv(1, socket.MSG_PEEK)
            except TimeoutError:
                self.beat()
                if time.monotonic() >= self._cut_off_at:
                    self._cuts_off = True
                    os.kill(self.horse_pid, signal.SIGKILL)
                    self._cut_off_at = float("inf")
                continue
            except ConnectionError:
                message = b""
            if message == _SUCCEEDED:
                return self.horse_pid, os.EX_OK, None
            if message == _ASKS:
                self._answer()
                continue
            self._living_horse = 0
            self._to_horse.close()
        self._reasons.postgres.suspect()  # an outage may have ended the work-horse
        return super().wait_for_horse()

    def _answer(self) -> None:
        """Answers a work-horse that asks whether the error of its job is the host's fault."""
        with deferred((signal.SIGALRM,)), suppress(OSError):  # it was killed meanwhile
            self._to_horse.recv(1)
            self._to_horse.send(_OF_HOST if self._reasons.host.look() else _OF_LINK)

    def end_work_horse(self) -> None:
        """Ends a work-horse that waits for a job."""
        if self._living_horse:
            self._to_horse.close()
            with suppress(ChildProcessError):
                os.waitpid(self._living_horse, 0)
            self._living_horse = 0

    def _work_horse_was_killed(
        self, job: Job, pid: int | None, status: int, _usage: object
    ) -> None:
        if pid is not None:
            # The job's git runs in the same process group, and would go on changing the clone.
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        self.recovery.release_lock(job)
        if self._cuts_off:
            self.recovery.release_cut_off_job(job)
        else:
            self.recovery.count_killed_job(job, f"its process was killed (wait status {status})")

    # In the work-horse

    # RQ limits no memory, and lets SIGHUP end the work-horse.
    def main_work_horse(self, job: Job, queue: Queue) -> None:
        """Runs this job, and each job that the worker sends later, in this new process."""
        self._to_horse.close()
        host.limit_memory(self._settings)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        resources.current_resources().is_hosts_fault = self._ask
        super().main_work_horse(job, queue)

    # RQ performs one job, and then ends the process.
    def perform_job(self, job: Job, queue: Queue, execution: Execution) -> bool:
        """Performs this job, then each job that the worker sends.

        Ends when the worker sends no more. Also ends after a failure, which may have left an
        unread answer in a connection, and when the process has grown by `_MOST_GROWTH`, because
        the next job would have less memory.
        """
        limit = _peak_memory() + _MOST_GROWTH
        while super().perform_job(job, queue, execution) and _peak_memory() < limit:
            message = b""
            with suppress(OSError):  # the worker was killed
                self._to_worker.send(_SUCCEEDED)
                message = self._to_worker.recv(1024)
            if not message:
                break
            job_id, execution_id = message.decode().split()
            job = self.job_class.fetch(job_id, self.connection, self.serializer)
            execution = Execution(execution_id, job_id, self.connection, self.name)
            self.executions = {execution.id: execution}
            os.environ["RQ_JOB_ID"] = job_id
        return True

    def _ask(self) -> bool:
        """Asks the worker whether the error of the job is the host's fault.

        The worker checks the host, because the memory of this process is limited.
        """
        with suppress(OSError):  # the worker was killed
            self._to_worker.send(_ASKS)
            return self._to_worker.recv(1) == _OF_HOST
        return False

    # RQ logs each error with its traceback, and knows no link.
    def handle_exception(self, job: Job, *exc_info: Any) -> None:
        """Logs the error and updates the link, unless the job itself has done both."""
        error = exc_info[1]
        if isinstance(error, SnapshotError):
            return
        if isinstance(error, RedisError):  # an outage needs no traceback
            sentence = explain(error)[0]
            log.warning("worker %s: Redis %s", self.name, sentence)
            # An app's owner may read the reason, and the rest of the sentence can name a host.
            why = f"Redis {sentence.partition(': ')[0]}"
        else:
            super().handle_exception(job, *exc_info)
            why = type(error).__name__
        self.recovery.count_killed_job(job, f"it could not be run: {why}")

    # In either process

    # RQ leaves the id of a job that was killed before it began in the intermediate list.
    def cleanup_execution(
        self, job: Job, pipeline: Pipeline, execution: Execution | None = None
    ) -> None:
        """Removes the execution of a job, and the job's id from the intermediate list."""
        super().cleanup_execution(job, pipeline, execution)
        rq_faults.remove_from_intermediate_list(job, self.queues[0], pipeline)

    # RQ records a failure twice if the process is killed just after recording it, and fails a job
    # that never began while the job still counts as waiting.
    def handle_job_failure(
        self,
        job: Job,
        queue: Queue,
        started_job_registry: object = None,
        exc_string: str = "",
        execution: Execution | None = None,
    ) -> None:
        """Records a failure, unless RQ has already recorded it.

        execution: None for a job that never began. Such a job is first made to count as running.
        """
        if execution is None:
            execution = rq_faults.begin_stuck_job(self, job, queue)
            self.recovery.count_killed_job(job, "its worker took it, but never began it")
        elif rq_faults.is_queued_again(self.connection, job, execution):
            with self.connection.pipeline() as pipeline:
                super().cleanup_execution(job, pipeline, execution)
                pipeline.execute()
            return
        super().handle_job_failure(job, queue, started_job_registry, exc_string, execution)


def _peak_memory() -> int:
    """Returns the most memory that this process has had, in KiB on Linux."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
