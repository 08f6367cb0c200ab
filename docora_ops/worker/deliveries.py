"""Compares a commit with the files that an app has received, and sends the differences."""

from __future__ import annotations

import base64
import codecs
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from uuid import uuid4

from docora_ops.errors import BrokenCloneError, DeliveryError
from docora_ops.text import inert
from docora_ops.worker.bodies import BodyWriter, Chunk, Event, Pieces, escape
from docora_ops.worker.objects import Objects
from docora_ops.worker.scan import File, Scan
from docora_ops.worker.webhook import Webhook

LONGEST_PATH = 1024
"""Characters that Docora's table of deliveries can hold."""
_LONGEST_INDEXED = 2600
"""Bytes of a path that fit into an index of Postgres, together with the two ids."""
_REPLACED = "\N{REPLACEMENT CHARACTER}"
_SMALL = 1 << 20
"""Bytes up to which a file's body is made in memory."""

log = logging.getLogger("rq.worker.snapshot")


@dataclass(slots=True)
class Plan:
    """The changes to send. Created and updated files are known by their places in the scan."""

    deletions: list[tuple[str, str]] = field(default_factory=list)
    """Path and last delivered SHA-256."""
    creations: list[int] = field(default_factory=list)
    updates: list[tuple[int, str]] = field(default_factory=list)
    """Place, and last delivered SHA-256."""

    def add(self, place: int, file: File, delivered_sha: str | None) -> None:
        """Adds a file, unless the app has it or Docora cannot record its path."""
        if delivered_sha is None and (len(file.name) > LONGEST_PATH or not fits_index(file.name)):
            log.warning(
                "not sent, its path is longer than %d characters or %d bytes: %s",
                LONGEST_PATH,
                _LONGEST_INDEXED,
                inert(file.name),
            )
        elif delivered_sha is None:
            self.creations.append(place)
        elif delivered_sha != file.sha:
            self.updates.append((place, delivered_sha))

    @property
    def total(self) -> int:
        """The number of files that change."""
        return len(self.deletions) + len(self.creations) + len(self.updates)


def fits_index(path: str) -> bool:
    """Returns whether the indexes of Docora's tables can hold the path."""
    return len(path.encode()) <= _LONGEST_INDEXED


def compare(scan: Scan, delivered: Iterator[tuple[str, str]]) -> Plan:
    """Returns the changes that bring an app from `delivered` (path, SHA-256) to the scan.

    Reads both side by side, ordered by the bytes of the paths, so that neither fills the memory.
    Logs paths that Docora cannot record.
    """
    plan = Plan()
    replaced: dict[str, int] = {}
    known = next(delivered, None)
    for place, file in scan.files():
        name = file.name
        if _REPLACED in name:
            # The path is not UTF-8: its bytes and its name are ordered differently.
            if name in replaced:
                log.warning("not sent, another file has the same name in UTF-8: %s", inert(name))
            replaced.setdefault(name, place)
            continue
        while known is not None and known[0].encode() < file.path:
            plan.deletions.append(known)
            known = next(delivered, None)
        if known is not None and known[0] == name:
            plan.add(place, file, known[1])
            known = next(delivered, None)
        else:
            plan.add(place, file, None)
    if known is not None:
        plan.deletions.append(known)
    plan.deletions.extend(delivered)
    if replaced:
        gone = {path: sha for path, sha in plan.deletions if path in replaced}
        for name, place in replaced.items():
            plan.add(place, scan.at(place), gone.get(name))
        plan.deletions = [item for item in plan.deletions if item[0] not in replaced]
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

    def __init__(
        self,
        scan: Scan,
        objects: Objects,
        writer: BodyWriter,
        *,
        chunk_threshold: int,
        chunk_size: int,
    ) -> None:
        self._scan = scan
        self._objects = objects
        self._writer = writer
        self._chunk_threshold = chunk_threshold
        self._chunk_size = chunk_size

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
                    webhook.send(current.event.path, body)
                    if current.is_ready:
                        # Prepared while the app works on the current one.
                        try:
                            following = next(deliveries, None)
                        except BrokenCloneError as error:
                            broken = error
                    webhook.receive()
            except DeliveryError as error:
                hint = f": {error.hint}" if error.hint else ""
                raise DeliveryError(
                    f"{error.message} on {current.event.verb} {current.path}{hint}"
                ) from error
            acknowledged(current.event, current.path, current.sha)
            if broken is not None:
                raise broken
            current = following if current.is_ready else next(deliveries, None)

    def _deliveries(self, plan: Plan) -> Iterator[_Delivery]:
        for path, sha in plan.deletions:
            body = self._writer.deletion(path, sha)
            yield _Delivery(Event.DELETE, path, sha, (body,), is_ready=True)
        ahead: deque[_Change] = deque()
        for change in self._changed_files(plan):
            # Small files are requested ahead, so that git has read them when their turn comes.
            if not self._is_small(change.file) or not self._objects.can_ask:
                yield from self._small_ones(ahead)
            if self._is_small(change.file):
                self._objects.ask(change.file.object_id)
                ahead.append(change)
            else:
                yield self._large_one(change)
        yield from self._small_ones(ahead)

    def _changed_files(self, plan: Plan) -> Iterator[_Change]:
        for place in plan.creations:
            yield _Change(Event.CREATE, self._scan.at(place))
        for place, previous_sha in plan.updates:
            yield _Change(Event.UPDATE, self._scan.at(place), previous_sha)

    def _is_chunked(self, file: File) -> bool:
        return not file.is_text and file.size > self._chunk_threshold

    def _is_small(self, file: File) -> bool:
        return file.size <= _SMALL and not self._is_chunked(file)

    def _small_ones(self, ahead: deque[_Change]) -> Iterator[_Delivery]:
        while ahead:
            change = ahead.popleft()
            file = change.file
            body = b"".join(
                self._body(change, partial(_as_content, file, self._objects.receive()))()
            )
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
        for index, text in enumerate(_resized(self._content(change.file), self._chunk_size)):
            body = self._body(change, partial(iter, (text,)), Chunk(chunk_id, index, total))
            yield b"".join(body())

    def _content(self, file: File) -> Iterator[bytes]:
        """Reads the file again, and returns the text between the quotes of the JSON string."""
        self._objects.ask(file.object_id)
        return _as_content(file, self._objects.receive())


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


def _resized(pieces: Iterable[bytes], size: int) -> Iterator[bytes]:
    """Yields the same bytes in pieces of this size; the last one may be smaller."""
    held = bytearray()
    for piece in pieces:
        held += piece
        while len(held) >= size:
            yield bytes(held[:size])
            del held[:size]
    if held:
        yield bytes(held)
