"""Listing failed links: one by one, by app, or by error."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

from docora_ops.actions.folding import LONGEST, fold
from docora_ops.actions.lookup import resolve_app
from docora_ops.database import Database
from docora_ops.database.link_rows import held_job_ids
from docora_ops.database.reading import failed_by_app, failed_by_error, failed_page
from docora_ops.failed_links import ErrorGroup, FailedLink, Page, Row
from docora_ops.jobs import JobState
from docora_ops.links import AppCount, FailedFilter, LinkRef
from docora_ops.queue import Answer, LinkQueue
from docora_ops.text import mask, mask_cut

OTHER_ERRORS = "(other errors)"
_MOST_GROUPS = 10_000
"""Further groups become one, which bounds the memory."""
_FOLDED_AT_ONCE = 1000

_WALKED_AT_ONCE = 16
"""Ids per script if each is searched in the waiting list."""
_MOST_WALKS = 10 * _WALKED_AT_ONCE
"""For more ids it is faster to read the list once."""
_FOUND_AT_ONCE = 500
"""Ids per script if the list has been read."""


def failed_links(
    database: Database,
    queue: LinkQueue,
    *,
    app: str | None,
    error: str | None,
    page: int,
    limit: int,
) -> Page[FailedLink]:
    """Returns one page of the failed links, each with the state of its job.

    Raises NotFoundError, AmbiguousError, PostgresError, RedisError.
    """
    total, links = failed_page(
        database, _filter(database, app, error), limit=limit, offset=(page - 1) * limit
    )
    jobs = job_states(database, queue, [link.ref for link in links])
    return Page([replace(link, job=jobs[link.ref.id]) for link in links], page, limit, total)


def failed_links_by_app(
    database: Database, *, app: str | None, error: str | None, page: int, limit: int
) -> Page[AppCount]:
    """Counts the failed links of each app, most links first.

    Raises NotFoundError, AmbiguousError, PostgresError.
    """
    return _page(failed_by_app(database, _filter(database, app, error)), page, limit)


def failed_links_by_error(
    database: Database, *, app: str | None, error: str | None, page: int, limit: int
) -> Page[ErrorGroup]:
    """Groups the failed links by folded error, most links first.

    Raises NotFoundError, AmbiguousError, PostgresError.
    """
    links: Counter[str | None] = Counter()
    apps: dict[str | None, set[str]] = {}
    rows = failed_by_error(database, _filter(database, app, error), LONGEST)
    while some := list(islice(rows, _FOLDED_AT_ONCE)):
        folded = fold([_without_cut_secret(text or "") for _, text, _ in some])
        for (app_id, text, count), kind in zip(some, folded, strict=True):
            key = None if text is None else kind
            if key not in links and len(links) >= _MOST_GROUPS:
                key = OTHER_ERRORS
            links[key] += count
            apps.setdefault(key, set()).add(app_id)
    groups = [
        ErrorGroup(None if key is None else mask(key), count, len(apps[key]))
        for key, count in sorted(links.items(), key=lambda item: (-item[1], item[0] or ""))
    ]
    return _page(groups, page, limit)


def _without_cut_secret(error: str) -> str:
    return mask_cut(error) if len(error) >= LONGEST else error


def job_states(
    database: Database, queue: LinkQueue, refs: Sequence[LinkRef]
) -> dict[str, JobState]:
    """Returns the states of the links' jobs, by the row id of the link.

    A link with an invalid job id has no job. Raises PostgresError, RedisError.
    """
    valid = [ref for ref in refs if ref.has_valid_job_id]
    job_ids = [ref.job_id for ref in valid]
    waiting = queue.read_waiting() if len(job_ids) > _MOST_WALKS else None
    at_once = _WALKED_AT_ONCE if waiting is None else _FOUND_AT_ONCE
    answers: list[Answer] = []
    for start in range(0, len(job_ids), at_once):
        some = job_ids[start : start + at_once]
        answers += queue.look(some, waiting=waiting, detailed=True)
    held = held_job_ids(database, job_ids)
    states = {ref.id: JobState.NONE for ref in refs}
    for ref, answer in zip(valid, answers, strict=True):
        states[ref.id] = JobState.RUNNING if ref.job_id in held else answer.state
    return states


def _filter(database: Database, app: str | None, error: str | None) -> FailedFilter:
    return FailedFilter(None if app is None else resolve_app(database, app).app_id, error)


def _page(rows: Sequence[Row], number: int, limit: int) -> Page[Row]:
    return Page(rows[(number - 1) * limit : number * limit], number, limit, len(rows))
