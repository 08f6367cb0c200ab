"""Reads trees and the contents of files from a clone."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from docora_ops.errors import BrokenCloneError, GitError
from docora_ops.text import inert
from docora_ops.worker.git import PIECE, Git, output_of, stop
from docora_ops.worker.log import log

_MOST_REQUESTED = 64
"""Objects that are requested before the first is read."""
_MOST_PATHS = 1_000_000
"""Files and folders of a commit. A few trees that name each other make billions of paths."""
_LONGEST_PATH = 4096
"""Bytes: Linux can check out no longer path, and Docora can record none."""
_LARGEST_TREE = 1 << 28
"""Bytes of the list of one folder's files. git needs twice as much."""
_ID_LENGTH = 20
"""Bytes of an object id in a tree."""
# git itself creates no such paths, but accepts them from a server.
_UNSAFE_PATH = re.compile(rb"(^|/)(\.{0,2}|\.git)(/|$)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class TreeEntry:
    """A regular file of a commit."""

    path: bytes
    object_id: bytes


class Objects:
    """Reads a clone with one `git cat-file`, which is started by the first request.

    Raises BrokenCloneError, also within a content.
    """

    def __init__(self, git: Git, clone: Path) -> None:
        self._git = git
        self._clone = clone
        self._running: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Objects:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends git; the next request starts it again."""
        if self._running is not None:
            stop(self._running)
            self._running = None

    def files(self, commit: str) -> list[TreeEntry]:
        """Returns the regular files of a commit, ordered by the bytes of their paths.

        Raises GitError if the commit has more paths, or a longer one, than any that is meant.
        """
        files = []
        paths = 0
        trees = [(b"", f"{commit}^{{tree}}".encode())]
        while trees:
            # The last ones first, so that few trees wait at any time.
            batch = trees[-_MOST_REQUESTED:]
            del trees[-_MOST_REQUESTED:]
            contents = self._read((object_id for _, object_id in batch), b"tree")
            for (folder, _), content in zip(batch, contents, strict=True):
                for mode, name, object_id in _entries(b"".join(content)):
                    path = folder + name
                    paths += 1
                    if paths > _MOST_PATHS:
                        raise GitError(
                            f"the commit {commit} has too many paths: more than {_MOST_PATHS:,}"
                        )
                    if len(path) > _LONGEST_PATH:
                        raise GitError(
                            f"the commit {commit} has a path of more than {_LONGEST_PATH:,} bytes"
                        )
                    if mode in {b"40000", b"040000"}:
                        trees.append((path + b"/", object_id))
                    elif mode.startswith(b"100"):
                        files.append(TreeEntry(path, object_id))
        files.sort(key=lambda file: file.path)
        return [file for file in files if _is_safe(file.path)]

    def read(self, object_ids: Iterable[bytes]) -> Iterator[Iterator[bytes]]:
        """Yields the content of each file; each has to be read to its end before the next.

        Requests objects ahead, so that git has read them when their turn comes.
        """
        return self._read(object_ids, b"blob")

    def _read(self, object_ids: Iterable[bytes], kind: bytes) -> Iterator[Iterator[bytes]]:
        left = iter(object_ids)
        requested = 0
        while True:
            if requested <= _MOST_REQUESTED // 2:
                # Many at once: each call wakes up git.
                new = list(islice(left, _MOST_REQUESTED - requested))
                requested += len(new)
                if new:
                    self.ask(new)
            if not requested:
                return
            yield self._receive(kind)
            requested -= 1

    @property
    def _process(self) -> subprocess.Popen[bytes]:
        if self._running is None:
            self._running = self._git.start(
                self._clone, "cat-file", "--batch", stdin=subprocess.PIPE
            )
        return self._running

    def ask(self, object_ids: list[bytes]) -> None:
        """Requests objects."""
        stdin = self._process.stdin
        assert stdin is not None  # noqa: S101 - opened as a pipe
        try:
            stdin.write(b"\n".join(object_ids) + b"\n")
            stdin.flush()
        except OSError as error:
            raise self._broken(object_ids[0]) from error

    def _receive(self, kind: bytes) -> Iterator[bytes]:
        header = output_of(self._process).readline()
        fields = header.split()
        if len(fields) != 3 or fields[1] != kind:  # noqa: PLR2004 - id, type, size
            raise self._broken(header[:40])
        size = int(fields[2])
        if kind == b"tree" and size > _LARGEST_TREE:
            raise GitError(f"the list of one folder's files has more than {_LARGEST_TREE:,} bytes")
        return self._content(size, fields[0])

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


def _entries(tree: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Yields mode, name and object id of each entry: `MODE NAME`, NUL, and the id in binary."""
    start = 0
    while start < len(tree):
        end = tree.find(b"\0", start) + 1
        if not end:
            raise BrokenCloneError("git shows a tree that is cut off")
        mode, _, name = tree[start : end - 1].partition(b" ")
        start = end + _ID_LENGTH
        yield mode, name, tree[end:start].hex().encode()


def _is_safe(path: bytes) -> bool:
    """Returns whether a file of this path may be sent; logs if not."""
    if _UNSAFE_PATH.search(path):
        log.warning("not sent, its path is not safe: %s", inert(path.decode(errors="replace")))
        return False
    return True
