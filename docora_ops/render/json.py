"""JSON for a script, made from the dataclasses: the names of their fields are a promise."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from docora_ops.errors import DocoraOpsError
from docora_ops.text import mask, moment

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Document = dict[str, object]


def encode(document: object) -> str:
    """Encodes a document as one line of ASCII, in which nothing can act on a terminal."""
    return _ENCODER.encode(document)


def encode_long(document: Document, items: Iterable[object]) -> Iterator[str]:
    """Encodes a document piece by piece and puts `items` into its last empty list."""
    head, tail = encode(document).rsplit("[]", 1)
    yield head + "["
    separator = ""
    for item in items:
        yield separator + encode(item)
        separator = ", "
    yield "]" + tail


def stamped(pieces: Iterable[str], arguments: Sequence[str]) -> Iterator[str]:
    """Adds to an encoded document when it was printed, and by which command, without secrets."""
    command = _valid(mask(shlex.join(["docora-ops", *arguments])))
    stamp = encode({"finished_at": datetime.now(UTC), "command": command})
    left = iter(pieces)
    yield f"{stamp[:-1]}, {next(left)[1:]}"
    yield from left


def fields_of(value: DataclassInstance) -> Document:
    """Returns the fields of a dataclass by name."""
    return {field.name: getattr(value, field.name) for field in fields(value)}


def error_document(error: DocoraOpsError, done: Document | None = None) -> Document:
    """Returns the JSON of an error, with the document of everything that had been done before."""
    found: Document = {"error": _valid(error.message), "code": error.code}
    if error.hint:
        found["hint"] = _valid(error.hint)
    return found | (done or {}) | error.details


def _valid(text: str) -> str:
    """Spells out the stray bytes that an argument may hold: a valid document has none."""
    return text.encode(errors="backslashreplace").decode()


def _encodable(value: DataclassInstance | datetime) -> object:
    return moment(value) if isinstance(value, datetime) else fields_of(value)


_ENCODER = json.JSONEncoder(default=_encodable)
