"""JSON for a script, and its JSON Schema, both made from the same dataclasses."""

import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

from docora_ops import __version__
from docora_ops.errors import DocoraOpsError
from docora_ops.link_lists import Page
from docora_ops.text import mask, mask_url, moment

Data = TypeVar("Data")


@dataclass(frozen=True)
class Pagination:
    """The place of a page in its list. `total`: rows of all pages."""

    page: int
    limit: int
    total: int
    total_pages: int


@dataclass(frozen=True)
class Document(Generic[Data]):
    """What a command prints with `--json`. Of these fields, those without a value are left out.

    `target`: the name of the target. `data`: the result, also what was done before an error.
    `pagination`: of a list. `error`, `code` and `hint`: the error that has ended the command. The
    fields behind `hint` say more about it.
    """

    printed_at: datetime
    command: str
    target: str | None = None
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
    data: object,
    arguments: Sequence[str],
    error: DocoraOpsError | None = None,
    target: str | None = None,
) -> Document[object]:
    """Returns the document of a command that was typed with these arguments, without secrets.

    `data`: a dataclass, or a page of a list of them.
    """
    pagination = None
    if isinstance(data, Page):
        pagination = Pagination(data.number, data.limit, data.total, data.pages)
        data = data.rows
    told: dict[str, Any] = {}
    if error:
        told = {"error": _valid(mask(error.message)), "code": error.code, **error.details}
        told["hint"] = _valid(mask(error.hint)) if error.hint else None
    # The query of a URL may be secret.
    words = (mask_url(each) if "://" in each else each for each in arguments)
    command = _valid(mask(shlex.join(["docora-ops", *words])))
    now = datetime.now(UTC)
    target = target and _valid(mask(target))
    return Document(now, command, target, data=data, pagination=pagination, **told)


def _valid(text: str) -> str:
    """Spells out the stray bytes that an argument may hold: a valid document has none."""
    return text.encode(errors="backslashreplace").decode()


def encode(document: Document[object]) -> Iterator[str]:
    """Encodes a document piece by piece as one line of ASCII, which can't act on a terminal."""
    present = {name: value for name, value in _encodable(document).items() if value is not None}
    return json.JSONEncoder(default=_encodable).iterencode(present)


def _encodable(value: Any) -> Any:
    if isinstance(value, datetime):
        return moment(value)
    return {field.name: getattr(value, field.name) for field in fields(value)}


def schema_of(command: str) -> dict[str, Any] | None:
    """Returns the JSON Schema of a command's documents; None if it prints none."""
    from pydantic import TypeAdapter
    from pydantic.json_schema import GenerateJsonSchema

    from docora_ops import audit, bulk, jobs, link_lists, links, report, verification
    from docora_ops.actions.doctor import DoctorData
    from docora_ops.actions.pauses import Resumed, RqWorkers
    from docora_ops.actions.status import Status
    from docora_ops.actions.targets import TargetState
    from docora_ops.pair import Pair
    from docora_ops.probe import Probe, UrlChange
    from docora_ops.render import bulk_view, drift_view, link_view

    counts = list[link_lists.RepositoryCount] | list[link_lists.StatusCount]
    groups = list[links.AppCount] | counts | list[link_lists.ErrorGroup]
    one, many = link_view.LinkData, bulk_view.BulkData
    data: Any = {
        "status": Status,
        "failed": list[link_lists.ListedLink] | groups,
        "links": list[link_lists.ListedLink] | groups,
        "apps": list[link_lists.AppSummary],
        "show": link_lists.LinkDetails | list[link_lists.DeliveredFile],
        "queue": jobs.QueueOverview,
        "doctor": DoctorData,
        "verify": verification.Verification,
        "probe": Probe,
        "retry": one,
        "retry-all-failed": many,
        "resync": one | many,
        "repair": drift_view.RepairData,
        "schedule": many,
        "set-url": UrlChange,
        "operations": list[bulk.KnownOperation],
        "progress": bulk_view.ProgressData,
        "wait": one | bulk_view.ProgressData,
        "cancel": bulk_view.CancelData,
        "pair": Pair,
        "pause": RqWorkers,
        "resume": Resumed,
        "history": list[audit.HistoryEntry],
        "report": report.Report,
        "targets": list[TargetState],
    }.get(command)
    if data is None:
        return None
    return {
        "$schema": GenerateJsonSchema.schema_dialect,
        "$id": f"urn:docora-ops:{__version__}:{command}",
        **TypeAdapter(Document[data]).json_schema(mode="serialization"),
    }
