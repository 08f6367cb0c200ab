"""RQ's scheduler, which queues delayed jobs when their time has come."""

from __future__ import annotations

import os
import signal

from redis import Redis, RedisError
from rq import Queue
from rq.scheduler import RQScheduler

from docora_ops.interrupts import held_back


class Scheduler(RQScheduler):
    """A scheduler whose process ends when it is told to, or when the worker has been killed.

    RQ's own lives on with a copy of the dead worker's connection, on which the worker still waits
    as far as Redis can tell: the next job goes there, and nowhere.
    """

    def __init__(self, queues: list[Queue], connection: Redis, logging_level: int) -> None:
        super().__init__(queues, connection=connection, logging_level=logging_level)
        self._pool = connection.connection_pool
        self._worker_pid = os.getpid()
        self._mask: set[int | signal.Signals] = set()

    def start(self) -> None:
        """Fork, with signals held back until the scheduler has handlers of its own."""
        with held_back() as self._mask:
            super().start()  # type: ignore[no-untyped-call]

    def work(self) -> None:
        """In its own process."""
        self._install_signal_handlers()
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        self._pool.disconnect()
        try:
            super().work()  # type: ignore[no-untyped-call]
        except RedisError as error:
            # The worker starts another one, when it next looks around.
            self.log.warning("Scheduler has lost Redis: %s", type(error).__name__)

    def _install_signal_handlers(self) -> None:
        """Take SIGHUP for SIGTERM, unless it is ignored."""
        super()._install_signal_handlers()  # type: ignore[no-untyped-call]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            signal.signal(signal.SIGHUP, self.request_stop)

    def heartbeat(self) -> None:
        """Each second, so that it soon sees who its parent is."""
        if os.getppid() != self._worker_pid:
            self._stop_requested = True
        super().heartbeat()  # type: ignore[no-untyped-call]
