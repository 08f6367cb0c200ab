"""Reads the files of a commit from a clone, and lists them with the SHA-256 of each."""

import codecs
import hashlib
import re
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Self

from docora_ops.errors import BrokenCloneError, GitError, SnapshotError
from docora_ops.text import inert
from docora_ops.worker.git import PIECE, Git, stop
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
_NAME = "docora-ops-scan"
_HEADER = b"docora-ops scan 3"
"""Has to change whenever a scan records something else about the same file."""
_LINE = re.compile(rb"([0-9a-f]{40}) ([0-9a-f]{64}) (\d+) ([tb])\t([^\0]+)\0")
_PDF = b"%PDF-"


@dataclass(frozen=True, slots=True)
class TreeEntry:
    """A regular file of a commit."""

    path: bytes
    object_id: bytes


@dataclass(frozen=True, slots=True)
class File:
    """A regular file of a commit, and what is known of its content."""

    path: bytes
    object_id: bytes
    sha: str
    """SHA-256 of the content, in hex."""
    size: int
    is_text: bool
    """True for UTF-8 without NUL, PDF excepted; other files are sent as base64."""

    @property
    def name(self) -> str:
        """The path as text; U+FFFD replaces bytes that are not UTF-8, as in Docora itself."""
        return self.path.decode(errors="replace")


class Objects:
    """Reads a clone with one `git cat-file`, which is started by the first request.

    Raises BrokenCloneError, also within a content.
    """

    def __init__(self, git: Git, clone: Path) -> None:
        self._git = git
        self._clone = clone
        self._running: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
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

    def ask(self, object_ids: list[bytes]) -> None:
        """Requests objects."""
        if self._running is None:
            self._running = self._git.start(self._clone, "cat-file", "--batch")
        assert self._running.stdin is not None  # noqa: S101 - a pipe
        try:
            self._running.stdin.write(b"\n".join(object_ids) + b"\n")
            self._running.stdin.flush()
        except OSError as error:
            raise self._broken(object_ids[0]) from error

    def _receive(self, kind: bytes) -> Iterator[bytes]:
        """Yields the pieces of the next object."""
        assert self._running is not None  # noqa: S101 - asked before
        assert self._running.stdout is not None  # noqa: S101 - a pipe
        stdout = self._running.stdout
        header = stdout.readline()
        fields = header.split()
        if len(fields) != 3 or fields[1] != kind:  # noqa: PLR2004 - id, type, size
            raise self._broken(header[:40])
        left = int(fields[2])
        if kind == b"tree" and left > _LARGEST_TREE:
            raise GitError(f"the list of one folder's files has more than {_LARGEST_TREE:,} bytes")
        while left:
            piece = stdout.read(min(left, PIECE))
            if not piece:
                raise self._broken(fields[0])
            left -= len(piece)
            yield piece
        if stdout.read(1) != b"\n":
            raise self._broken(fields[0])

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


def scan(clone: Path, commit: str, objects: Objects) -> Sequence[File]:
    """Returns the regular files of the commit, ordered by the bytes of their paths.

    The last scan is stored in the clone. If it is of this commit, nothing else is read; else each
    file is hashed whose git object it does not know. Raises BrokenCloneError, SnapshotError.
    """
    try:
        known, known_commit = _load(clone / _NAME)
        if known_commit == commit:
            return known
        by_path = {file.path: file for file in known}
        items: list[File | TreeEntry] = [
            file
            if (file := by_path.get(entry.path)) and file.object_id == entry.object_id
            else entry
            for entry in objects.files(commit)
        ]
        contents = objects.read(item.object_id for item in items if isinstance(item, TreeEntry))
        files = [item if isinstance(item, File) else _hash(item, next(contents)) for item in items]
        _store(clone / _NAME, files, commit)
    except OSError as error:
        raise SnapshotError(f"the scan can't be written: {error.strerror}") from error
    return files


def _hash(entry: TreeEntry, content: Iterable[bytes]) -> File:
    size = 0
    digest = hashlib.sha256()
    decoder = codecs.getincrementaldecoder("utf-8")()
    is_text = True
    for piece in content:
        if not size and piece.startswith(_PDF):
            is_text = False
        size += len(piece)
        digest.update(piece)
        if is_text:
            is_text = b"\0" not in piece and _decodes(decoder, piece)
    is_text = is_text and _decodes(decoder, b"", final=True)
    return File(entry.path, entry.object_id, digest.hexdigest(), size, is_text)


def _decodes(decoder: codecs.IncrementalDecoder, piece: bytes, *, final: bool = False) -> bool:
    try:
        decoder.decode(piece, final)
    except UnicodeDecodeError:
        return False
    return True


def _load(path: Path) -> tuple[list[File], str]:
    """Returns the files of a stored scan, and its commit; nothing if a byte of it is wrong."""
    try:
        header, _, lines = path.read_bytes().partition(b"\n")
    except FileNotFoundError:
        return [], ""
    name, _, rest = header.partition(b": ")
    commit, _, digest = rest.partition(b" ")
    if name != _HEADER or digest != hashlib.sha256(lines).hexdigest().encode():
        return [], ""
    files = [
        File(name, object_id, sha.decode(), int(size), kind == b"t")
        for object_id, sha, size, kind, name in map(re.Match.groups, _LINE.finditer(lines))
    ]
    return files, commit.decode()


def _store(path: Path, files: Iterable[File], commit: str) -> None:
    lines = b"".join(
        b"%b %b %d %b\t%b\0"
        % (file.object_id, file.sha.encode(), file.size, b"t" if file.is_text else b"b", file.path)
        for file in files
    )
    digest = hashlib.sha256(lines).hexdigest()
    # Not synced to the disk: the digest tells whether a power cut, or another job that writes the
    # same file at the same time, has spoilt a part.
    new = path.with_suffix(".new")
    new.touch(mode=0o600)
    new.write_bytes(b"%b: %b %b\n%b" % (_HEADER, commit.encode(), digest.encode(), lines))
    with suppress(FileNotFoundError):  # the other job has renamed it
        new.replace(path)
