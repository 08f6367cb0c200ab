"""What `retry` and `resync` of one link have in common: showing the result."""

from __future__ import annotations

from docora_ops.cli.context import Context
from docora_ops.models import BulkResult, LinkResult, PlannedLink, Surroundings


def show_result(
    context: Context,
    result: LinkResult,
    surroundings: Surroundings,
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Print what was done with a link, or would be."""
    from docora_ops.render import documents, tables

    payload = result.link.payload
    planned = PlannedLink(
        app_id=payload.app_id,
        app_name=payload.app_name,
        repository_id=payload.repository_id,
        repository=payload.repository,
        outcome=result.outcome,
    )
    if dry_run and as_json:
        counts = BulkResult(
            operation=result.operation,
            operation_id=None,
            total=1,
            counts={result.outcome: 1},
            by_app={},
            deliveries_cleared=result.deliveries_cleared,
        )
        context.show_text(documents.encode_dry_run(counts, [planned]))
    elif dry_run:
        context.show(*tables.plan([planned], context.out.width))
        context.say("Dry run: nothing was changed.")
    elif as_json:
        context.show_document(documents.link_result(result, surroundings.workers))
    else:
        context.show(tables.link_result(result))
        context.say(documents.link_message(result) + ".")
