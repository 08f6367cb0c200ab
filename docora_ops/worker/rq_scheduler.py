"""RQ's scheduler, which queues delayed jobs when they are due."""

from __future__ import annotations

import os
import signal

from redis import Redis, RedisError
from rq import Queue
from rq.scheduler import RQScheduler

from docora_ops.interrupts import held_back


class DelayedJobScheduler(RQScheduler):
    """A scheduler whose process ends on a signal, and when its worker was killed.

    RQ's own process goes on, with a copy of the dead worker's connection. Redis hands the next job
    to that connection, where nobody reads it.
    """

    def __init__(self, queues: list[Queue], connection: Redis, logging_level: int) -> None:
        super().__init__(queues, connection=connection, logging_level=logging_level)
        self._pool = connection.connection_pool
        self._worker_pid = os.getpid()
        self._mask: set[int | signal.Signals] = set()

    def start(self) -> None:
        """Forks, with signals held back until the scheduler has its own handlers."""
        with held_back() as self._mask:
            super().start()  # type: ignore[no-untyped-call]

    def work(self) -> None:
        """Runs in the scheduler's process until it is told to end."""
        self._install_signal_handlers()
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        self._pool.disconnect()
        try:
            super().work()  # type: ignore[no-untyped-call]
        except RedisError as error:
            # The next maintenance of the worker starts another scheduler.
            self.log.warning("Scheduler has lost Redis: %s", type(error).__name__)

    def _install_signal_handlers(self) -> None:
        """Handles SIGHUP like SIGTERM, unless it is ignored."""
        super()._install_signal_handlers()  # type: ignore[no-untyped-call]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            signal.signal(signal.SIGHUP, self.request_stop)

    def heartbeat(self) -> None:
        """Sends a heartbeat each second; ends if the worker is no longer the parent."""
        if os.getppid() != self._worker_pid:
            self._stop_requested = True
        super().heartbeat()  # type: ignore[no-untyped-call]
