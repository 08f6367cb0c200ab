"""Lists the files of a commit, with the SHA-256 of each."""

import codecs
import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO

from docora_ops.errors import SnapshotError
from docora_ops.worker.clone import Clone, Commit
from docora_ops.worker.objects import Objects, TreeEntry

_NAME = "docora-ops-scan"
_HEADER = b"docora-ops scan 2\n"
"""Has to change whenever a scan records something else about the same file."""
_PDF = b"%PDF-"
_END = re.compile(rb"end ([0-9a-f]{40}) ([0-9a-f]{64})")
_LINE = re.compile(rb"([0-9a-f]{40}) ([0-9a-f]{64}) (\d+) ([tb])\t(.+)", re.DOTALL)


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


def scan(clone: Clone, commit: Commit, objects: Objects) -> Sequence[File]:
    """Returns the regular files of the commit, ordered by the bytes of their paths.

    The last scan is stored in the clone. If it is of this commit, nothing else is read; else each
    file is hashed whose git object it does not know. Raises BrokenCloneError, SnapshotError.
    """
    path = clone.path / _NAME
    try:
        known, known_commit = _read(path)
        if known_commit == commit.sha:
            return known
        items = list(_known_or_new(objects.files(commit.sha), iter(known)))
        contents = objects.read(item.object_id for item in items if isinstance(item, TreeEntry))
        files = [item if isinstance(item, File) else _hash(item, next(contents)) for item in items]
        _write(path, files, commit.sha)
    except OSError as error:
        raise SnapshotError(f"the scan can't be written: {error.strerror}") from error
    return files


def _known_or_new(
    entries: Iterable[TreeEntry], known: Iterator[File]
) -> Iterator[File | TreeEntry]:
    """Yields the known file of each entry, or the entry. Both are ordered by path."""
    candidate = next(known, None)
    for entry in entries:
        while candidate is not None and candidate.path < entry.path:
            candidate = next(known, None)
        is_known = candidate is not None and (
            (candidate.path, candidate.object_id) == (entry.path, entry.object_id)
        )
        yield candidate if candidate is not None and is_known else entry


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


def _read(path: Path) -> tuple[list[File], str]:
    """Returns the files of a stored scan, and its commit.

    If a part of it is lost or spoilt, returns the files before that part, and no commit.
    """
    files: list[File] = []
    try:
        stream = path.open("rb")
    except FileNotFoundError:
        return files, ""
    digest = hashlib.sha256()
    with stream:
        if stream.read(len(_HEADER)) != _HEADER:
            return files, ""
        for line in _records(stream):
            if found := _LINE.fullmatch(line):
                digest.update(line)
                object_id, sha, size, kind, name = found.groups()
                files.append(File(name, object_id, sha.decode(), int(size), kind == b"t"))
            elif (found := _END.fullmatch(line)) and found[2] == digest.hexdigest().encode():
                return files, found[1].decode()
            else:
                break
    return files, ""


def _records(stream: IO[bytes]) -> Iterator[bytes]:
    """Yields the texts that a NUL ends."""
    rest = b""
    while piece := stream.read(1 << 16):
        *whole, rest = (rest + piece).split(b"\0")
        yield from whole


def _write(path: Path, files: Iterable[File], commit: str) -> None:
    digest = hashlib.sha256()
    with NamedTemporaryFile(dir=path.parent, prefix=f"{path.name}.", delete=False) as stream:
        try:
            stream.write(_HEADER)
            for file in files:
                kind = b"t" if file.is_text else b"b"
                values = (file.object_id, file.sha.encode(), file.size, kind, file.path)
                line = b"%b %b %d %b\t%b" % values
                digest.update(line)
                stream.write(line + b"\0")
            stream.write(b"end %b %b\0" % (commit.encode(), digest.hexdigest().encode()))
            stream.flush()
            # Not synced to the disk: the last line tells whether a power cut has cost a part.
            Path(stream.name).replace(path)
        except BaseException:
            Path(stream.name).unlink(missing_ok=True)
            raise
