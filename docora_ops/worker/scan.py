"""Lists the files of a commit, with the SHA-256 of each."""

from __future__ import annotations

import codecs
import hashlib
import os
import re
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from docora_ops.errors import SnapshotError
from docora_ops.worker.clone import Clone, Commit, TreeEntry
from docora_ops.worker.objects import Objects

_NAME = "docora-ops-scan"
_HEADER = b"docora-ops scan 2\n"
"""Has to change whenever a scan records something else about the same file."""
_PDF = b"%PDF-"
_LONGEST_LINE = 8192
"""Bytes: twice git's limit for a path."""
_MOST_WAITING = 1000
_LINE = re.compile(rb"([0-9a-f]{40,64}) ([0-9a-f]{64}) (\d+) ([tb])\t(.+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class File:
    """A regular file of a commit."""

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


class Scan:
    """The files of one commit, stored on disk in the clone: there may be millions.

    Each file is known by its place, the offset in the scan.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def __enter__(self) -> Scan:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stream.close()

    def files(self) -> Iterator[tuple[int, File]]:
        """Yields each file with its place, ordered by the bytes of the paths."""
        return _read(self._stream)

    def at(self, place: int) -> File:
        """Returns the file at a place."""
        self._stream.seek(place)
        _, file = next(_read_on(self._stream, place, _LONGEST_LINE))
        return file


def scan(clone: Clone, commit: Commit) -> Scan:
    """Hashes each regular file of the commit whose git object the last scan does not know.

    Raises BrokenCloneError, SnapshotError.
    """
    try:
        with suppress(FileNotFoundError), (clone.path / _NAME).open("rb") as before:
            return _write(clone, commit, before)
        return _write(clone, commit, None)
    except OSError as error:
        raise SnapshotError(f"the scan can't be written: {error.strerror}") from error


def _write(clone: Clone, commit: Commit, before: IO[bytes] | None) -> Scan:
    descriptor, name = tempfile.mkstemp(dir=clone.path, prefix=f"{_NAME}.")
    stream = os.fdopen(descriptor, "w+b", buffering=1 << 20)
    try:
        stream.write(_HEADER)
        known = (file for _, file in _read(before)) if before else iter(())
        for file in _hash(clone, clone.files(commit), known):
            kind = b"t" if file.is_text else b"b"
            stream.write(b"%b %b %d %b\t" % (file.object_id, file.sha.encode(), file.size, kind))
            stream.write(file.path + b"\0")
        stream.flush()
        # Without it a power cut could leave the new name on an incomplete file.
        os.fsync(stream.fileno())
        Path(name).replace(clone.path / _NAME)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        stream.close()
        raise
    return Scan(stream)


def _hash(clone: Clone, entries: Iterable[TreeEntry], known: Iterator[File]) -> Iterator[File]:
    """Yields each entry with its hash. `entries` and `known` are ordered by path."""
    candidate = next(known, None)
    waiting: deque[TreeEntry | File] = deque()
    with clone.objects() as objects:
        for entry in entries:
            while candidate is not None and candidate.path < entry.path:
                candidate = next(known, None)
            if (
                candidate is not None
                and candidate.path == entry.path
                and candidate.object_id == entry.object_id
            ):
                waiting.append(candidate)
            else:
                objects.ask(entry.object_id)
                waiting.append(entry)
            if not objects.asked or not objects.can_ask or len(waiting) >= _MOST_WAITING:
                yield from _drain(waiting, objects)
        yield from _drain(waiting, objects)


def _drain(waiting: deque[TreeEntry | File], objects: Objects) -> Iterator[File]:
    while waiting:
        item = waiting.popleft()
        yield item if isinstance(item, File) else _hashed(item, objects)


def _hashed(entry: TreeEntry, objects: Objects) -> File:
    size = 0
    digest = hashlib.sha256()
    decoder = codecs.getincrementaldecoder("utf-8")()
    is_text = True
    for piece in objects.receive():
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


def _read(stream: IO[bytes]) -> Iterator[tuple[int, File]]:
    stream.seek(0)
    if stream.read(len(_HEADER)) == _HEADER:
        yield from _read_on(stream, len(_HEADER))


def _read_on(stream: IO[bytes], place: int, at_once: int = 1 << 16) -> Iterator[tuple[int, File]]:
    """Yields the files from a place on, up to the end or to the first malformed line."""
    rest = b""
    while piece := stream.read(at_once):
        *lines, rest = (rest + piece).split(b"\0")
        for line in lines:
            found = _LINE.fullmatch(line)
            if found is None:
                return
            object_id, sha, size, kind, path = found.groups()
            yield place, File(path, object_id, sha.decode(), int(size), kind == b"t")
            place += len(line) + 1
