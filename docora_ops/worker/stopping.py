"""Ending a worker by signals: its job may finish first, or is cut off and queued again."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from datetime import timedelta
from threading import Thread
from types import FrameType
from typing import Any

from rq.exceptions import StopRequested
from rq.utils import now
from rq.worker import WorkerStatus

from docora_ops.interrupts import CUT_OFF, held_back
from docora_ops.worker.log import log
from docora_ops.worker.registration import RegisteredWorker

_CLEANING_UP = 10
"""Seconds that a job has to clean up after it was cut off, before it is killed."""
_PAUSE = 0.05
_SAME_SIGNAL = timedelta(seconds=1)
"""RQ takes a second signal within this time for the first, which may come by two ways."""


class Stopped(SystemExit):
    """The worker was told to end while it ran no job.

    RQ's own StopRequested is lost wherever redis-py catches Exception.
    """


class StoppableWorker(RegisteredWorker):
    """A worker that ends when its job has finished, or else after a grace period."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.stop_was_requested = False
        self.grace: int | None = None
        """Seconds after which a job is cut off, once the worker was told to end."""
        self._is_cutting_off = False

    def _install_signal_handlers(self) -> None:
        """Handles SIGHUP like SIGTERM, unless it is ignored (`nohup`)."""
        super()._install_signal_handlers()  # type: ignore[no-untyped-call]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            signal.signal(signal.SIGHUP, self.request_stop)

    def handle_warm_shutdown_request(self) -> None:
        """Records that the worker was told to end."""
        self.stop_was_requested = True
        self._stop_requested = True
        rest = ""
        if self.get_state() == WorkerStatus.BUSY:
            rest = "; its job is finished first"
            if self.grace is not None:
                rest += f", or cut off after {self.grace} s"
                self._cut_off_after(self.grace)
        log.info("worker %s: told to end%s", self.name, rest)
        # A closed terminal often sends two SIGHUPs, from the shell and from the kernel. Only SIGINT
        # and SIGTERM count as a second signal, which cuts the job off.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        super().handle_warm_shutdown_request()  # type: ignore[no-untyped-call]

    def request_force_stop(self, signum: int, frame: FrameType | None) -> None:
        """Cuts the job off at the second signal; kills it at the third, which ends the worker."""
        told_at = self._shutdown_requested_date
        is_new = told_at is not None and now() - told_at >= _SAME_SIGNAL
        if is_new and self.horse_pid and not self._is_cutting_off:
            self._shutdown_requested_date = now()
            self._cut_off_after(0)
        else:
            super().request_force_stop(signum, frame)

    def _shutdown(self) -> None:
        with suppress(StopRequested):
            super()._shutdown()  # type: ignore[no-untyped-call]
        self._stop_if_idle()

    def _stop_if_idle(self) -> None:
        if self.get_state() != WorkerStatus.BUSY:
            raise Stopped

    def _cut_off_after(self, seconds: int) -> None:
        """Starts a thread, as RQ uses the only alarm that a process has."""
        with held_back(signal.valid_signals()):
            Thread(target=self._cut_off, args=(seconds,), daemon=True).start()

    def _cut_off(self, seconds: int) -> None:
        """Tells the job to end, after some seconds; kills it if it does not."""
        time.sleep(seconds)
        while not self.horse_pid and self.get_state() == WorkerStatus.BUSY:
            time.sleep(_PAUSE)  # the job begins, or has just ended
        pid = self.horse_pid
        self._is_cutting_off = pid != 0
        for number in (CUT_OFF, signal.SIGKILL):
            if pid and self.horse_pid == pid:  # 0 once the job has ended
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
                time.sleep(_CLEANING_UP)
