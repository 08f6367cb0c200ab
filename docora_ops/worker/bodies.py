"""What is sent to an app, byte for byte as JavaScript would print it.

Receivers check the signature over `JSON.stringify(JSON.parse(body))`: compact, keys in the order
of the contract, nothing escaped but what JSON.stringify escapes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum

from docora_ops.text import moment

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


class Event(Enum):
    """What has happened to a file: the last part of the URL, and the word for a person."""

    CREATE = "create", "created"
    UPDATE = "update", "updated"
    DELETE = "delete", "deleted"

    def __init__(self, path: str, verb: str) -> None:
        self.path = path
        self.verb = verb


@dataclass(frozen=True, slots=True)
class Chunk:
    """Which piece of a file a body holds."""

    id: str
    index: int
    total: int


@dataclass(frozen=True, slots=True)
class Body:
    """One body: `pieces()` gives its bytes, the same each time."""

    pieces: Callable[[], Iterable[bytes]]


def encode(value: object) -> bytes:
    """The value as `JSON.stringify` prints it, in UTF-8."""
    return _encode_text(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def escape(text: str) -> bytes:
    """The text as it stands between the quotes of a JSON string."""
    return _encode_text(json.dumps(text, ensure_ascii=False)[1:-1])


def _encode_text(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        # Two halves make one character; JSON.stringify escapes only a half that stands alone.
        paired = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
        return _LONE_SURROGATE.sub(lambda half: f"\\u{ord(half[0]):04x}", paired).encode()


class BodyWriter:
    """Writes the bodies about one repository at one commit."""

    def __init__(
        self, repository_id: str, github_url: str, owner: str, name: str, commit_sha: str
    ) -> None:
        self.repository = {
            "repository_id": repository_id,
            "github_url": github_url,
            "owner": owner,
            "name": name,
        }
        self._head = b'{"repository":' + encode(self.repository) + b',"file":{"path":'
        self._commit = b',"commit_sha":' + encode(commit_sha) + b',"timestamp":'

    def deletion(self, path: str, sha: str) -> bytes:
        """Of a file that is gone; `sha` as last delivered."""
        return b"".join(
            (self._head, encode(path), b',"sha":', encode(sha), b"}", self._commit, _now(), b"}")
        )

    def file(
        self,
        path: str,
        sha: str,
        size: int,
        content: Callable[[], Iterable[bytes]],
        *,
        is_base64: bool,
        previous_sha: str | None = None,
        chunk: Chunk | None = None,
    ) -> Body:
        """Of a file, or of one chunk: `content` gives what stands between the quotes."""
        head = b"".join(
            (
                self._head,
                encode(path),
                b',"sha":',
                encode(sha),
                b',"size":%d,"content":"' % size,
            )
        )
        tail = b'"'
        if is_base64:
            tail += b',"content_encoding":"base64"'
        if chunk is not None:
            tail += b',"chunk":' + encode(
                {"id": chunk.id, "index": chunk.index, "total": chunk.total}
            )
        tail += b"}"
        if previous_sha is not None:
            tail += b',"previous_sha":' + encode(previous_sha)
        tail += self._commit + _now() + b"}"

        def pieces() -> Iterator[bytes]:
            yield head
            yield from content()
            yield tail

        return Body(pieces)


def _now() -> bytes:
    return encode(moment(datetime.now(UTC)))
