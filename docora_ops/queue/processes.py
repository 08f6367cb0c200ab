"""Detects that a process of this machine is gone, without waiting for its heartbeat to expire."""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_STATE, _STARTED_AT = 0, 19  # indexes in /proc/PID/stat after the name of the program
_ENDED = {"Z", "X"}  # zombies and dead processes


@dataclass(frozen=True)
class Process:
    """The facts that identify a process. A PID recurs in other containers, and over time."""

    boot_id: str  # changes with each start of the machine
    pid_namespace: str  # of the container, as `pid:[4026531836]`
    pid: int
    started_at: int  # clock ticks since the machine was started

    @property
    def is_known_dead(self) -> bool:
        """Tells whether the process is gone.

        False if it ran on another machine or in another container, where this can't be known.
        """
        here = this_process()
        if here is None or here.where != self.where:
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except (PermissionError, OverflowError):  # the process belongs to another user
            pass
        stat = _read_stat(str(self.pid))
        return stat is not None and (stat[0] in _ENDED or stat[1] != self.started_at)

    @property
    def where(self) -> tuple[str, str]:
        """Identifies where the process runs or ran: the boot of the machine, and the container."""
        return self.boot_id, self.pid_namespace


def this_process() -> Process | None:
    """Returns this process; None if /proc does not show it, as on macOS."""
    with suppress(OSError, ValueError):
        # /proc may belong to another container, where the same PID is another process.
        if (_PROC / "self").readlink() != Path(str(os.getpid())):
            return None
        boot_id = (_PROC / "sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        namespace = str((_PROC / "self/ns/pid").readlink())
        if stat := _read_stat("self"):
            return Process(boot_id, namespace, os.getpid(), stat[1])
    return None


def _read_stat(name: str) -> tuple[str, int] | None:
    """Returns the state and the start time of a process; None if they can't be read."""
    with suppress(OSError, ValueError, IndexError):
        text = (_PROC / name / "stat").read_text(encoding="utf-8", errors="replace")
        fields = text.rpartition(")")[2].split()
        return fields[_STATE], int(fields[_STARTED_AT])
    return None
