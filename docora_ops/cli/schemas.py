"""The JSON Schema of each command's `--json` output, made from its dataclasses."""

from typing import Any

from docora_ops import __version__


def schema_of(command: str) -> dict[str, Any] | None:
    """Returns the JSON Schema of a command's document; None for a command without `--json`."""
    from pydantic import TypeAdapter
    from pydantic.json_schema import GenerateJsonSchema

    from docora_ops import jobs, operations
    from docora_ops.actions.app_page import AppPage
    from docora_ops.actions.app_url import Probe, UrlChange
    from docora_ops.actions.deliveries import Deliveries
    from docora_ops.actions.doctor import Diagnosis
    from docora_ops.actions.holds import HoldResult, ReleaseResult
    from docora_ops.actions.link_lists import LinkDetails
    from docora_ops.actions.pauses import Resumed, RqWorkers
    from docora_ops.actions.repairs import RepairData
    from docora_ops.actions.report import Report
    from docora_ops.actions.status import Status
    from docora_ops.actions.trend import Trend
    from docora_ops.actions.verification import Verification
    from docora_ops.cli import bulk_view
    from docora_ops.cli.bulk_operations import CancelData, OperationData
    from docora_ops.cli.one_link import LinkData
    from docora_ops.database import link_reports
    from docora_ops.database.deliveries import DeliveredFile
    from docora_ops.error_groups import ErrorGroup
    from docora_ops.links import AppCount
    from docora_ops.render.documents import Document

    counts = list[link_reports.RepositoryCount] | list[link_reports.StatusCount]
    links = list[link_reports.ListedLink] | list[AppCount] | counts | list[ErrorGroup]
    one, many = LinkData, bulk_view.BulkData
    data: Any = {
        "status": Status,
        "failed": links,
        "links": links,
        "apps": list[link_reports.AppSummary],
        "show": LinkDetails | AppPage,
        "deliveries": Deliveries | list[DeliveredFile],
        "queue": jobs.QueueOverview,
        "trend": Trend,
        "doctor": Diagnosis,
        "verify": Verification,
        "probe": Probe,
        "retry": one,
        "retry-all-failed": many,
        "resync": one | many,
        "repair": RepairData,
        "schedule": many,
        "set-url": UrlChange,
        "operations": list[operations.KnownOperation] | OperationData,
        "wait": one | OperationData,
        "cancel": CancelData,
        "pause": RqWorkers,
        "resume": Resumed,
        "hold": HoldResult,
        "release": ReleaseResult,
        "history": list[operations.HistoryEntry],
        "report": Report,
    }.get(command)
    if data is None:
        return None
    return {
        "$schema": GenerateJsonSchema.schema_dialect,
        "$id": f"urn:docora-ops:{__version__}:{command}",
        **TypeAdapter(Document[data]).json_schema(mode="serialization"),
    }
