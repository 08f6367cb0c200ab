"""Compares a commit with the files that an app has received, and sends the differences.

Receivers check the signature over `JSON.stringify(JSON.parse(body))`. So each body is exactly what
`JSON.stringify` prints: compact, with JavaScript's escapes, and with the keys in Docora's order.
"""

import base64
import codecs
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from typing import Literal
from uuid import uuid4

from docora_ops.database.scans import LONGEST_INDEXED, LONGEST_PATH, Circuit, Recipient
from docora_ops.encryption import decrypt
from docora_ops.errors import DeliveryError, DocoraOpsError
from docora_ops.links import Link
from docora_ops.settings import Settings
from docora_ops.text import inert, moment
from docora_ops.worker import host
from docora_ops.worker.clone import File, Objects
from docora_ops.worker.log import log
from docora_ops.worker.secrets import Cleaner
from docora_ops.worker.webhook import Body, Webhook

_SMALL = 1 << 20  # bytes up to which a file's body is made in memory
_SYNC_FAILED_TIMEOUT = 10  # seconds


@dataclass(frozen=True, slots=True)
class Change:
    """A file to create, update or delete at an app.

    sha: SHA-256 of the new content or, for a deletion, of the last delivered content.
    file: None for a deletion.
    previous_sha: for an update, SHA-256 of the last delivered content; otherwise None.
    """

    event: Literal["create", "update", "delete"]
    path: str
    sha: str
    file: File | None = None
    previous_sha: str | None = None


def compare(files: Iterable[File], delivered: Iterable[tuple[str, str]]) -> list[Change]:
    """Returns the changes that an app needs: first deletions, then creations, then updates.

    Logs and leaves out new files whose path is too long for Docora's tables. If several files have
    the same path, because invalid bytes in their names were replaced, keeps the last file.

    delivered: path and SHA-256 of each file that the app has received.
    """
    by_name = {file.path: file for file in files}
    deletions, creations, updates = [], [], []
    for path, sha in delivered:
        current = by_name.pop(path, None)
        if current is None:
            deletions.append(Change("delete", path, sha))
        elif current.sha != sha:
            updates.append(Change("update", path, current.sha, current, sha))
    for name, file in by_name.items():
        if len(name) <= LONGEST_PATH and fits_index(name):
            creations.append(Change("create", name, file.sha, file))
        else:
            log.warning("not sent, its path is too long for Docora: %s", inert(name))
    return [*deletions, *creations, *updates]


def fits_index(path: str) -> bool:
    """Tells whether the indexes of Docora's tables can hold the path."""
    return len(path.encode()) <= LONGEST_INDEXED


