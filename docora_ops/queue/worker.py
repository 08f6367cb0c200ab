"""RQ's worker, with an eye on links whose job is killed."""

from __future__ import annotations

from typing import Any, Protocol

from redis import Redis
from rq import Queue, Worker
from rq.exceptions import AbandonedJobError
from rq.executions import Execution
from rq.job import Job

from docora_ops.errors import SnapshotError
from docora_ops.queue.tries import Tries
from docora_ops.settings import Settings

_WORKER_TTL = 45
"""Seconds; an idle worker looks up 15 s earlier."""
_MAINTENANCE_INTERVAL = 30
_MAINTENANCE_LOCK_LIFE = 120


class Caretaker(Protocol):
    """Brings a link in order whose job could not do it itself. Nothing may be raised."""

    def job_was_killed(
        self, app_id: str, repository_id: str, tries: Tries, *, what: str, stopped: bool = False
    ) -> None:
        """The process of the job is gone; `what` happened to it. `stopped`: on purpose."""

    def tidy_up(self) -> None:
        """Look for links that nobody works on any more."""


class SnapshotWorker(Worker):
    """A worker that lets no killed job leave its link behind.

    RQ's own defaults notice an abandoned job after ten minutes, and while they are busy never.
    """

    def __init__(self, settings: Settings, client: Redis, name: str, caretaker: Caretaker) -> None:
        super().__init__(
            [_Queue(settings.queue_name, connection=client)],
            name=name,
            connection=client,
            worker_ttl=_WORKER_TTL,
            maintenance_interval=_MAINTENANCE_INTERVAL,
            work_horse_killed_handler=self._horse_was_killed,
            exception_handlers=[self._job_was_abandoned],
        )
        self.log_result_lifespan = False
        self.stop_was_requested = False
        """Whether somebody has asked it to end."""
        self._caretaker = caretaker

    def handle_warm_shutdown_request(self) -> None:
        """Note it, beside what RQ does."""
        self.stop_was_requested = True
        super().handle_warm_shutdown_request()  # type: ignore[no-untyped-call]

    def run_maintenance_tasks(self) -> None:
        """RQ's, and ours."""
        super().run_maintenance_tasks()  # type: ignore[no-untyped-call]
        self._caretaker.tidy_up()

    def maintain_heartbeats(self, job: Job, execution: Execution) -> None:
        """Beside the heartbeats, maintenance: a worker may be busy for an hour."""
        super().maintain_heartbeats(job, execution)
        if self.should_run_maintenance_tasks:
            self.run_maintenance_tasks()

    def handle_exception(self, job: Job, *exc_info: Any) -> None:
        """Say what RQ says, unless the job has said it in a line of its own."""
        if not isinstance(exc_info[1], SnapshotError):
            super().handle_exception(job, *exc_info)

    def _horse_was_killed(self, job: Job, _pid: int, status: int, _usage: object) -> None:
        self._take_care(job, f"its process was killed (wait status {status})")

    def _job_was_abandoned(self, job: Job, kind: type[BaseException], *_: object) -> None:
        if kind is AbandonedJobError:
            self._take_care(job, "its worker was killed")

    def _handle_stopped_job(self, job: Job, queue: Queue, execution: Execution) -> None:
        self._take_care(job, "it was stopped by an operator", stopped=True)
        super()._handle_stopped_job(job, queue, execution)

    def _take_care(self, job: Job, what: str, *, stopped: bool = False) -> None:
        ids = _link_ids(job)
        if ids is not None:
            self._caretaker.job_was_killed(*ids, Tries(job), what=what, stopped=stopped)


class _Queue(Queue):
    def acquire_maintenance_lock(self) -> bool:
        # RQ's own lives for 15 minutes: were its holder killed, nobody would clean up until then.
        taken = self.connection.set(
            self.registry_cleaning_key, 1, nx=True, ex=_MAINTENANCE_LOCK_LIFE
        )
        return bool(taken)


def _link_ids(job: Job) -> tuple[str, str] | None:
    """App and repository that the job is about; None for a job of somebody else's."""
    try:
        arguments = job.kwargs
    except Exception:  # noqa: BLE001 - whatever unpickling may raise
        return None
    app_id, repository_id = arguments.get("app_id"), arguments.get("repository_id")
    if isinstance(app_id, str) and isinstance(repository_id, str):
        return app_id, repository_id
    return None
