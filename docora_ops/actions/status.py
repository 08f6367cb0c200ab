"""`status` and `metrics`: the state of links, queue and workers, read once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from docora_ops.actions.docora import Docora
from docora_ops.database import status as sql
from docora_ops.database.status import LinkCounts
from docora_ops.error_groups import group_errors
from docora_ops.errors import DocoraOpsError, RefusedError, ServerError
from docora_ops.links import RESUME_RQ, App, Backend, LinkStatus
from docora_ops.queue import operations as record
from docora_ops.queue.backend import QueueCounts, Worker
from docora_ops.queue.operations import Operation
from docora_ops.text import amount, duration

OLD_PASS = 10  # scan intervals without a pass of `schedule` that are too many
NO_ERROR = "no error recorded"
_OPERATIONS = 3
_ERRORS = 20
_QUEUE_IS_OLD = 600  # seconds that a job waits before the verdict says that workers are too slow


@dataclass(frozen=True)
class FailedApp:
    """An app with failed links."""

    app: App
    links: int


@dataclass(frozen=True)
class Status:
    """The state of a Docora. What comes from a server that is down is None or empty.

    verdict: one sentence, the worst first; next_command: what to run next, if anything.
    failed_errors: failed links by error, at most 20 errors, most links first.
    last_pass_at: the end of the last pass of `schedule`.
    """

    verdict: str
    next_command: str | None
    postgres: str
    redis: str
    backend: Backend | None
    links: LinkCounts | None
    failed_apps: Sequence[FailedApp]
    failed_errors: Mapping[str, int]
    queue: QueueCounts | None
    workers: Sequence[Worker] | None
    last_pass_at: datetime | None
    operations: Sequence[Operation]
    errors: Sequence[str]

    @property
    def oldest_waiting_seconds(self) -> int | None:
        """Returns how long the oldest waiting job has waited, by the clock of Postgres."""
        at = self.queue.oldest_waiting_at if self.queue else None
        if at is None or self.links is None:
            return None
        return max(0, int((self.links.read_at - at).total_seconds()))


def read_status(docora: Docora, *, apps: int | None = 3) -> tuple[Status, DocoraOpsError | None]:
    """Reads both servers. Returns their state, and the error of a server that is down.

    apps: read at most this many apps with failed links; None for all.
    """
    from docora_ops.queue.connection import describe

    settings, errors = docora.settings, list[DocoraOpsError]()
    links = None
    failed_apps: list[FailedApp] = []
    failed_errors: dict[str, int] = {}
    try:
        with docora.database.transaction():
            links = sql.count_links(docora.database, settings.overdue_after_seconds)
            if links.of(LinkStatus.FAILED):
                by_app = sql.failed_by_app(docora.database, apps)
                failed_apps = [FailedApp(app, count) for app, count in by_app]
                groups = group_errors(sql.failed_by_error(docora.database))[:_ERRORS]
                failed_errors = {group.error_message or NO_ERROR: group.links for group in groups}
    except ServerError as error:
        errors.append(error)
    queue, workers, backend, last_pass = None, None, None, None
    operations: list[Operation] = []
    try:
        backend = docora.queue.backend
        queue, workers = docora.queue.counts(), docora.queue.workers()
        last_pass = record.last_pass(docora.redis)
        operations = record.read_recent(docora.redis, _OPERATIONS)
    except (ServerError, RefusedError) as error:
        errors.append(error)
    status = Status(
        verdict="",
        next_command=None,
        postgres=docora.database.server,
        redis=describe(docora.redis),
        backend=backend,
        links=links,
        failed_apps=failed_apps,
        failed_errors=failed_errors,
        queue=queue,
        workers=workers,
        last_pass_at=last_pass,
        operations=operations,
        errors=[error.message for error in errors],
    )
    verdict, command = _judge(status, OLD_PASS * settings.scan_interval_ms / 1000)
    values = vars(status) | {"verdict": verdict, "next_command": command}
    return Status(**values), errors[0] if errors else None


def _judge(status: Status, old_pass: float) -> tuple[str, str | None]:
    """Returns the verdict and the next command: the worst, and what stops everything, first.

    old_pass: seconds without a pass of `schedule` that are too many.
    """
    links, queue, workers = status.links, status.queue, status.workers
    if links is None or queue is None or workers is None:
        return status.errors[0], "docora-ops doctor"
    failed = links.of(LinkStatus.FAILED)
    also = f", and {amount(failed, 'link')} failed" if failed else ""
    if queue.is_suspended:
        resume = RESUME_RQ if status.backend is Backend.RQ else None
        return f"nothing is scanned: the workers are suspended{also}", resume
    if not workers and links.total:
        start = "docora-ops worker" if status.backend is Backend.RQ else None
        return f"nothing is scanned: no worker is running{also}", start
    at, is_idle = status.last_pass_at, not queue.waiting + queue.active
    if status.backend is Backend.RQ and is_idle and links.overdue > failed:
        passed = (links.read_at - at).total_seconds() if at else None
        if passed is None or passed > old_pass:
            since = "" if passed is None else f" for {duration(passed)}"
            return f"nothing is queued: no pass of schedule{since}{also}", "docora-ops schedule"
    at_work = links.total - links.of(LinkStatus.SYNCED) - failed
    has_jobs = queue.waiting + queue.active + queue.delayed
    # Beside BullMQ, a link may wait for Docora's scheduler.
    if at_work and not has_jobs and status.backend is Backend.RQ:
        text = f"the queue is empty, though {amount(at_work, 'link')} should have jobs{also}"
        return text, "docora-ops doctor"
    if failed:
        cause = ""
        if len(status.failed_errors) == 1:
            cause = f": {next(iter(status.failed_errors))}"
        word = "all" if failed == links.total else f"{failed:,} of"
        return (
            f"{word} {amount(links.total, 'link')} failed{cause}",
            "docora-ops failed --group-by error",
        )
    waiting = status.oldest_waiting_seconds or 0
    if waiting > _QUEUE_IS_OLD:
        text = f"the workers are behind: the oldest job has waited for {duration(waiting)}"
        return text, "docora-ops worker" if status.backend is Backend.RQ else None
    if links.overdue:
        text = f"{amount(links.overdue, 'link')} not scanned for too long"
        return text, "docora-ops links --overdue"
    if links.open_circuits:
        text = f"git fails for {amount(links.open_circuits, 'repository', 'repositories')}"
        return text, "docora-ops links --circuit open"
    if not links.total:
        return "there are no links", None
    if at_work:
        return f"all is well: {at_work:,} of {amount(links.total, 'link')} at work", None
    return f"all is well: {amount(links.total, 'link')} in sync", None
