"""Comparing the clock of this host with Redis's: if it is wrong, a worker takes no job."""

from __future__ import annotations

import socket

from redis import Redis

from docora_ops.errors import WrongClockError
from docora_ops.worker import redis_clock
from docora_ops.worker.log import log

_LARGEST_DIFFERENCE = 30
"""Seconds. Beyond, fresh heartbeats of other workers seem to have expired, and RQ's own delays and
timeouts go wrong."""


class ClockWatch:
    """Tells whether the clock of this host is wrong; logs when it goes wrong, and right."""

    def __init__(self, client: Redis, name: str) -> None:
        self._client = client
        self._name = name
        self.was_wrong = False
        """True if the clock was wrong at the last look."""

    def is_wrong(self) -> bool:
        """Looks. Raises the client's RedisError."""
        redis_clock.measure(self._client)
        is_wrong = abs(redis_clock.seconds_ahead()) > _LARGEST_DIFFERENCE
        if is_wrong and not self.was_wrong:
            log.warning(
                "worker %s: %s: takes no job until both agree to %d s; set them by NTP",
                self._name,
                self.error.message,
                _LARGEST_DIFFERENCE,
            )
        elif self.was_wrong and not is_wrong:
            log.warning("worker %s: the clock of this host is right again: goes on", self._name)
        self.was_wrong = is_wrong
        return is_wrong

    @property
    def error(self) -> WrongClockError:
        """The error for a burst, which does not wait."""
        ahead = redis_clock.seconds_ahead()
        direction = "ahead of" if ahead > 0 else "behind"
        return WrongClockError(
            f"the clock of {socket.gethostname()} is {abs(ahead):.0f} s {direction} Redis's",
            hint="set both clocks by NTP, and start the worker again; jobs may wait still",
        )
