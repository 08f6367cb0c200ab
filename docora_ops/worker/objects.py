"""Reads the contents of files from a clone."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from docora_ops.errors import BrokenCloneError
from docora_ops.worker.git import PIECE, Git, output_of, stop

_MOST_ASKED = 64
"""Objects that are requested before the first is read."""


class Objects:
    """Reads contents from one `git cat-file`, in the order in which they were requested."""

    def __init__(self, git: Git, clone: Path) -> None:
        self._clone = clone
        self._process = git.start(clone, "cat-file", "--batch", stdin=subprocess.PIPE)
        self.asked = 0
        """The number of objects that were requested and not yet read."""

    def __enter__(self) -> Objects:
        return self

    def __exit__(self, *exc_info: object) -> None:
        stop(self._process)

    @property
    def _requests(self) -> IO[bytes]:
        assert self._process.stdin is not None  # noqa: S101 - opened as a pipe
        return self._process.stdin

    @property
    def can_ask(self) -> bool:
        """True if another object may be requested before the first is read."""
        return self.asked < _MOST_ASKED

    def ask(self, object_id: bytes) -> None:
        """Requests the content of an object."""
        try:
            self._requests.write(object_id + b"\n")
        except OSError as error:
            raise self._broken(object_id) from error
        self.asked += 1

    def receive(self) -> Iterator[bytes]:
        """Returns the content of the object that was requested first, to be read to its end.

        Raises BrokenCloneError, also in the middle of the content.
        """
        self.asked -= 1
        try:
            self._requests.flush()
        except OSError as error:
            raise self._broken(b"") from error
        header = output_of(self._process).readline()
        fields = header.split()
        if len(fields) != 3 or fields[1] != b"blob":  # noqa: PLR2004 - id, type, size
            raise self._broken(header[:40])
        return self._content(int(fields[2]), fields[0])

    def _content(self, size: int, object_id: bytes) -> Iterator[bytes]:
        stdout = output_of(self._process)
        left = size
        while left:
            piece = stdout.read(min(left, PIECE))
            if not piece:
                raise self._broken(object_id)
            left -= len(piece)
            yield piece
        if stdout.read(1) != b"\n":
            raise self._broken(object_id)

    def _broken(self, object_id: bytes) -> BrokenCloneError:
        shown = object_id.decode(errors="replace").strip()
        return BrokenCloneError(f"the clone {self._clone} is broken at object {shown or 'unknown'}")