@dataclass(frozen=True)
class Sender:
    """Sends changes of one repository at one commit to an app.

    look: called before each POST; may raise an error to prevent the POST.
    """

    webhook: Webhook
    look: Callable[[], None]
    objects: Objects
    link: Link
    commit_sha: str
    settings: Settings

    def send(self, change: Change) -> None:
        """Sends a change. Raises DeliveryError unless the answer is 2xx; BrokenCloneError."""
        try:
            for body in self._bodies(change):
                self.look()
                self.webhook.post(change.event, body)
        except DeliveryError as error:
            hint = f": {error.hint}" if error.hint else ""
            reason = f"{error.message} on {change.event}d {change.path}{hint}"
            raise DeliveryError(reason) from error

    def _bodies(self, change: Change) -> Iterator[Body]:
        """Yields the body of a change; for a large binary file, one body per chunk."""
        file, size = change.file, self.settings.binary_chunk_size_bytes
        if file is None:
            yield self._encode(change, {})
            return
        if not file.is_text and file.size > self.settings.binary_chunk_threshold_bytes:
            total = -(-4 * -(-file.size // 3) // size)
            chunk_id = str(uuid4())
            for index, text in enumerate(_resized(self._content(file), size)):
                chunk: dict[str, object] = {"id": chunk_id, "index": index, "total": total}
                head, tail = self._frame(change, file, {"chunk": chunk})
                yield head + text + tail
            return
        head, tail = self._frame(change, file, {})
        if file.size <= _SMALL:
            yield b"".join((head, *self._content(file), tail))
        else:  # read from git twice: once to sign it, once to send it
            yield lambda: chain([head], self._content(file), [tail])

    def _content(self, file: File) -> Iterator[bytes]:
        return _encoded(file, next(self.objects.read([file.object_id])))

    def _frame(
        self, change: Change, file: File, chunk: dict[str, dict[str, object]]
    ) -> tuple[bytes, bytes]:
        """Returns the parts of a body before and after the content of a created or updated file."""
        encoding = {} if file.is_text else {"content_encoding": "base64"}
        content = {"size": file.size, "content": "", **encoding, **chunk}
        # No value can contain this, because quotes in values are escaped.
        head, key, tail = self._encode(change, content).partition(b',"content":"')
        return head + key, tail

    def _encode(self, change: Change, content: dict[str, object]) -> bytes:
        previous = {"previous_sha": change.previous_sha} if change.previous_sha else {}
        return encode(
            {
                "repository": _fields(self.link),
                "file": {"path": change.path, "sha": change.sha, **content},
                **previous,
                "commit_sha": self.commit_sha,
                "timestamp": moment(host.now()),
            }
        )


def post_sync_failed(
    recipients: Sequence[Recipient],
    link: Link,
    circuit: Circuit,
    message: str,
    settings: Settings,
) -> None:
    """Tells apps that the circuit of their repository is open, and why.

    If an app can't be told, logs why and goes on.
    """
    key = settings.require_encryption_key()
    state = {
        "status": "open",
        "consecutive_failures": circuit.consecutive_failures,
        "threshold": settings.circuit_breaker_threshold,
        "cooldown_until": moment(circuit.open_until),
    }

    def post(recipient: Recipient) -> None:
        body = {
            "event": "sync_failed",
            "repository": _fields(link),
            "error": {"type": "git_failure", "message": message},
            "circuit_breaker": state,
            "retry_count": recipient.retry_count,
            "timestamp": moment(host.now()),
        }
        app_id, url = recipient.app_id, recipient.base_url
        try:
            auth_key = decrypt(recipient.client_auth_key_encrypted, key, "its auth key")
            with closing(Webhook(url, app_id, auth_key, _SYNC_FAILED_TIMEOUT)) as webhook:
                webhook.post("sync_failed", encode(body))
        except DocoraOpsError as error:
            cleaner = Cleaner()
            cleaner.learn_url(url)
            reason = cleaner.clean(": ".join(filter(None, (error.message, error.hint))))
            text = "app %s was not told of the open circuit: %s"
            log.warning(text, inert(app_id), inert(reason))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(post, recipients))


def _fields(link: Link) -> dict[str, str]:
    """Returns the fields that describe the repository in every body."""
    names = ("repository_id", "github_url", "owner", "name")
    return {name: getattr(link, name) for name in names}


def encode(value: object) -> bytes:
    """Returns the value as `JSON.stringify` prints it, in UTF-8."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _encoded(file: File, content: Iterable[bytes]) -> Iterator[bytes]:
    """Yields the content as it appears between the quotes of the JSON string."""
    if file.is_text:
        decoder = codecs.getincrementaldecoder("utf-8")()
        for piece in content:
            yield encode(decoder.decode(piece))[1:-1]
        return
    rest = b""
    for piece in content:
        data = rest + piece
        whole = len(data) - len(data) % 3
        rest = data[whole:]
        yield base64.b64encode(data[:whole])
    yield base64.b64encode(rest)


def _resized(pieces: Iterable[bytes], size: int) -> Iterator[bytes]:
    """Yields the bytes of `pieces` in pieces of `size` bytes; the last one may be smaller."""
    buffer = bytearray()
    for piece in pieces:
        buffer += piece
        while len(buffer) >= size:
            yield bytes(buffer[:size])
            del buffer[:size]
    if buffer:
        yield bytes(buffer)
