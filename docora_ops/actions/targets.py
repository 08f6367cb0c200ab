"""The targets of this user and this machine, and their states."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from docora_ops.actions.checks import CheckState
from docora_ops.actions.docora import Docora
from docora_ops.actions.doctor import Diagnosis, diagnose
from docora_ops.errors import DocoraOpsError
from docora_ops.queue.redis_client import describe
from docora_ops.settings import load_settings, target_files

_PATIENCE = 3  # timeout in seconds for each reply
_GRACE = 2  # seconds until the second look
_AT_ONCE = 16  # targets


@dataclass(frozen=True)
class TargetState:
    """A target and, with `targets --check`, its state. Unknown fields are None.

    problem: why the target's file or a server can't be used, or what is critical; None if nothing.
    """

    target: str
    file: str
    protected: bool | None = None
    postgres: str | None = None  # names the server and the database
    redis: str | None = None
    failed_links: int | None = None
    overdue_links: int | None = None
    worker_count: int | None = None
    problem: str | None = None


def read_targets(*, check: bool = False) -> Sequence[TargetState]:
    """Returns the targets, sorted by name. An error of a target becomes its `problem`.

    check: make the checks of `doctor` that need only read privileges, for all targets in parallel.
    """
    files = target_files()
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(lambda target: _read(*target, check=check), files.items()))


def _read(name: str, file: Path, *, check: bool) -> TargetState:
    state = TargetState(name, str(file))
    try:
        settings = load_settings(target=name).hurried(_PATIENCE)
        settings = settings.model_copy(update={"drift_grace": min(_GRACE, settings.drift_grace)})
        state = replace(state, protected=settings.protected)
        with Docora(settings) as docora:
            state = replace(state, redis=describe(docora.redis))
            state = replace(state, postgres=docora.database.server)
            return _check(docora, state) if check else state
    except DocoraOpsError as error:
        return replace(state, problem=error.message)


def _check(docora: Docora, state: TargetState) -> TargetState:
    *_, diagnosis = diagnose(docora, read_only=True)
    assert isinstance(diagnosis, Diagnosis)  # noqa: S101 - the last event
    problems = [check.finding for check in diagnosis.checks if check.state is CheckState.CRITICAL]
    return replace(
        state,
        failed_links=diagnosis.failed_links,
        overdue_links=diagnosis.overdue_links,
        worker_count=diagnosis.worker_count,
        problem="; ".join(problems) or None,
    )
