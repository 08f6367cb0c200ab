"""The JSON of a command that failed."""

from __future__ import annotations

from docora_ops.errors import DocoraOpsError
from docora_ops.render.json import Document


def document(error: DocoraOpsError, done: Document | None = None) -> Document:
    """Returns the JSON of an error, with the document of everything that had been done before."""
    found: Document = {"error": _valid(error.message), "code": error.code}
    if error.hint:
        found["hint"] = _valid(error.hint)
    return found | (done or {}) | error.details


def _valid(text: str) -> str:
    """Spells out the stray bytes that an argument may hold: a valid document has none."""
    return text.encode(errors="backslashreplace").decode()
