"""Writes the bodies of POSTs to apps, byte for byte as JavaScript prints them.

Receivers check the signature over `JSON.stringify(JSON.parse(body))`: compact, keys in the order
of the contract, nothing escaped but what JSON.stringify escapes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum

from docora_ops.links import PublicPayload
from docora_ops.text import moment
from docora_ops.worker import redis_clock

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")

Pieces = Callable[[], Iterable[bytes]]
"""Yields bytes, the same at each call."""


class Event(StrEnum):
    """A change of a file: the last part of the URL."""

    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class Chunk:
    """One of the pieces in which a large binary file is sent. Fields in the order of the JSON."""

    id: str
    index: int
    total: int


def encode(value: object) -> bytes:
    """Returns the value as `JSON.stringify` prints it, in UTF-8."""
    return _encode_text(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def escape(text: str) -> bytes:
    """Returns the text as it stands between the quotes of a JSON string."""
    return _encode_text(json.dumps(text, ensure_ascii=False)[1:-1])


def _encode_text(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        # A pair of surrogates is one character; JSON.stringify escapes only a lone surrogate.
        paired = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
        return _LONE_SURROGATE.sub(lambda half: f"\\u{ord(half[0]):04x}", paired).encode()


def resized(pieces: Iterable[bytes], size: int) -> Iterator[bytes]:
    """Yields the same bytes in pieces of this size; the last one may be smaller."""
    held = bytearray()
    for piece in pieces:
        held += piece
        while len(held) >= size:
            yield bytes(held[:size])
            del held[:size]
    if held:
        yield bytes(held)


def repository_fields(payload: PublicPayload) -> dict[str, str]:
    """Returns the fields that describe the repository in every body."""
    return {
        "repository_id": payload.repository_id,
        "github_url": payload.github_url,
        "owner": payload.owner,
        "name": payload.name,
    }


class BodyWriter:
    """Writes bodies about the files of one repository at one commit."""

    def __init__(self, repository: dict[str, str], commit_sha: str) -> None:
        self._repository = repository
        self._commit_sha = commit_sha

    def deletion(self, path: str, sha: str) -> bytes:
        """Returns the body for a deleted file; `sha` is the last delivered one."""
        return self._encode({"path": path, "sha": sha})

    def file(
        self,
        path: str,
        sha: str,
        size: int,
        content: Pieces,
        *,
        is_base64: bool,
        previous_sha: str | None = None,
        chunk: Chunk | None = None,
    ) -> Pieces:
        """Returns the body for a file, or for a chunk of a file.

        `content` yields the bytes between the quotes.
        """
        file: dict[str, object] = {"path": path, "sha": sha, "size": size, "content": ""}
        if is_base64:
            file["content_encoding"] = "base64"
        if chunk is not None:
            file["chunk"] = asdict(chunk)
        # A value cannot contain this: its quotes are escaped.
        head, key, tail = self._encode(file, previous_sha).partition(b',"content":"')

        def pieces() -> Iterator[bytes]:
            yield head + key
            yield from content()
            yield tail

        return pieces

    def _encode(self, file: dict[str, object], previous_sha: str | None = None) -> bytes:
        body: dict[str, object] = {"repository": self._repository, "file": file}
        if previous_sha is not None:
            body["previous_sha"] = previous_sha
        return encode(
            body | {"commit_sha": self._commit_sha, "timestamp": moment(redis_clock.now())}
        )
