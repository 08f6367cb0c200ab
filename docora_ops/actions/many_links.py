"""Retry, resync and schedule of many links: selects the links and describes the change."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Generator, Mapping
from contextlib import closing
from dataclasses import asdict, replace
from itertools import starmap

from docora_ops.actions.bulk import BulkStep, change_links
from docora_ops.actions.docora import Docora, require_rq, require_rq_for_front
from docora_ops.actions.holds import without_held_apps
from docora_ops.actions.lookup import LinkChoice, choose_links, resolve_app
from docora_ops.actions.operation_log import Plan
from docora_ops.database import Selection
from docora_ops.database.deliveries import count_deliveries
from docora_ops.database.link_reports import count_by_status, read_results
from docora_ops.database.selections import keep_links, select_due, select_links
from docora_ops.errors import (
    PoolingError,
    PostgresDeniedError,
    RedisDeniedError,
    ServerError,
    UnclearBackendError,
)
from docora_ops.links import Action, LinkFilter, LinkStatus
from docora_ops.operations import NO_OPTIONS, ChangeOptions, LeftToOperation, RunningOperation
from docora_ops.queue.operation_links import read_at_work
from docora_ops.queue.rq_queue import keep_pass
from docora_ops.text import When, amount

_ALL = LinkChoice()
_WRONG_SETTINGS = (PostgresDeniedError, RedisDeniedError, PoolingError, UnclearBackendError)
"""Errors that do not go away by themselves, if they come in the first pass."""


def retry_all_failed(
    docora: Docora,
    choice: LinkChoice = _ALL,
    options: ChangeOptions = NO_OPTIONS,
    *,
    limit: int | None = None,
    by_prefix: bool = True,
    reason: str | None = None,
) -> Generator[BulkStep]:
    """Retries failed links as one bulk operation, round-robin across apps.

    The first step describes the plan: to change nothing, close the generator. A step follows each
    batch. Closing the generator later ends the operation after its current batch; another call does
    the rest.

    Links whose jobs wait come last. A waiting job is kept, unless two looks,
    `DOCORA_OPS_DRIFT_GRACE` seconds apart, find that no worker would take it.

    limit: the maximum number of links.
    by_prefix: allow unambiguous prefixes of app ids and names.
    reason: for the audit entry.

    Raises the errors of
    `choose_links`; NeedsRqError, UnclearBackendError, WrongBackendError, ServersMismatchedError,
    PostgresError, RedisError.
    """
    if options.front:
        require_rq_for_front(docora)
    which, recorded = choose_links(docora, choice, by_prefix=by_prefix)
    can_push = docora.queue.can_push
    which = replace(which, statuses=[LinkStatus.FAILED], or_behind_circuit=not can_push)
    selection = _select(docora, which, options, limit)
    held = selection.held_names
    failed = 0 if selection.total or held else count_by_status(docora.database).failed
    if failed and not selection.open_circuits_left_out:
        # "Nothing to do" would sound like an all-clear.
        links = "link is" if failed == 1 else "links are"
        none = f"no link matches the options, but {failed} {links} failed"
        docora.note(f"{docora.servers}: {none}.")
    change = docora.describe_change(
        "retry-all-failed", reason, options, **recorded, limit=limit, held=held
    )
    running, _ = operations_at_work(docora, selection)
    if options.is_paced and selection.total and not can_push:
        docora.warn(
            "--in-flight holds back docora-ops only: Docora's scheduler queues all failed links in "
            "each pass, except those with an open circuit."
        )
    yield from change_links(docora, Plan(Action.RETRY, selection, change, options, running))


def resync_all(
    docora: Docora,
    app: str,
    options: ChangeOptions = NO_OPTIONS,
    *,
    last_scan_before: When | None = None,
    last_scan_after: When | None = None,
    by_prefix: bool = True,
    reason: str | None = None,
) -> Generator[BulkStep]:
    """Resyncs the links of an app as one bulk operation, regardless of their status.

    Yields steps and raises errors like `retry_all_failed`. A link whose snapshot is running counts
    as not queued.

    app: id or name.
    last_scan_before, last_scan_after: only links whose last good scan matches; see `LinkChoice`.
    by_prefix: allow an unambiguous prefix of the app's id or name.
    reason: for the audit entry.
    """
    if options.front:
        require_rq_for_front(docora)
    resolved = resolve_app(docora.database, app, by_prefix=by_prefix)
    choice = LinkChoice(last_scan_before=last_scan_before, last_scan_after=last_scan_after)
    which, recorded = choose_links(docora, choice)
    which = replace(which, app_ids=[resolved.app_id])
    selection = _select(docora, which, options)
    recorded = {**asdict(resolved), "all": True, "held": selection.held_names} | recorded
    change = docora.describe_change("resync", reason, options, **recorded)
    running, _ = operations_at_work(docora, selection)
    deliveries = count_deliveries(docora.database, selection.refs)
    plan = Plan(Action.RESYNC, selection, change, options, running, deliveries)
    yield from change_links(docora, plan)


def _select(
    docora: Docora, which: LinkFilter, options: ChangeOptions, limit: int | None = None
) -> Selection:
    """Selects links. Leaves out held apps and, with BullMQ, links whose circuit stays open."""
    # Docora's scheduler would not queue links with an open circuit.
    skip = not (docora.queue.can_push or options.reset_circuit)
    holds = docora.read_holds()
    most = None if holds else limit
    selection = select_links(docora.database, which, limit=most, skip_open_circuits=skip)
    return without_held_apps(docora, selection, holds, limit)


def schedule(
    docora: Docora, *, dry_run: bool = False, reason: str | None = None
) -> Generator[BulkStep]:
    """Queues all due links once: first snapshots, rescans and failed links.

    Leaves out links of held apps. Of a running operation with `in_flight`, leaves out links that it
    has yet to queue, and links that failed again in it. Yields steps like `retry_all_failed`.

    reason: for the audit entry.

    Raises NeedsRqError with the BullMQ backend, UnclearBackendError, WrongBackendError,
    ServersMismatchedError, PostgresError, RedisError.
    """
    within = docora.settings.scan_interval
    require_rq(docora, "schedule", f"Docora's worker queues what is due by itself, within {within}")
    due = select_due(docora.database, docora.settings.rescan_interval_ms)
    due = without_held_apps(docora, due, docora.read_holds())
    running, left_to = operations_at_work(docora, due)
    selection = replace(
        keep_links(due, [ref for ref in due.refs if ref.id not in left_to]),
        left_to_operations=list(starmap(LeftToOperation, Counter(left_to.values()).items())),
    )
    for left in selection.left_to_operations:
        links = f"{amount(left.links, 'due link')} left to operation {left.operation_id}"
        docora.note(f"{links}, which queues its links at its own pace (--in-flight).")
    change = docora.describe_change("schedule", reason, held=due.held_names)
    options = ChangeOptions(dry_run=dry_run)
    yield from change_links(docora, Plan(Action.SCHEDULE, selection, change, options, running))
    if not dry_run:
        keep_pass(docora.redis)


def operations_at_work(
    docora: Docora, selection: Selection
) -> tuple[list[RunningOperation], Mapping[str, str]]:
    """Returns the operations that have yet to queue a selected link, or that await its result.

    Also returns, by row id, the links that `schedule` leaves to an operation, and the id of the
    operation. To an operation with `in_flight`, `schedule` leaves the links that the operation has
    yet to queue, and links that failed again in it. `schedule` itself queues other links of the
    operation that are due, for example because their job was lost.

    Raises PostgresError, RedisError.
    """
    if not selection.total:
        return [], {}
    try:
        known = read_at_work(docora.redis, {ref.id for ref in selection.refs})
    except RedisDeniedError as error:  # the ACL is that of an older version
        unknown = "it is unknown whether other operations are at work"
        docora.warn(f"{unknown}: {error.message}. Hint: {error.hint}")
        return [], {}
    running, left_to = [], dict[str, str]()
    for shared in known:
        results = read_results(docora.database, list(shared.queued)) if shared.queued else []
        if links := len(shared.to_queue) + len(shared.queued) - len(results):
            running.append(RunningOperation(**vars(shared.operation), links=links))
        if "in_flight" in shared.operation.selection:
            failed_again = {result.id for result in results if result.status == LinkStatus.FAILED}
            left_to |= dict.fromkeys(shared.to_queue | failed_again, shared.operation.operation_id)
    return running, left_to


def repeat_schedule(
    docora: Docora, *, reason: str | None = None
) -> Generator[Generator[BulkStep] | ServerError | UnclearBackendError]:
    """Yields a generator of steps for each pass of `schedule`, every `SCAN_INTERVAL_MS`.

    Exhaust the steps of a pass before asking for the next pass. If a server fails before the first
    change of a pass, or if the backend has become unclear, for example while all workers restart,
    the pass changes nothing: yields the error instead. Sleeps and reconnects between the passes.

    Raises the errors of `schedule`. However, raises PostgresError, RedisError and
    UnclearBackendError only in the first pass, and only if they will not go away by themselves,
    such as a refused login.

    reason: for the audit entries.
    """
    is_first = True
    while True:
        steps = schedule(docora, reason=reason)
        try:
            step = next(steps)
            rest = steps if step.result.total else (ended for ended in [*steps])
        except (ServerError, UnclearBackendError) as error:
            if is_first and isinstance(error, _WRONG_SETTINGS):
                raise
            yield error
        else:
            yield _all_steps(step, rest)
        is_first = False
        docora.renew()
        time.sleep(docora.settings.scan_interval_ms / 1000)


def _all_steps(first: BulkStep, rest: Generator[BulkStep]) -> Generator[BulkStep]:
    with closing(rest):
        yield first
        yield from rest
