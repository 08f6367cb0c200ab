"""`--detach`: a process that goes on after its command has ended and its terminal was closed."""

import os
import signal
import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from io import TextIOBase
from typing import TextIO, cast

from docora_ops.actions.bulk_operations import MESSAGES_KEPT, keep_messages
from docora_ops.actions.docora import Docora
from docora_ops.cli.terminal import finishing_first
from docora_ops.errors import CommandInterruptedError, UsageError
from docora_ops.text import moment

Announce = Callable[[str], None]


def require_survival() -> None:
    """Raises UsageError if a detached process would be killed when this command ends.

    systemd kills the processes of a unit when its command ends. When process 1 of a container
    ends, all others are killed. Commands of `docker exec` may detach, because process 1 is not
    their ancestor.
    """
    # systemd sets the variable. A shell inherits it if its terminal was started by a unit.
    is_in_unit = "INVOCATION_ID" in os.environ and not _has_terminal()
    if is_in_unit or 1 in {os.getpid(), os.getppid(), os.getsid(0)}:
        raise UsageError(
            "a detached process would end with this command, as in `docker compose run` or a "
            "systemd unit",
            hint="remove --detach, and use `docker compose run -d` or `systemd-run`: see "
            "docora-ops help recipes",
        )


def _has_terminal() -> bool:
    try:
        os.close(os.open(os.ctermid(), os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


def detach(
    docora: Docora, work: Callable[[Announce], int], show: Callable[[str, int], None]
) -> int:
    """Runs the work in a child process. Returns an exit code in both processes.

    In the child, returns the exit code of the work. In this process, returns 0 as soon as the
    operation is recorded, or the exit code of the work if it ends earlier. Until the operation is
    recorded, a signal to this process also ends the child. Raises CommandInterruptedError if a
    signal has ended the child.

    work: must call its argument with the id of the operation once the operation is recorded. From
        then on, lines that the child prints to stderr are stored with the operation.
    show: prints the ids of the operation and of the child process.
    """
    docora.database.disconnect()  # redis-py notices the fork by itself
    sys.stdout.flush()
    reader, writer = os.pipe()
    pid, operation_id = 0, ""
    try:
        with finishing_first():
            if not (pid := os.fork()):
                os.setsid()
                os.close(reader)
        if pid:
            os.close(writer)
            with os.fdopen(reader, encoding="ascii") as channel:
                operation_id = channel.read()
    except KeyboardInterrupt:
        if pid:
            with suppress(ProcessLookupError):  # the child has ended just now
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
        sys.stderr = cast("TextIO", Messages(docora, operation_id))
        with suppress(BrokenPipeError):  # the command has ended
            os.write(writer, operation_id.encode())
        os.close(writer)

    return work(announce)


def _exit_code(pid: int) -> int:
    """Waits for a child process that has recorded no operation, and returns its exit code.

    Raises CommandInterruptedError if a signal has ended the child.
    """
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code < 0:
        raise CommandInterruptedError(
            f"the detached process was ended by {signal.Signals(-code).name}",
            hint="docora-ops operations shows whether its operation had begun",
        )
    return code


class Messages(TextIOBase):
    """Takes the place of stderr. Stores printed lines in the record of the operation."""

    def __init__(self, docora: Docora, operation_id: str) -> None:
        self._docora, self._operation_id = docora, operation_id
        self._kept: deque[str] = deque(maxlen=MESSAGES_KEPT)

    def write(self, text: str) -> int:
        """Stores each line with the current time. While Redis is down, the lines wait."""
        now = moment(datetime.now(UTC))
        self._kept += [f"{now} {line.strip()}" for line in text.splitlines() if line.strip()]
        keep_messages(self._docora, self._operation_id, list(self._kept))
        return len(text)
