"""Compares a commit with the files that an app has received, and sends the differences."""

from __future__ import annotations

import base64
import codecs
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from uuid import uuid4

from docora_ops.errors import BrokenCloneError, DeliveryError
from docora_ops.settings import Settings
from docora_ops.text import inert
from docora_ops.worker.bodies import BodyWriter, Chunk, Event, Pieces, escape, resized
from docora_ops.worker.log import log
from docora_ops.worker.objects import Objects
from docora_ops.worker.scan import File
from docora_ops.worker.webhook import Webhook

LONGEST_PATH = 1024
"""Characters that Docora's table of deliveries can hold."""
_LONGEST_INDEXED = 2600
"""Bytes of a path that fit into an index of Postgres, together with the two ids."""
_SMALL = 1 << 20
"""Bytes up to which a file's body is made in memory."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The changes to send."""

    deletions: list[tuple[str, str]] = field(default_factory=list)
    """Path and last delivered SHA-256."""
    creations: list[File] = field(default_factory=list)
    updates: list[tuple[File, str]] = field(default_factory=list)
    """File and last delivered SHA-256."""


def fits_index(path: str) -> bool:
    """Returns whether the indexes of Docora's tables can hold the path."""
    return len(path.encode()) <= _LONGEST_INDEXED


def compare(files: Iterable[File], delivered: Iterable[tuple[str, str]]) -> Plan:
    """Returns the changes that bring an app from `delivered` (path, SHA-256) to the files.

    Logs paths that Docora cannot record.
    """
    plan = Plan()
    by_name: dict[str, File] = {}
    for file in files:
        # Paths that are not UTF-8 may have the same name.
        if by_name.setdefault(file.name, file) is not file:
            log.warning("not sent, another file has the same name in UTF-8: %s", inert(file.name))
    for path, sha in delivered:
        known = by_name.pop(path, None)
        if known is None:
            plan.deletions.append((path, sha))
        elif known.sha != sha:
            plan.updates.append((known, sha))
    for name, file in by_name.items():
        if len(name) <= LONGEST_PATH and fits_index(name):
            plan.creations.append(file)
        else:
            log.warning(
                "not sent, its path is longer than %d characters or %d bytes: %s",
                LONGEST_PATH,
                _LONGEST_INDEXED,
                inert(name),
            )
    return plan


@dataclass(frozen=True, slots=True)
class _Change:
    """A file that the app lacks, or has in another version."""

    event: Event
    file: File
    previous_sha: str | None = None


@dataclass(frozen=True, slots=True)
class _Delivery:
    """One change with its bodies: several if the file is sent in chunks."""

    event: Event
    path: str
    sha: str
    bodies: Iterable[Pieces | bytes]
    is_ready: bool
    """True if the bodies are in memory: git reads nothing while they are sent."""


class Sender:
    """Sends a plan, one change after the other."""

    def __init__(self, objects: Objects, writer: BodyWriter, settings: Settings) -> None:
        self._objects = objects
        self._writer = writer
        self._chunk_threshold = settings.binary_chunk_threshold_bytes
        self._chunk_size = settings.binary_chunk_size_bytes

    def send(
        self, plan: Plan, webhook: Webhook, acknowledged: Callable[[Event, str, str], None]
    ) -> None:
        """Sends the plan; calls `acknowledged` with event, path and SHA-256 after each 2xx.

        Stops at the first error: DeliveryError, BrokenCloneError or an error of `acknowledged`.
        """
        deliveries = self._deliveries(plan)
        current = next(deliveries, None)
        while current is not None:
            following = broken = None
            try:
                for body in current.bodies:
                    webhook.send(current.event, body)
                    if current.is_ready:
                        # Prepared while the app works on the current one.
                        try:
                            following = next(deliveries, None)
                        except BrokenCloneError as error:
                            broken = error
                    webhook.receive()
            except DeliveryError as error:
                hint = f": {error.hint}" if error.hint else ""
                reason = f"{error.message} on {current.event}d {current.path}{hint}"
                raise DeliveryError(reason) from error
            acknowledged(current.event, current.path, current.sha)
            if broken is not None:
                raise broken
            current = following if current.is_ready else next(deliveries, None)

    def _deliveries(self, plan: Plan) -> Iterator[_Delivery]:
        for path, sha in plan.deletions:
            body = self._writer.deletion(path, sha)
            yield _Delivery(Event.DELETE, path, sha, (body,), is_ready=True)
        changes = [
            *(_Change(Event.CREATE, file) for file in plan.creations),
            *(_Change(Event.UPDATE, *update) for update in plan.updates),
        ]
        for are_small, group in groupby(changes, self._is_small):
            if are_small:
                yield from self._small_ones(list(group))
            else:
                yield from map(self._large_one, group)

    def _is_chunked(self, file: File) -> bool:
        return not file.is_text and file.size > self._chunk_threshold

    def _is_small(self, change: _Change) -> bool:
        return change.file.size <= _SMALL and not self._is_chunked(change.file)

    def _small_ones(self, changes: Sequence[_Change]) -> Iterator[_Delivery]:
        contents = self._objects.read(change.file.object_id for change in changes)
        for change, content in zip(changes, contents, strict=True):
            file = change.file
            body = b"".join(self._body(change, partial(_as_content, file, content))())
            yield _Delivery(change.event, file.name, file.sha, (body,), is_ready=True)

    def _large_one(self, change: _Change) -> _Delivery:
        file = change.file
        bodies: Iterable[Pieces | bytes]
        if self._is_chunked(file):
            bodies = self._chunks(change)
        else:
            bodies = (self._body(change, partial(self._content, file)),)
        return _Delivery(change.event, file.name, file.sha, bodies, is_ready=False)

    def _body(self, change: _Change, content: Pieces, chunk: Chunk | None = None) -> Pieces:
        return self._writer.file(
            change.file.name,
            change.file.sha,
            change.file.size,
            content,
            is_base64=not change.file.is_text,
            previous_sha=change.previous_sha,
            chunk=chunk,
        )

    def _chunks(self, change: _Change) -> Iterator[bytes]:
        length = 4 * -(-change.file.size // 3)
        total = -(-length // self._chunk_size)
        chunk_id = str(uuid4())
        for index, text in enumerate(resized(self._content(change.file), self._chunk_size)):
            body = self._body(change, partial(iter, (text,)), Chunk(chunk_id, index, total))
            yield b"".join(body())

    def _content(self, file: File) -> Iterator[bytes]:
        """Reads the file again, and returns the text between the quotes of the JSON string."""
        content = next(self._objects.read([file.object_id]))
        return _as_content(file, content)


def _as_content(file: File, pieces: Iterable[bytes]) -> Iterator[bytes]:
    return _escaped(pieces) if file.is_text else _base64(pieces)


def _escaped(pieces: Iterable[bytes]) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    for piece in pieces:
        yield escape(decoder.decode(piece))


def _base64(pieces: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for piece in pieces:
        data = rest + piece
        whole = len(data) - len(data) % 3
        rest = data[whole:]
        yield base64.b64encode(data[:whole])
    yield base64.b64encode(rest)
