"""Showing one link."""

from __future__ import annotations

from dataclasses import replace

from docora_ops.actions.look import job_state
from docora_ops.actions.lookup import resolve_link
from docora_ops.database import Database
from docora_ops.database.link_history import has_token, link_history
from docora_ops.database.link_rows import held_job_ids
from docora_ops.link_details import LinkDetails
from docora_ops.queue import LinkQueue
from docora_ops.text import mask, mask_url

_LONGEST_FAILURE = 10_000
"""Characters. BullMQ keeps the whole text."""


def link_details(database: Database, queue: LinkQueue, app: str, repository: str) -> LinkDetails:
    """Collects all about one link except its secrets. Raises NotFoundError, AmbiguousError."""
    with database.snapshot():
        link = resolve_link(database, app, repository)
        history = link_history(database, link.ref)
        token = has_token(database, link.ref)
    payload = link.payload
    record = queue.job(link.ref.job_id)
    if record.last_failure is not None:
        text = mask(record.last_failure.text)[:_LONGEST_FAILURE]
        failure = replace(record.last_failure, text=text)
        record = replace(record, last_failure=failure)
    return LinkDetails(
        app_id=link.ref.app_id,
        app_name=payload.app_name,
        base_url=mask_url(payload.base_url),
        repository_id=link.ref.repository_id,
        repository_name=payload.repository_name,
        github_url=mask_url(payload.github_url),
        has_token=token,
        status=link.status,
        error_message=link.error_message,
        retry_count=link.retry_count,
        circuit_open_until=link.circuit_open_until,
        circuit_is_open=link.circuit_is_open,
        **vars(history),
        lock_held=bool(held_job_ids(database, [link.ref.job_id])),
        job=job_state(database, queue, link.ref, by_status=True),
        job_id=link.ref.job_id,
        backend=queue.backend,
        backend_source=queue.choice.source,
        job_record=record,
    )
