"""Retry and resync of one link: a batch of one."""

from shlex import quote

from docora_ops.actions.change import Changer
from docora_ops.actions.docora import (
    Docora,
    require_right_workers,
    require_rq_for_front,
    warn_of_workers,
)
from docora_ops.actions.link_jobs import invalid_job_id, job_state
from docora_ops.actions.lookup import gone, resolve_link
from docora_ops.actions.pair import require_pair
from docora_ops.database.claims import Claiming
from docora_ops.database.deliveries import count_deliveries, count_undelivered
from docora_ops.database.link_rows import read_link
from docora_ops.errors import (
    AppHeldError,
    CircuitOpenError,
    JobUnreadableError,
    NotFailedError,
    NotFoundError,
    RedisError,
    SnapshotRunningError,
)
from docora_ops.jobs import JobState, when_docora_queues
from docora_ops.links import Action, Link, LinkFilter, LinkResult, LinkStatus, Outcome
from docora_ops.operations import NO_OPTIONS, ChangeOptions
from docora_ops.queue import Answer
from docora_ops.queue.audit_stream import AuditEntries
from docora_ops.text import mask


def retry(
    docora: Docora,
    app: str,
    repository: str,
    options: ChangeOptions = NO_OPTIONS,
    *,
    reason: str | None = None,
) -> LinkResult:
    """Resets one failed link and queues its job, or does neither.

    If the job is running, changes nothing. Replaces a stale job. Keeps a waiting job, unless two
    looks, `DOCORA_OPS_DRIFT_GRACE` seconds apart, find that no worker would take it.

    With `options.now`, also exempts the job from the hold of its app. A waiting job is exempted
    even if its link is not failed; then, the link stays as it is.

    app: id or name, or an unambiguous prefix of either.
    repository: id, `owner/name` or GitHub URL.
    reason: for the audit entry.

    Raises a DocoraOpsError that says why nothing was changed.
    """
    return _change(docora, Action.RETRY, app, repository, options, reason)


def resync(
    docora: Docora,
    app: str,
    repository: str,
    options: ChangeOptions = NO_OPTIONS,
    *,
    reason: str | None = None,
) -> LinkResult:
    """Resets a link of any status, deletes its delivery records, and queues its job.

    With `options.update`, marks the records as outdated instead of deleting them. With
    `options.path`, deletes or marks only the records of matching files.

    app: id or name, or an unambiguous prefix of either.
    repository: id, `owner/name` or GitHub URL.
    reason: for the audit entry.

    Raises NotFoundError if `options.path` matches neither a delivered file nor a file of the stored
    commit; otherwise, a DocoraOpsError that says why nothing was changed.
    """
    if options.path:
        link_to_resync(docora, app, repository, options.path)
    return _change(docora, Action.RESYNC, app, repository, options, reason)


def link_to_resync(
    docora: Docora, app: str, repository: str, path: str | None = None
) -> tuple[Link, int]:
    """Returns the link and the number of files that a resync would send again.

    These are the files with a delivery record. With `path`, files of the stored commit without a
    record count, too, because every snapshot sends them.

    path: count only files whose path matches (case-sensitive; `*` matches any text). Raises
    NotFoundError if there are none.
    """
    link = resolve_link(docora.database, app, repository)
    files = count_deliveries(docora.database, [link.ref], path=path)
    if path:
        files += count_undelivered(docora.database, link.ref, path=path)
        if not files:
            raise NotFoundError(
                f"no file of {link.payload.link_name} matches {mask(path)!r}, neither delivered "
                "nor in the stored commit",
                hint=f"to list what was delivered: docora-ops deliveries {link.ref.words} --files",
            )
    return link, files


