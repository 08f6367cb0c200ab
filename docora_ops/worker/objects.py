"""Reads the contents of files from a clone."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from docora_ops.errors import BrokenCloneError
from docora_ops.worker.git import PIECE, Git, output_of, stop

_MOST_REQUESTED = 64
"""Objects that are requested before the first is read."""


class Objects:
    """Reads contents from one `git cat-file`. Raises BrokenCloneError, also within a content."""

    def __init__(self, git: Git, clone: Path) -> None:
        self._clone = clone
        self._process = git.start(clone, "cat-file", "--batch", stdin=subprocess.PIPE)

    def __enter__(self) -> Objects:
        return self

    def __exit__(self, *exc_info: object) -> None:
        stop(self._process)

    def read(self, object_ids: Iterable[bytes]) -> Iterator[Iterator[bytes]]:
        """Yields the content of each object; each has to be read to its end before the next.

        Requests objects ahead, so that git has read them when their turn comes.
        """
        left = iter(object_ids)
        requested = 0
        while True:
            for object_id in islice(left, _MOST_REQUESTED - requested):
                self.ask(object_id)
                requested += 1
            if not requested:
                return
            yield self._receive()
            requested -= 1

    def ask(self, object_id: bytes) -> None:
        """Requests the content of an object."""
        assert self._process.stdin is not None  # noqa: S101 - opened as a pipe
        try:
            self._process.stdin.write(object_id + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise self._broken(object_id) from error

    def _receive(self) -> Iterator[bytes]:
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
