"""JSON for scripts, made from dataclasses."""

import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from docora_ops.errors import DocoraOpsError
from docora_ops.jobs import Hold
from docora_ops.text import mask, mask_url, moment

if TYPE_CHECKING:
    from docora_ops.actions.pages import Page

Data = TypeVar("Data")


@dataclass(frozen=True)
class Pagination:
    """The position of a page in its list. `total`: the number of rows on all pages."""

    page: int
    limit: int
    total: int
    total_pages: int


@dataclass(frozen=True)
class Document(Generic[Data]):
    """The output of a command with `--json`. Fields without a value are omitted.

    error, code, hint: the error that ended the command; the fields from `app_ids` to `worker_names`
        are details of the error.
    data: the result, or what was done before the error.
    pagination: only for a list.
    """

    printed_at: datetime
    command: str
    error: str | None = None
    code: str | None = None
    hint: str | None = None
    app_ids: Sequence[str] | None = None
    repository_ids: Sequence[str] | None = None
    operation_ids: Sequence[str] | None = None
    status: str | None = None
    job: str | None = None
    circuit_open_until: datetime | None = None
    held: Hold | None = None
    worker_names: Sequence[str] | None = None
    data: Data | None = None
    pagination: Pagination | None = None


def document_of(
    data: object,
    arguments: Sequence[str],
    error: DocoraOpsError | None = None,
    page: "Page[Any] | None" = None,
) -> Document[object]:
    """Returns the document of a command. Masks secrets in arguments and error, not in data.

    data: a dataclass or a list of dataclasses.
    page: a page of a list, instead of `data`.
    """
    pagination = None
    if page is not None:
        data, pagination = page.rows, Pagination(page.number, page.limit, page.total, page.pages)
    error_fields: dict[str, Any] = {}
    if error:
        error_fields = {"error": _valid(mask(error.message)), "code": error.code, **error.details}
        error_fields["hint"] = _valid(mask(error.hint)) if error.hint else None
    # The query of a URL may be secret.
    words = (mask_url(word) if "://" in word else word for word in arguments)
    command = _valid(mask(shlex.join(["docora-ops", *words])))
    now = datetime.now(UTC)
    return Document(now, command, data=data, pagination=pagination, **error_fields)


def _valid(text: str) -> str:
    """Escapes invalid bytes, which an argument may contain but a document must not."""
    return text.encode(errors="backslashreplace").decode()


def encode(document: Document[object]) -> Iterator[str]:
    """Yields a document in pieces: one line of ASCII JSON, which can't control a terminal."""
    present = {name: value for name, value in _encodable(document).items() if value is not None}
    return json.JSONEncoder(default=_encodable).iterencode(present)


def _encodable(value: Any) -> Any:
    if isinstance(value, datetime):
        return moment(value)
    return {field.name: getattr(value, field.name) for field in fields(value)}
