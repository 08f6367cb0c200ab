"""Lists links, apps and the queue. Writes nothing."""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import takewhile

from docora_ops.actions.docora import Docora, warn_of_other_workers, warn_of_workers
from docora_ops.actions.holds import warn_of_unknown_holds, with_names
from docora_ops.actions.link_jobs import job_state, look_at_jobs
from docora_ops.actions.lookup import LinkChoice, choose_links, resolve_app, resolve_link
from docora_ops.actions.pages import Page, page_of
from docora_ops.database import Database
from docora_ops.database import link_reports as lists
from docora_ops.database.link_reports import (
    AppSummary,
    LinkHistory,
    ListedLink,
    RepositoryCount,
    StatusCount,
)
from docora_ops.database.link_rows import locked_job_ids
from docora_ops.error_groups import ErrorGroup
from docora_ops.errors import ConfigurationError, PostgresError, RedisError
from docora_ops.jobs import (
    Backend,
    BackendSource,
    Hold,
    JobEnd,
    JobRecord,
    JobState,
    QueueOverview,
)
from docora_ops.links import (
    AppCount,
    AppSort,
    LinkGroup,
    LinkRef,
    LinkSort,
    LinkStatus,
    ids_of_job,
)
from docora_ops.queue.holds import is_exempt
from docora_ops.queue.outcomes import (
    FAILURES,
    OutcomeFilter,
    SnapshotOutcome,
    read_last_failures,
)
from docora_ops.queue.redis_client import redis_errors
from docora_ops.text import mask_url

_ALL = LinkChoice()
_PATIENCE = 2  # timeout of Postgres in seconds, where it only adds details
_TRIES = 5  # the number of last tries that `show` shows
_CLOCKS_APART = timedelta(minutes=1)  # the most that the clocks of Postgres and Redis may differ
_COUNTS: Mapping[LinkGroup, Callable[..., AppCount | RepositoryCount | StatusCount]] = {
    LinkGroup.APP: AppCount,
    LinkGroup.REPOSITORY: RepositoryCount,
    LinkGroup.STATUS: StatusCount,
}


@dataclass(frozen=True, kw_only=True)
class LinkDetails(LinkHistory):
    """Everything about one link."""

    app_id: str
    app_name: str
    base_url: str
    repository_id: str
    repository_name: str
    github_url: str
    has_token: bool | None  # None if the role may not read it
    status: str
    error_message: str | None
    retry_count: int
    failed_at: datetime | None  # the last failure of a failed link, if the queue knows it
    tries: Sequence[SnapshotOutcome]  # the last ones that the queue knows, newest first
    circuit_open_until: datetime | None
    circuit_is_open: bool  # by the clock of Postgres
    lock_held: bool  # whether a worker holds the link's lock in Postgres
    job: JobState
    job_id: str
    backend: Backend
    backend_source: BackendSource
    job_record: JobRecord
    held: Hold | None  # of the app
    is_exempt: bool  # whether the link's job is exempt from the hold
    # Whether tries since the last good one have already delivered files.
    is_partly_sent: bool


def links(
    docora: Docora,
    choice: LinkChoice = _ALL,
    *,
    sort: LinkSort = LinkSort.APP,
    page: int = 1,
    limit: int = 50,
) -> tuple[Page[ListedLink], RedisError | None]:
    """Returns one page of the links with the states of their jobs.

    If Redis can't be used, the states are None, and the error of Redis is also returned. Raises
    UsageError, NotFoundError, AmbiguousError, PostgresError.
    """
    held, error = _read_held(docora, choice)
    database, (which, _) = docora.database, choose_links(docora, choice, held=held)
    offset = (page - 1) * limit
    total, rows = lists.links_page(database, which, sort, limit=limit, offset=offset)
    if error is None:
        try:
            looked = look_at_jobs(database, docora.queue_to_read, rows)
            jobs = {link.job_id: answer.state for link, answer in looked}
            failures = _last_failures(docora, rows)
            rows = [
                replace(
                    link,
                    job=jobs.get(link.job_id, JobState.NONE),
                    failed_at=failures.get((link.app_id, link.repository_id)),
                )
                for link in rows
            ]
            warn_of_other_workers(docora)
        except RedisError as unusable:
            error = unusable
    return Page(rows, page, limit, total), error


def _read_held(docora: Docora, choice: LinkChoice) -> tuple[Collection[str], RedisError | None]:
    """Returns the ids of held apps, if overdue links are chosen; and the error if Redis fails."""
    try:
        return docora.read_holds() if choice.overdue else (), None
    except RedisError as error:
        return (), error


def _last_failures(
    docora: Docora, links: Sequence[ListedLink]
) -> Mapping[tuple[str, str], datetime]:
    """Returns when each failed link last failed, by app id and repository id, as far as known."""
    pairs = {(row.app_id, row.repository_id) for row in links if row.status == LinkStatus.FAILED}
    if docora.queue_to_read.can_push:
        return read_last_failures(docora.redis, pairs)
    ends = docora.queue_to_read.outcomes(OutcomeFilter()).entries if pairs else ()
    return {(end.app_id, end.repository_id): end.ended_at for end in reversed(ends)}


def link_groups(
    docora: Docora, group: LinkGroup, choice: LinkChoice = _ALL, *, page: int = 1, limit: int = 50
) -> Page[AppCount | RepositoryCount | StatusCount] | Page[ErrorGroup]:
    """Returns one page of the counts of links by app, repository, status or error.

    Errors that differ only in files, paths, numbers or ids count as one. With `overdue`, warns if
    Redis can't be used, and then counts the links of held apps, too. Raises UsageError,
    NotFoundError, AmbiguousError, PostgresError.
    """
    held, error = _read_held(docora, choice)
    if error:
        warn_of_unknown_holds(docora, error)
    database, (which, _) = docora.database, choose_links(docora, choice, held=held)
    if group is LinkGroup.ERROR:
        return page_of(lists.error_groups(database, which), page, limit)
    counts = [_COUNTS[group](*row) for row in lists.links_by_group(database, group, which)]
    return page_of(counts, page, limit)


