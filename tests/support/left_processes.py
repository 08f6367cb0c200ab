"""Ends the processes that a test leaves behind, wherever they have gone."""

import ctypes
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.support.proxy import eventually

_PR_SET_CHILD_SUBREAPER = 36


@contextmanager
def none_left() -> Iterator[None]:
    """Ends what was started in the block and runs still."""
    # A detached command has no mark that other users than root may read: so it becomes our child.
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    before = _descendants()
    try:
        yield
    finally:
        eventually(lambda: not _end(_descendants() - before), "the end of what a test has left")


def _descendants(of: int | None = None) -> set[int]:
    children: set[int] = set()
    with suppress(OSError):  # it has just ended
        for task in Path(f"/proc/{of or os.getpid()}/task").iterdir():
            children.update(map(int, (task / "children").read_text().split()))
    return children.union(*map(_descendants, children))


def _end(left: set[int]) -> set[int]:
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for pid in left:
        with suppress(ChildProcessError):  # not ours before its parent has gone
            os.waitpid(pid, 0)
    return left
