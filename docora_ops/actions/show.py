"""Looking at everything about one link."""

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
    """Everything about one link, but for its secrets.

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
        ref=link.ref,
        app_name=payload.app_name,
        base_url=mask_url(payload.base_url),
        repository=payload.repository,
        github_url=mask_url(payload.github_url),
        has_token=payload.github_token_encrypted is not None,
        status=link.status,
        error=link.last_error,
        retry_count=link.retry_count,
        circuit_open_until=link.circuit_open_until,
        history=history,
        lock_is_held=bool(held_job_ids(database, [link.ref.job_id])),
        state=job_states(database, queue, [link.ref])[link.ref.id],
        job=_without(secrets, job),
    )


def _without(secrets: tuple[str | None, ...], job: JobRecord) -> JobRecord:
    if job.last_failure is None:
        return job
    failure = replace(job.last_failure, text=mask(job.last_failure.text, secrets))
    return replace(job, last_failure=failure)
