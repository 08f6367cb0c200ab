"""Listing failed links: one by one, by app, or by error."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

from docora_ops.actions.folding import LONGEST, fold
from docora_ops.actions.look import look_at_jobs
from docora_ops.database import Database
from docora_ops.database.reading import failed_by_app, failed_by_error, failed_page
from docora_ops.failed_links import ErrorGroup, FailedLink, Page, Row
from docora_ops.jobs import JobState
from docora_ops.links import AppCount, FailedFilter
from docora_ops.queue import LinkQueue
from docora_ops.text import mask, mask_cut

OTHER_ERRORS = "(other errors)"
_MOST_GROUPS = 10_000  # further groups become one, which bounds the memory
_FOLDED_AT_ONCE = 1000


def failed_links(
    database: Database, queue: LinkQueue, which: FailedFilter, page: int, limit: int
) -> Page[FailedLink]:
    """Returns one page of the failed links, each with the state of its job."""
    total, links = failed_page(database, which, limit=limit, offset=(page - 1) * limit)
    looked = look_at_jobs(database, queue, links, detailed=True)
    jobs = {link.job_id: answer.state for link, answer in looked}
    rows = [replace(link, job=jobs.get(link.job_id, JobState.NONE)) for link in links]
    return Page(rows, page, limit, total)


def failed_links_by_app(
    database: Database, which: FailedFilter, page: int, limit: int
) -> Page[AppCount]:
    """Counts the failed links of each app, most links first."""
    return _page(failed_by_app(database, which), page, limit)


def failed_links_by_error(
    database: Database, which: FailedFilter, page: int, limit: int
) -> Page[ErrorGroup]:
    """Groups the failed links by folded error, most links first."""
    links: Counter[str | None] = Counter()
    apps: dict[str | None, set[str]] = {}
    rows = failed_by_error(database, which, LONGEST)
    while some := list(islice(rows, _FOLDED_AT_ONCE)):
        texts = [text or "" for _, text, _ in some]
        folded = fold([mask_cut(text) if len(text) >= LONGEST else text for text in texts])
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


def _page(rows: Sequence[Row], number: int, limit: int) -> Page[Row]:
    return Page(rows[(number - 1) * limit : number * limit], number, limit, len(rows))
