"""Everything about one app. Writes nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from docora_ops.actions.docora import Docora
from docora_ops.actions.freshness import read_overdue_before
from docora_ops.actions.lookup import resolve_app
from docora_ops.actions.many_links import operations_at_work
from docora_ops.database import link_reports as lists
from docora_ops.database.deliveries import DeliveryFilter, deliveries_by_repository
from docora_ops.database.link_reports import AppSummary
from docora_ops.database.selections import select_links
from docora_ops.error_groups import ErrorGroup
from docora_ops.errors import NotFoundError, RedisError
from docora_ops.jobs import Hold
from docora_ops.links import FAILED_LINKS, TRIED_LINKS, LinkFilter
from docora_ops.operations import RunningOperation


@dataclass(frozen=True, kw_only=True)
class AppPage(AppSummary):
    """Everything about one app.

    email, created_at: None if the role may not read them.
    held: the hold of the app; None if the app is not held, or if Redis could not be used.
    overdue: the number of overdue links; 0 if the app is held.
    tried_by_error: links whose last try failed and that will be tried again, by error.
    last_delivered_at: when a file was last delivered; None if never.
    running_operations: bulk operations of docora-ops at work on links of the app; None if Redis
        could not be used.
    """

    created_at: datetime | None
    overdue: int
    failed_by_error: Sequence[ErrorGroup]
    tried_by_error: Sequence[ErrorGroup]
    delivered_files: int
    last_delivered_at: datetime | None
    running_operations: Sequence[RunningOperation] | None


def show_app(docora: Docora, app: str) -> tuple[AppPage, RedisError | None]:
    """Returns everything about one app, and the error if Redis could not be used.

    Raises NotFoundError, AmbiguousError, PostgresError.
    """
    database, chosen = docora.database, resolve_app(docora.database, app)
    of_app = LinkFilter(app_ids=[chosen.app_id])
    holds: Mapping[str, Hold] = {}
    running, lost = None, None
    try:
        holds = docora.read_holds()
        running, _ = operations_at_work(docora, select_links(database, of_app))
    except RedisError as error:
        lost = error
    held = holds.get(chosen.app_id)
    email, created_at = lists.read_contacts(database, [chosen.app_id])[chosen.app_id]
    with database.consistent_reads():
        summaries = lists.summarize_apps(database, of_app, every_app=True)
        if not summaries:
            raise NotFoundError(f"no app {chosen.app_name!r}", hint="it was removed a moment ago")
        [summary] = summaries
        overdue = replace(of_app, overdue_before=read_overdue_before(docora, list(holds)))
        delivered = deliveries_by_repository(database, DeliveryFilter(chosen.app_id))
        page = AppPage(
            **vars(summary) | {"email": email, "held": held},
            created_at=created_at,
            # Nobody expects a held app to be scanned.
            overdue=0 if held else lists.count_links(database, overdue),
            failed_by_error=lists.error_groups(
                database, replace(FAILED_LINKS, app_ids=of_app.app_ids)
            ),
            tried_by_error=lists.error_groups(
                database, replace(TRIED_LINKS, app_ids=of_app.app_ids)
            ),
            delivered_files=sum(files for files, _, _ in delivered.values()),
            last_delivered_at=max((last for _, _, last in delivered.values()), default=None),
            running_operations=running,
        )
    return page, lost
