"""`--detach`: a process that goes on after its command, and whose terminal may be closed."""

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from io import TextIOBase
from typing import TextIO, cast

from docora_ops.actions.docora import Docora
from docora_ops.errors import CommandInterruptedError, RedisError, UsageError
from docora_ops.interrupts import held_back
from docora_ops.text import moment

Announce = Callable[[str], None]


def require_survival() -> None:
    """Raises UsageError if a detached process would end with this command.

    This is the case in a systemd unit, and if the first process of a container is this process, its
    parent, or the leader of its session. `docker exec` begins a session of its own.
    """
    is_in_unit = "INVOCATION_ID" in os.environ and not _has_terminal()
    if is_in_unit or 1 in {os.getpid(), os.getppid(), os.getsid(0)}:
        raise UsageError(
            "a detached process would end with this command, as in `docker compose run` or a "
            "systemd unit",
            hint="remove --detach, and use `docker compose run -d` or `systemd-run`: see "
            "docora-ops help recipes",
        )


def _has_terminal() -> bool:
    """Tells whether there is a controlling terminal. A shell at one may have a unit's variables."""
    try:
        os.close(os.open(os.ctermid(), os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


def detach(
    docora: Docora, work: Callable[[Announce], int], show: Callable[[str, int], None]
) -> int:
    """Carries out the work in another process, and returns once its operation is recorded.

    work: calls the given function with the id of the operation as soon as that is recorded. What
        is printed to stderr from then on is kept with the operation. Returns the exit code.
    show: gets the ids of the operation and of the process, and prints them before anything else
        names the operation.

    Returns in both processes. In the other one, returns the exit code of the work; in this one 0,
    or the exit code of work that has ended before its operation was recorded. Until then, a signal
    to this process also ends the work. Raises CommandInterruptedError if a signal has ended it.
    """
    docora.disconnect()
    sys.stdout.flush()
    reader, writer = os.pipe()
    pid, operation_id = 0, ""
    try:
        with held_back():
            if not (pid := os.fork()):
                os.setsid()
                os.close(reader)
        if pid:
            os.close(writer)
            with os.fdopen(reader, encoding="ascii") as channel:
                operation_id = channel.read()
    except KeyboardInterrupt:
        if pid:
            with suppress(ProcessLookupError):  # it has ended just now
                os.kill(pid, signal.SIGTERM)
        raise
    if operation_id:  # a signal no longer ends the work
        show(operation_id, pid)
        return 0
    if pid:
        return _exit_code(pid)

    def announce(operation_id: str) -> None:
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nowhere, stream)
        os.close(nowhere)
        sys.stderr = cast("TextIO", _Messages(docora, operation_id))
        with suppress(BrokenPipeError):  # the command was ended in the meantime
            os.write(writer, operation_id.encode())
        os.close(writer)

    return work(announce)


def _exit_code(pid: int) -> int:
    """Returns the exit code of a process that has recorded no operation."""
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code < 0:
        raise CommandInterruptedError(
            f"the detached process was ended by {signal.Signals(-code).name}",
            hint="docora-ops operations shows whether its operation had begun",
        )
    return code


class _Messages(TextIOBase):
    """Keeps what is written to stderr with the operation."""

    def __init__(self, docora: Docora, operation_id: str) -> None:
        self._docora, self._operation_id = docora, operation_id
        self._kept: list[str] = []

    def write(self, text: str) -> int:
        """Keeps each line with the moment, unless Redis is away."""
        now = moment(datetime.now(UTC))
        self._kept += [f"{now} {line.strip()}" for line in text.splitlines() if line.strip()]
        with suppress(RedisError):
            self._docora.store.write_messages(self._operation_id, self._kept)
        return len(text)
