"""The command at a pseudo-terminal."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence

from tests.harness import COMMAND, Docora


def on_terminal(
    docora: Docora,
    arguments: Sequence[str],
    *,
    answers: str = "",
    columns: int = 100,
    env: Mapping[str, str | None] | None = None,
    timeout: float = 60,
) -> tuple[int, str]:
    """Run the installed command on a pseudo-terminal; returns its exit code and what it showed.

    `answers` is typed as soon as the command asks something (`[y/N]`).
    """
    import fcntl
    import pty
    import select
    import struct
    import termios
    import time

    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    process = subprocess.Popen(
        [str(COMMAND), *arguments],
        env=docora.environment(**{"TERM": "xterm-256color", **(env or {})}),
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    shown = b""
    end = time.monotonic() + timeout
    try:
        while time.monotonic() < end:
            if select.select([master], [], [], 0.1)[0]:
                try:
                    piece = os.read(master, 65536)
                except OSError:  # Linux's way to say that the other side is closed
                    break
                if not piece:
                    break
                shown += piece
                if answers and b"[y/N]" in shown:
                    os.write(master, answers.encode())
                    answers = ""
        return process.wait(timeout=5), shown.decode("utf-8", "replace")
    finally:
        process.kill()
        process.wait()
        os.close(master)
