"""Showing one link."""

from __future__ import annotations

from dataclasses import replace

from docora_ops.actions.failed import job_states
from docora_ops.actions.lookup import resolve_link
from docora_ops.database import Database
from docora_ops.database.link_rows import held_job_ids
from docora_ops.database.reading import link_history
from docora_ops.errors import NotFoundError
from docora_ops.jobs import JobRecord
from docora_ops.link_details import LinkDetails
from docora_ops.queue import LinkQueue, QueueReader
from docora_ops.text import mask, mask_url


def link_details(
    database: Database, queue: LinkQueue, reader: QueueReader, app: str, repository: str
) -> LinkDetails:
    """Collects all about one link except its secrets.

    Raises NotFoundError, AmbiguousError, PostgresError, RedisError.
    """
    with database.snapshot():
        link = resolve_link(database, app, repository)
        history = link_history(database, link.ref)
    if history is None:
        raise NotFoundError("the link is gone", hint="it was removed a moment ago")
    payload = link.payload
    secrets = (payload.github_token_encrypted, payload.client_auth_key_encrypted)
    job = reader.job(link.ref.job_id)
    return LinkDetails(
        app_id=link.ref.app_id,
        app_name=payload.app_name,
        base_url=mask_url(payload.base_url),
        repository_id=link.ref.repository_id,
        repository_name=payload.repository_name,
        github_url=mask_url(payload.github_url),
        has_token=payload.github_token_encrypted is not None,
        status=link.status,
        error_message=link.error_message,
        retry_count=link.retry_count,
        circuit_open_until=link.circuit_open_until,
        history=history,
        lock_held=bool(held_job_ids(database, [link.ref.job_id])),
        job=job_states(database, queue, [link.ref])[link.ref.job_id],
        job_id=link.ref.job_id,
        rq=_without(secrets, job),
    )


def _without(secrets: tuple[str | None, ...], job: JobRecord) -> JobRecord:
    if job.last_failure is None:
        return job
    failure = replace(job.last_failure, text=mask(job.last_failure.text, secrets))
    return replace(job, last_failure=failure)
