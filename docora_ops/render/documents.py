"""JSON for a script, and its JSON Schema, both made from the same dataclasses."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from docora_ops.errors import DocoraOpsError
from docora_ops.link_lists import Page
from docora_ops.text import mask, moment

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Data = TypeVar("Data")


@dataclass(frozen=True)
class Pagination:
    """The place of a page in its list. `total`: rows of all pages."""

    page: int
    limit: int
    total: int
    total_pages: int


@dataclass(frozen=True, kw_only=True)
class Document(Generic[Data]):
    """What a command prints with `--json`. Of these fields, those without a value are left out.

    `data`: the result, also what was done before an error. `pagination`: of a list. `error`, `code`
    and `hint`: the error that has ended the command. The fields behind `hint` say more about it.
    """

    printed_at: datetime
    command: str
    error: str | None = None
    code: str | None = None
    hint: str | None = None
    app_ids: Sequence[str] | None = None
    repository_ids: Sequence[str] | None = None
    status: str | None = None
    job: str | None = None
    circuit_open_until: datetime | None = None
    job_count: int | None = None
    jobs_without_link: int | None = None
    data: Data | None = None
    pagination: Pagination | None = None


def document_of(
    data: object, arguments: Sequence[str], error: DocoraOpsError | None = None
) -> Document[object]:
    """Returns the document of a command that was typed with these arguments, without secrets.

    `data`: a dataclass, or a page of a list of them.
    """
    pagination = None
    if isinstance(data, Page):
        pagination = Pagination(data.number, data.limit, data.total, data.pages)
        data = data.rows
    return Document(
        printed_at=datetime.now(UTC),
        command=_valid(mask(shlex.join(["docora-ops", *arguments]))),
        error=_valid(error.message) if error else None,
        code=error.code if error else None,
        hint=_valid(error.hint) if error and error.hint else None,
        data=data,
        pagination=pagination,
        **(error.details if error else {}),
    )


def encode(document: Document[object]) -> Iterator[str]:
    """Encodes a document piece by piece as one line of ASCII, which can't act on a terminal."""
    present = {name: value for name, value in _fields_of(document).items() if value is not None}
    return _pieces(present, 3)


def _pieces(value: object, depth: int) -> Iterator[str]:
    """Encodes the items of the uppermost objects and lists one by one, as a list may be long."""
    if depth and isinstance(value, list | tuple):
        brackets, items = "[]", [("", each) for each in value]
    elif depth and (isinstance(value, dict) or is_dataclass(value)):
        found = value if isinstance(value, dict) else _fields_of(cast("DataclassInstance", value))
        brackets, items = "{}", [(f"{json.dumps(name)}: ", each) for name, each in found.items()]
    else:
        yield _ENCODER.encode(value)
        return
    yield brackets[0]
    for number, (label, each) in enumerate(items):
        yield f", {label}" if number else label
        yield from _pieces(each, depth - 1)
    yield brackets[1]


def schema_of(command: str) -> dict[str, Any] | None:
    """Returns the JSON Schema of a command's documents; None if it prints none."""
    from pydantic import TypeAdapter

    data = _data_of(command)
    return data and TypeAdapter(Document[data]).json_schema(mode="serialization")  # type: ignore[valid-type]


def _data_of(command: str) -> Any:
    """Returns the type of the data in the documents of a command."""
    from docora_ops import audit, bulk, jobs, link_lists, links
    from docora_ops.render import bulk_view, drift_view, link_view, metrics_view, queue_view
    from docora_ops.render.status_view import StatusData

    counts = list[link_lists.RepositoryCount] | list[link_lists.StatusCount]
    groups = list[links.AppCount] | counts | list[link_lists.ErrorGroup]
    one, many = link_view.LinkData, bulk_view.BulkData
    return {
        "status": StatusData,
        "failed": list[link_lists.ListedLink] | groups,
        "links": list[link_lists.ListedLink] | groups,
        "apps": list[link_lists.AppSummary],
        "show": link_lists.LinkDetails,
        "queue": jobs.QueueOverview,
        "doctor": drift_view.DoctorData,
        "metrics": metrics_view.MetricsData,
        "retry": one,
        "retry-all-failed": many,
        "resync": one | many,
        "repair": drift_view.RepairData,
        "schedule": many,
        "operations": list[bulk.KnownOperation],
        "progress": bulk_view.ProgressData,
        "wait": one | bulk_view.ProgressData,
        "cancel": bulk_view.CancelData,
        "pause": queue_view.PauseData,
        "resume": queue_view.ResumeData,
        "history": list[audit.HistoryEntry],
    }.get(command)


def _fields_of(value: DataclassInstance) -> dict[str, object]:
    return {field.name: getattr(value, field.name) for field in fields(value)}


def _valid(text: str) -> str:
    """Spells out the stray bytes that an argument may hold: a valid document has none."""
    return text.encode(errors="backslashreplace").decode()


def _encodable(value: DataclassInstance | datetime) -> object:
    return moment(value) if isinstance(value, datetime) else _fields_of(value)


_ENCODER = json.JSONEncoder(default=_encodable)
