"""What an app lacks, and sending it."""

from __future__ import annotations

import base64
import codecs
import logging
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from uuid import uuid4

from docora_ops.errors import BrokenCloneError, DeliveryError
from docora_ops.text import inert
from docora_ops.worker.bodies import Body, BodyWriter, Chunk, Event, escape
from docora_ops.worker.objects import Objects
from docora_ops.worker.scan import File, Scan
from docora_ops.worker.webhook import Webhook

LONGEST_PATH = 1024
"""Characters; Docora's table of deliveries has no room for more."""
_LONGEST_INDEXED = 2600
"""Bytes; an index of Postgres has no room for many more, with the ids beside them."""
_REPLACED = "\N{REPLACEMENT CHARACTER}"
_SMALL = 1 << 20
"""Bytes up to which a file's body is made in memory."""

log = logging.getLogger("rq.worker.snapshot")


@dataclass(slots=True)
class Plan:
    """What has to be sent: paths with their SHA-256, and places in a scan."""

    deletions: list[tuple[str, str]] = field(default_factory=list)
    creations: array[int] = field(default_factory=lambda: array("Q"))
    updates: array[int] = field(default_factory=lambda: array("Q"))
    previous: list[str] = field(default_factory=list)
    """The SHA-256 that the app has of each update."""

    def add(self, place: int, file: File, delivered_sha: str | None) -> None:
        """A file that is there, and what the app has of it."""
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
            self.updates.append(place)
            self.previous.append(delivered_sha)

    @property
    def total(self) -> int:
        """How many files change."""
        return len(self.deletions) + len(self.creations) + len(self.updates)


def fits_index(path: str) -> bool:
    """Whether Docora's tables, which have an index on each path, can take it."""
    return len(path.encode()) <= _LONGEST_INDEXED


def compare(scan: Scan, delivered: Iterator[tuple[str, str]]) -> Plan:
    """What makes an app that has received `delivered` (path, SHA-256) have what was scanned.

    Both are ordered by the bytes of the paths, so that neither needs to be held in memory. Paths
    that Docora can't record are left out, with a word in the log.
    """
    plan = Plan()
    replaced: dict[str, int] = {}
    known = next(delivered, None)
    for place, file in scan.files():
        name = file.name
        if _REPLACED in name:
            # Its place in the order is that of other bytes.
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
class Outgoing:
    """One change, and the bodies that tell of it: several where a file goes in chunks."""

    event: Event
    path: str
    sha: str
    bodies: Iterable[Body | bytes]
    is_ready: bool
    """Whether the bodies are in memory, so that nothing is read while they are sent."""


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
        """Send all of it, calling `acknowledged` with event, path and SHA-256 after each 2xx.

        Raises DeliveryError at the first that is not taken, BrokenCloneError, and whatever
        `acknowledged` raises.
        """
        changes = self._changes(plan)
        change = next(changes, None)
        while change is not None:
            following = broken = None
            try:
                for body in change.bodies:
                    webhook.send(change.event.path, body)
                    if change.is_ready:
                        # Made while the app works on this one.
                        try:
                            following = next(changes, None)
                        except BrokenCloneError as error:
                            broken = error
                    webhook.receive()
            except DeliveryError as error:
                hint = f": {error.hint}" if error.hint else ""
                raise DeliveryError(
                    f"{error.message} on {change.event.verb} {change.path}{hint}"
                ) from error
            acknowledged(change.event, change.path, change.sha)
            if broken is not None:
                raise broken
            change = following if change.is_ready else next(changes, None)

    def _changes(self, plan: Plan) -> Iterator[Outgoing]:
        for path, sha in plan.deletions:
            body = self._writer.deletion(path, sha)
            yield Outgoing(Event.DELETE, path, sha, (body,), is_ready=True)
        ahead: deque[_Change] = deque()
        for change in self._files(plan):
            # Small files are asked for ahead, so that git has them ready when their turn comes.
            if not self._is_small(change.file) or not self._objects.can_ask:
                yield from self._small_ones(ahead)
            if self._is_small(change.file):
                self._objects.ask(change.file.object_id)
                ahead.append(change)
            else:
                yield self._large_one(change)
        yield from self._small_ones(ahead)

    def _files(self, plan: Plan) -> Iterator[_Change]:
        for place in plan.creations:
            yield _Change(Event.CREATE, self._scan.at(place))
        for place, previous_sha in zip(plan.updates, plan.previous, strict=True):
            yield _Change(Event.UPDATE, self._scan.at(place), previous_sha)

    def _is_chunked(self, file: File) -> bool:
        return not file.is_text and file.size > self._chunk_threshold

    def _is_small(self, file: File) -> bool:
        return file.size <= _SMALL and not self._is_chunked(file)

    def _small_ones(self, ahead: deque[_Change]) -> Iterator[Outgoing]:
        while ahead:
            change = ahead.popleft()
            _, pieces = self._objects.receive()
            content = _as_content(change.file, pieces)
            body = b"".join(self._body(change, lambda content=content: content).pieces())  # type: ignore[misc]
            yield Outgoing(change.event, change.file.name, change.file.sha, (body,), is_ready=True)

    def _large_one(self, change: _Change) -> Outgoing:
        file = change.file
        bodies: Iterable[Body | bytes]
        if self._is_chunked(file):
            bodies = self._chunks(change)
        else:
            bodies = (self._body(change, lambda: self._content(file)),)
        return Outgoing(change.event, file.name, file.sha, bodies, is_ready=False)

    def _body(
        self,
        change: _Change,
        content: Callable[[], Iterable[bytes]],
        chunk: Chunk | None = None,
    ) -> Body:
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
        pieces = _pieces_of(self._content(change.file), self._chunk_size)
        for index, text in enumerate(pieces):
            chunk = Chunk(chunk_id, index, total)
            yield b"".join(self._body(change, lambda text=text: (text,), chunk).pieces())  # type: ignore[misc]

    def _content(self, file: File) -> Iterator[bytes]:
        """What stands for the file's bytes between the quotes, read anew each time."""
        self._objects.ask(file.object_id)
        _, pieces = self._objects.receive()
        return _as_content(file, pieces)


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


def _pieces_of(pieces: Iterable[bytes], size: int) -> Iterator[bytes]:
    """The same bytes in pieces of just this size, but for the last."""
    held = bytearray()
    for piece in pieces:
        held += piece
        while len(held) >= size:
            yield bytes(held[:size])
            del held[:size]
    if held:
        yield bytes(held)
