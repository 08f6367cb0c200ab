"""Lists the files of a commit, with the SHA-256 of each."""

from __future__ import annotations

import codecs
import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile

from docora_ops.errors import SnapshotError
from docora_ops.worker.clone import Clone, Commit, TreeEntry, records

_NAME = "docora-ops-scan"
_HEADER = b"docora-ops scan 2\n"
"""Has to change whenever a scan records something else about the same file."""
_PDF = b"%PDF-"
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


def scan(clone: Clone, commit: Commit) -> Sequence[File]:
    """Returns the regular files of the commit, ordered by the bytes of their paths.

    Hashes each file whose git object the last scan, which is stored in the clone, does not know.
    Raises BrokenCloneError, SnapshotError.
    """
    path = clone.path / _NAME
    try:
        items = list(_known_or_new(clone.files(commit), _read(path)))
        new = (item.object_id for item in items if isinstance(item, TreeEntry))
        with clone.objects() as objects:
            contents = objects.read(new)
            files = [
                item if isinstance(item, File) else _hash(item, next(contents)) for item in items
            ]
        _write(path, files)
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


def _read(path: Path) -> Iterator[File]:
    """Yields the files of a stored scan, up to the end or to the first malformed line."""
    try:
        stream = path.open("rb")
    except FileNotFoundError:
        return
    with stream:
        if stream.read(len(_HEADER)) != _HEADER:
            return
        for line in records(stream):
            found = _LINE.fullmatch(line)
            if found is None:
                return
            object_id, sha, size, kind, name = found.groups()
            yield File(name, object_id, sha.decode(), int(size), kind == b"t")


def _write(path: Path, files: Iterable[File]) -> None:
    with NamedTemporaryFile(dir=path.parent, prefix=f"{path.name}.", delete=False) as stream:
        try:
            stream.write(_HEADER)
            for file in files:
                kind = b"t" if file.is_text else b"b"
                values = (file.object_id, file.sha.encode(), file.size, kind, file.path)
                stream.write(b"%b %b %d %b\t%b\0" % values)
            stream.flush()
            # Without it a power cut could leave the new name on an incomplete file.
            os.fsync(stream.fileno())
            Path(stream.name).replace(path)
        except BaseException:
            Path(stream.name).unlink(missing_ok=True)
            raise
