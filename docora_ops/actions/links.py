"""Listing links, and counting them by app, repository, error or status; listing apps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from docora_ops.actions.folding import LONGEST, group_errors
from docora_ops.actions.look import look_at_jobs
from docora_ops.database import Database
from docora_ops.database import link_reports as lists
from docora_ops.errors import RedisError
from docora_ops.jobs import JobState
from docora_ops.link_lists import (
    AppSummary,
    ErrorGroup,
    LinkSort,
    ListedLink,
    RepositoryCount,
    StatusCount,
)
from docora_ops.links import AppCount, LinkFilter
from docora_ops.pages import Page, page_of
from docora_ops.queue import LinkQueue


def list_links(
    database: Database,
    open_queue: Callable[[], LinkQueue],
    which: LinkFilter,
    sort: LinkSort,
    page: int,
    limit: int,
) -> tuple[Page[ListedLink], RedisError | None]:
    """Returns one page of the links, each with the state of its job.

    If Redis can't be used, the states are None, and its error is returned as well. `open_queue`:
    may ask Redis which queue it is.
    """
    total, links = lists.links_page(database, which, sort, limit=limit, offset=(page - 1) * limit)
    error = None
    try:
        looked = look_at_jobs(database, open_queue(), links)
        jobs = {link.job_id: answer.state for link, answer in looked}
        links = [replace(link, job=jobs.get(link.job_id, JobState.NONE)) for link in links]
    except RedisError as lost:
        error = lost
    return Page(links, page, limit, total), error


def count_by_app(database: Database, which: LinkFilter, page: int, limit: int) -> Page[AppCount]:
    """Counts the links of each app, most links first."""
    total, rows = lists.links_by_app(database, which, limit=limit, offset=(page - 1) * limit)
    return Page(rows, page, limit, total)


def count_by_repository(
    database: Database, which: LinkFilter, page: int, limit: int
) -> Page[RepositoryCount]:
    """Counts the links of each repository, most links first."""
    offset = (page - 1) * limit
    total, rows = lists.links_by_repository(database, which, limit=limit, offset=offset)
    return Page(rows, page, limit, total)


def count_by_status(
    database: Database, which: LinkFilter, page: int, limit: int
) -> Page[StatusCount]:
    """Counts the links of each status, most links first."""
    total, rows = lists.links_by_status(database, which, limit=limit, offset=(page - 1) * limit)
    return Page(rows, page, limit, total)


def count_by_error(
    database: Database, which: LinkFilter, page: int, limit: int
) -> Page[ErrorGroup]:
    """Groups the links by folded error, most links first."""
    groups = group_errors(lists.links_by_error(database, which, LONGEST + 1))
    return page_of(groups, page, limit)


def list_apps(database: Database, page: int, limit: int) -> Page[AppSummary]:
    """Returns one page of the apps, most failed links first."""
    total, rows = lists.apps_page(database, limit=limit, offset=(page - 1) * limit)
    return Page(rows, page, limit, total)
