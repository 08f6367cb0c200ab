"""A worker whose work-horse, the process of a job, runs the jobs that wait behind it, too."""

from __future__ import annotations

import os
import resource
import signal
import socket
from contextlib import suppress
from typing import Any

from rq import Queue, Worker
from rq.executions import Execution
from rq.job import Job

from docora_ops.interrupts import CUT_OFF, held_back
from docora_ops.worker.rq_parts import cut_off

_MOST_JOBS = 100
"""Jobs of one work-horse."""
_MOST_GROWTH = 1 << 15
"""KiB by which a work-horse may grow before it is replaced."""
_LONGEST_MESSAGE = 1024


class LastingHorseWorker(Worker):
    """A worker that forks a work-horse only if there is none that has just finished a job.

    RQ forks one for each job. That alone takes as long as a job that finds no change: all memory
    that both processes write to is copied, and each job connects to Redis anew.

    A work-horse runs one job at a time, so a killed one costs that job only. It ends when no job
    waits, and after a job that failed: an exception at any place may have left a connection with
    half an answer.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._to_horse: socket.socket | None = None
        """Sends jobs to a living work-horse, which answers when each has succeeded."""
        self._to_worker: socket.socket | None = None
        """The other end, in the work-horse."""
        self._last_horse_pid = 0

    def fork_work_horse(self, job: Job, queue: Queue) -> None:
        """Gives the job to the work-horse, or to a new one."""
        if self._give(job):
            return
        self._to_horse, self._to_worker = socket.socketpair()
        with held_back({CUT_OFF}):  # in the work-horse, too, until it performs a job
            super().fork_work_horse(job, queue)
        self._to_worker.close()
        self._last_horse_pid = self.horse_pid

    def _give(self, job: Job) -> bool:
        """Sends the job to the work-horse; returns False if there is none."""
        if self._to_horse is None or self.execution is None:
            return False
        try:
            self._to_horse.recv(1)  # its last answer
            self._to_horse.send(f"{job.id} {self.execution.id}".encode())
        except OSError:  # it was killed while it waited
            self.end_work_horse()
            return False
        self._horse_pid = self._last_horse_pid
        return True

    def wait_for_horse(self) -> tuple[int | None, int | None, resource.struct_rusage | None]:
        """Waits until the job has succeeded, or the work-horse has ended."""
        if self._to_horse is not None:
            with suppress(ConnectionError):
                # Not taken yet: RQ's alarm, which looks after the job, may strike behind it.
                if self._to_horse.recv(1, socket.MSG_PEEK):
                    return self.horse_pid, os.EX_OK, None
            self._to_horse.close()
            self._to_horse = None
        return super().wait_for_horse()

    def end_work_horse(self) -> None:
        """Ends a work-horse that waits for a job."""
        if self._to_horse is not None:
            with suppress(OSError):
                # Closing is not enough: RQ's scheduler may have been forked meanwhile.
                self._to_horse.shutdown(socket.SHUT_RDWR)
            self._to_horse.close()
            self._to_horse = None
            with suppress(ChildProcessError):
                os.waitpid(self._last_horse_pid, 0)

    def dequeue_job_and_maintain_ttl(
        self, timeout: int | None, max_idle_time: int | None = None
    ) -> tuple[Job, Queue] | None:
        """Waits for a job, without a work-horse if there is none yet."""
        if self._to_horse is not None and not self.queues[0].count:
            self.end_work_horse()
        return super().dequeue_job_and_maintain_ttl(timeout, max_idle_time)

    def teardown(self) -> None:
        """Ends a work-horse that waits, too."""
        if not self.is_horse:
            self.end_work_horse()
        super().teardown()  # type: ignore[no-untyped-call]

    def main_work_horse(self, job: Job, queue: Queue) -> None:
        """Runs in the work-horse: the job, and then those that the worker sends."""
        assert self._to_horse is not None  # noqa: S101 - made before the fork
        self._to_horse.close()
        super().main_work_horse(job, queue)

    def setup_work_horse_signals(self) -> None:
        """Has the work-horse ignore SIGHUP, and CUT_OFF cut off its job: the worker decides."""
        super().setup_work_horse_signals()  # type: ignore[no-untyped-call]
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(CUT_OFF, cut_off)

    def perform_job(self, job: Job, queue: Queue, execution: Execution) -> bool:
        """Performs the job and, in a work-horse, the jobs that follow. Returns the last success."""
        size = _size()
        jobs_left = _MOST_JOBS
        while super().perform_job(job, queue, execution):
            jobs_left -= 1
            if self._to_worker is None or not jobs_left or _size() - size > _MOST_GROWTH:
                return True
            try:
                self._to_worker.send(b"1")
                message = self._to_worker.recv(_LONGEST_MESSAGE)
            except OSError:  # the worker was killed
                return True
            if not message:
                return True
            job_id, execution_id = message.decode().split()
            job, execution = self._fetch(job_id, execution_id)
        return False

    def _fetch(self, job_id: str, execution_id: str) -> tuple[Job, Execution]:
        job = self.job_class.fetch(job_id, self.connection, self.serializer)
        job.redis_server_version = self.get_redis_server_version()  # type: ignore[no-untyped-call]
        execution = Execution.fetch(execution_id, job_id, self.connection)
        execution._job = job  # noqa: SLF001 - as in RQ's SpawnWorker
        self.executions = {execution.id: execution}
        os.environ["RQ_JOB_ID"] = job_id
        return job, execution


def _size() -> int:
    """Returns the most memory that this process has had, in KiB on Linux."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