def _change(
    docora: Docora,
    action: Action,
    app: str,
    repository: str,
    options: ChangeOptions,
    reason: str | None,
) -> LinkResult:
    if options.front:
        require_rq_for_front(docora)
    database, queue = docora.database, docora.queue
    require_right_workers(docora)  # reads Redis before the transaction begins
    with database.consistent_reads():  # one transaction instead of one per statement
        link = resolve_link(database, app, repository)
        workers = warn_of_workers(docora)
        require_pair(docora)
    claiming = _claiming_of(docora, action, link, options)
    audit = AuditEntries(docora.describe_change(action, reason, options, **link.names), 1)
    changer = Changer(
        database,
        queue,
        action,
        claiming,
        options,
        lambda _: audit.start(),
        waits_for_circuits=True,
    )
    change = changer.preview if options.dry_run else changer.change
    changed = change([link.ref])
    if changed.later:
        for _ in changer.find_misplaced(changed.later, delay=docora.settings.drift_grace):
            pass
        changer.wait_for_rows()
        changed = change([link.ref])
    [item] = changed.outcomes
    outcome = item.outcome
    if outcome is Outcome.NOT_QUEUED:
        raise JobUnreadableError(
            f"job {link.ref.job_id!r} can't be queued: {item.error_message}",
            hint="inspect the Redis key, and delete it if nothing needs it",
        )
    if outcome is Outcome.SKIPPED:  # the link has changed since it was read, or is gone
        now = read_link(database, link.ref.app_id, link.ref.repository_id)
        if now is None or now.ref != link.ref:
            raise gone(link.ref.app_id, link.ref.repository_id)
        _claiming_of(docora, action, now, options)  # raises the error that its new state calls for
        raise _not_failed(docora, now)
    if outcome is Outcome.ALREADY_RUNNING and action is Action.RESYNC:
        raise SnapshotRunningError(
            f"the snapshot of {link.payload.link_name} is running; a resync now would be lost",
            hint="when it has ended, run it again",
            details={"status": link.status, "job": JobState.RUNNING},
        )
    try:
        audit.has_begun, audit.deliveries = changed.has_written, changed.deliveries
        counts: dict[Outcome, int] = {outcome: 1}
        audit.write_end(docora.redis, counts, None)
    except RedisError as error:
        not_finished = "the change was made, but history shows it as not finished"
        docora.warn(f"{not_finished}: {error.message}")
    is_changed = options.reset_circuit and outcome.is_put_to_work
    is_reset = is_changed and bool(changed.circuits_reset)
    queued_when = ""
    if outcome is Outcome.RESET:
        queued_when = when_docora_queues(workers, docora.settings.scan_interval)
    return LinkResult(
        action=action,
        link=link,
        outcome=outcome,
        workers=workers,
        circuit_open_until=None if is_changed else link.circuit_open_until,
        circuit_reset=is_reset if options.reset_circuit else None,
        deliveries_cleared=changed.deliveries,
        update=options.update,
        path=options.path,
        dry_run=options.dry_run,
        queued_when=queued_when,
        run=audit.run if audit.has_ended else "",
    )


def _claiming_of(docora: Docora, action: Action, link: Link, options: ChangeOptions) -> Claiming:
    """Returns how to claim the link. Raises an error if its state does not allow the change.

    A resync allows any status; a retry needs a failed link, with two exceptions:

    - The app is held, and the link's job waits: the row does not change, and the job is exempted.
    - With BullMQ, the link is pending, and `--reset-circuit` closes its open circuit.

    With BullMQ, an open circuit is refused without `--reset-circuit`, because Docora's scheduler
    would leave the link alone. If the app is held, any change is refused without `--now`.
    """
    if not link.ref.has_valid_job_id:
        raise invalid_job_id(link.ref)
    can_push, hold = docora.queue.can_push, docora.read_holds().get(link.ref.app_id)
    is_behind_circuit = link.circuit_is_open and not can_push
    statuses = [] if action is Action.RESYNC else [LinkStatus.FAILED]
    if statuses and is_behind_circuit and options.reset_circuit:
        statuses.append(LinkStatus.PENDING_SNAPSHOT)
    # The circuit must still be closed when the link is claimed.
    open_circuit = None if can_push or options.reset_circuit else False
    claiming = Claiming.of_matching(LinkFilter(statuses=statuses, open_circuit=open_circuit))
    if statuses and link.status not in statuses:
        claiming = Claiming.of_matching(LinkFilter(), resets=False)
        if not hold or job_state(docora.database, docora.queue, link.ref) is not JobState.WAITING:
            raise _not_failed(docora, link)
    elif is_behind_circuit and not options.reset_circuit:
        raise CircuitOpenError(
            link.behind_circuit,
            hint="add --reset-circuit to close the circuit, too",
            details={"status": link.status, "circuit_open_until": link.circuit_open_until},
        )
    if hold and not options.now:
        app_id = quote(link.ref.app_id)
        raise AppHeldError(
            f"app {mask(link.payload.app_name)!r} is {hold.sentence}",
            hint=f"add --now to exempt this one job; to end the hold: docora-ops release {app_id}",
            details={"held": hold},
        )
    return claiming


def _not_failed(docora: Docora, link: Link) -> NotFailedError:
    queue, status, words = docora.queue, link.status, link.ref.words
    job = job_state(docora.database, queue, link.ref)
    is_waiting = job is JobState.WAITING
    if is_waiting and queue.sweep and queue.sweep.misplaced([link.ref.job_id]):
        hint = f"its job waits in no list; to queue it again: docora-ops repair {words}"
    elif is_waiting:
        hint = "its job is waiting in the queue: nothing needs to be done"
    elif job is JobState.RUNNING:
        hint = "its snapshot is running: wait for it to end"
    elif queue.docora_picks_up(status, Answer(job)):
        when = when_docora_queues(queue.use.workers, docora.settings.scan_interval)
        hint = f"Docora's scheduler queues it {when}"
        if link.circuit_is_open:
            hint = f"{link.behind_circuit}; to close it: docora-ops retry {words} --reset-circuit"
    elif status in {LinkStatus.PENDING_SNAPSHOT, LinkStatus.SCANNING}:
        hint = f"it has no live job; to queue it again: docora-ops repair {words}"
    else:
        hint = f"to send every file again: docora-ops resync {words}"
    return NotFailedError(
        f"Only failed links can be retried: {link.payload.link_name} is {status!r}",
        hint=hint,
        details={"status": status, "job": job},
    )