def apps(
    docora: Docora,
    choice: LinkChoice = _ALL,
    *,
    sort: AppSort = AppSort.FAILED,
    page: int = 1,
    limit: int = 50,
) -> Page[AppSummary]:
    """Returns one page of the apps with matching links.

    Without a choice, includes apps without links. If Redis can't be used, warns, and shows no
    app as held. Raises UsageError, NotFoundError, AmbiguousError, PostgresError.
    """
    database, (which, _) = docora.database, choose_links(docora, choice)
    rows = lists.summarize_apps(database, which, every_app=choice == _ALL)
    if sort is AppSort.NAME:
        rows.sort(key=lambda app: (app.app_name.casefold(), app.app_id))
    try:
        holds = docora.read_holds()
        rows = [replace(app, held=holds.get(app.app_id)) for app in rows]
    except RedisError as error:
        warn_of_unknown_holds(docora, error)
    shown = page_of(rows, page, limit)
    contacts = lists.read_contacts(database, [app.app_id for app in shown.rows])
    return replace(shown, rows=[replace(app, email=contacts[app.app_id][0]) for app in shown.rows])


def show(docora: Docora, app: str, repository: str) -> LinkDetails:
    """Returns everything known about one link except its secrets.

    Raises NotFoundError, AmbiguousError, PostgresError, RedisError.
    """
    database, queue = docora.database, docora.queue_to_read
    with database.consistent_reads():
        link = resolve_link(database, app, repository)
        history = lists.link_history(database, link.ref)
    ref, payload = link.ref, link.payload
    record = queue.job(ref.job_id)
    warn_of_other_workers(docora)
    since = history.created_at - _CLOCKS_APART  # a link has no earlier entry
    of_link = OutcomeFilter(since, ref.app_id, ref.repository_id, _TRIES)
    tries = queue.outcomes(of_link).entries
    held = docora.read_holds().get(ref.app_id)
    with redis_errors(docora.redis):
        exempt = held is not None and is_exempt(docora.redis, ref.job_id)
    failed_at = None
    if link.status == LinkStatus.FAILED and tries and tries[0].outcome in FAILURES:
        failed_at = tries[0].ended_at
    elif link.status == LinkStatus.FAILED and record.status == "failed":
        failure = record.last_failure
        failed_at = record.ended_at or (failure.failed_at if failure else None)
    return LinkDetails(
        app_id=ref.app_id,
        app_name=payload.app_name,
        base_url=mask_url(payload.base_url),
        repository_id=ref.repository_id,
        repository_name=payload.repository_name,
        github_url=mask_url(payload.github_url),
        has_token=lists.has_token(database, ref),
        status=link.status,
        error_message=link.error_message,
        retry_count=link.retry_count,
        failed_at=failed_at,
        tries=tries,
        circuit_open_until=link.circuit_open_until,
        circuit_is_open=link.circuit_is_open,
        **vars(history),
        lock_held=bool(locked_job_ids(database, [ref.job_id])),
        job=job_state(database, queue, ref),
        job_id=ref.job_id,
        backend=queue.backend,
        backend_source=queue.choice.source,
        job_record=record,
        held=held,
        is_exempt=exempt,
        is_partly_sent=link.status == LinkStatus.PENDING_SNAPSHOT
        and any(
            end.files for end in takewhile(lambda end: end.outcome is not JobEnd.SYNCED, tries)
        ),
    )


def queue(docora: Docora, limit: int = 20, *, apps: Sequence[str] = ()) -> QueueOverview:
    """Returns the counts, workers, scheduler and first `limit` jobs of the queue.

    The counts are always those of the whole queue. Adds the errors of delayed tries and the names
    of held apps if Postgres answers.

    apps: only jobs of these apps, by id, name or unambiguous prefix; empty means all.

    Raises NotFoundError, AmbiguousError, PostgresError, RedisError.
    """
    app_ids = [resolve_app(docora.database, text).app_id for text in apps]
    warn_of_workers(docora)
    link_queue = docora.queue_to_read
    overview = link_queue.overview(limit)
    if app_ids:
        count, of_apps = link_queue.jobs_of_apps(app_ids, limit)
        overview = replace(overview, jobs=of_apps, jobs_of_apps=count)
    if link_queue.can_push and overview.delayed and not overview.has_scheduler:
        docora.warn("nothing queues delayed jobs when they are due: docora-ops worker does")
    jobs, held = overview.jobs, overview.held
    delayed = [ids for job in jobs if job.status == "delayed" and (ids := ids_of_job(job.job_id))]
    errors: dict[str, str] = {}
    try:
        if delayed or held:
            with closing(Database(docora.settings.hurried(_PATIENCE))) as database:
                errors = lists.last_errors(database, [LinkRef("", *ids) for ids in delayed])
                held = with_names(database, held)
    except ConfigurationError:  # without DATABASE_URL, only Redis is wanted
        pass
    except PostgresError as error:
        unknown = "errors of delayed tries" if delayed else "names of held apps"
        docora.note(f"The {unknown} are unknown: {error.message}")
    jobs = [replace(job, error_message=errors.get(job.job_id)) for job in jobs]
    return replace(overview, jobs=jobs, held=held)
