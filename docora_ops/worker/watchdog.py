"""Tells systemd, and writes to the heartbeat file, that the workers of a command are alive."""

import math
import mmap
import os
import socket
import time
from contextlib import suppress

from docora_ops.settings import Settings
from docora_ops.text import inert
from docora_ops.worker.heartbeat import Heartbeat, heartbeat_path, write_heartbeat
from docora_ops.worker.log import log

INTERVAL = 1.0  # seconds between two heartbeats
_SHORTEST_LIMIT = 180  # seconds
_CALLS = 5  # calls to a slow server, one after another, between two heartbeats


def silence_limit(settings: Settings) -> int:
    """Returns how many seconds a worker may be silent before it counts as hanging."""
    longest_call = settings.connect_timeout + settings.statement_timeout
    return max(_SHORTEST_LIMIT, _CALLS * longest_call)


class Watchdog:
    """Passes on the heartbeats of worker processes to systemd and to the heartbeat file.

    Each worker writes the time of its heartbeat into shared memory. The main process passes on the
    oldest of these times if it has changed, so that a single worker that hangs is noticed.
    """

    def __init__(self, name: str, count: int, settings: Settings) -> None:
        self._name = name
        self._path = heartbeat_path(settings)
        self._limit = silence_limit(settings)
        # Time of the last heartbeat by slot. 0: has not begun. Infinity: has ended.
        self._beats = memoryview(mmap.mmap(-1, 8 * count)).cast("d")
        self._slot = 0
        self._is_main = True
        self._told = 0.0  # the heartbeat that was passed on last
        self._due_at = 0.0
        self._is_stopping = False
        self._warns = True

    # In a worker

    def become_child(self, slot: int) -> None:
        """Makes this process, forked from the main one, the worker of a slot."""
        self._slot, self._is_main = slot, False

    def beat(self) -> None:
        """Records a heartbeat of the worker of this process."""
        now = self._beats[self._slot] = time.monotonic()
        if self._is_main and now >= self._due_at:
            self._due_at = now + INTERVAL
            self.tell()

    # In the main process

    def begin(self, slot: int) -> None:
        """Assigns a slot to a new worker.

        A worker that replaces another must send its first heartbeat within `silence_limit`.
        """
        if self._beats[slot] == math.inf:
            self._beats[slot] = time.monotonic()

    def end(self, slot: int) -> None:
        """Expects no more heartbeats from the worker of a slot."""
        self._beats[slot] = math.inf

    def tell(self) -> None:
        """Passes on the oldest heartbeat, if it has changed."""
        oldest = min(self._beats)
        if not self._told < oldest < math.inf:
            return
        states = ["WATCHDOG=1"] if self._told else ["READY=1", "WATCHDOG=1"]
        self._told = oldest
        try:
            heartbeat = Heartbeat(self._name, os.getpid(), oldest, self._limit)
            write_heartbeat(self._path, heartbeat)
        except OSError as error:
            if self._warns:
                self._warns = False
                path, reason = inert(str(self._path)), error.strerror
                log.warning("no heartbeat file %s, so --check fails: %s", path, reason)
        _notify(states)

    def stop(self) -> None:
        """Tells systemd that the workers are ending."""
        if self._is_main and not self._is_stopping:
            self._is_stopping = True
            _notify(["STOPPING=1"])

    def close(self) -> None:
        """Removes the heartbeat file: the workers have ended."""
        self.stop()
        if self._told:
            with suppress(OSError):
                self._path.unlink()


def _notify(states: list[str]) -> None:
    """Sends states to the service manager that has started this process, as in sd_notify(3)."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address.startswith("@"):  # an abstract socket, which has no file
        address = f"\0{address[1:]}"
    elif not address.startswith("/"):
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.settimeout(INTERVAL)
        sender.sendto("\n".join(states).encode(), address)
