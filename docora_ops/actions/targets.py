"""The targets of this user and this machine, and their states side by side."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from docora_ops.actions.docora import Docora
from docora_ops.actions.monitoring import read_metrics
from docora_ops.errors import DocoraOpsError
from docora_ops.links import LinkStatus
from docora_ops.overview import Metrics, Stop, TargetState
from docora_ops.queue.redis_client import describe
from docora_ops.settings import load_settings, target_files

_PATIENCE = 3  # seconds for each answer
_AT_ONCE = 16  # targets


def read_targets(*, check: bool = False) -> Sequence[TargetState]:
    """Returns the targets by name. What is wrong with one of them is its `problem`.

    check: ask the servers of all targets, at the same time.
    """
    files = target_files()
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(lambda each: _read(*each, check=check), files.items()))


def _read(name: str, file: Path, *, check: bool) -> TargetState:
    state = TargetState(name, str(file))
    try:
        settings = load_settings(target=name).hurried(_PATIENCE)
        state = replace(state, protected=settings.protected)
        with Docora(settings) as docora:
            state = replace(state, redis=describe(docora.redis))
            state = replace(state, postgres=docora.database.server)
            return _check(docora, state) if check else state
    except DocoraOpsError as error:
        return replace(state, problem=error.message)


def _check(docora: Docora, state: TargetState) -> TargetState:
    found, errors = read_metrics(docora)
    links, workers, fresh = found.links_by_status, found.workers_by_state, found.freshness
    problems = [*(error.message for error in errors), *_problems(found)]
    return replace(
        state,
        failed_links=links[LinkStatus.FAILED] if links else None,
        overdue_links=fresh.overdue if fresh else None,
        worker_count=sum(workers.values()) if workers else None,
        problem="; ".join(problems) or None,
    )


def _problems(found: Metrics) -> Iterator[str]:
    """Yields what `doctor` calls critical, too."""
    workers = found.workers_by_state or {}
    if found.backend_ok is False:
        yield "workers of the other backend run, or it is unclear which do"
    elif workers and not sum(workers.values()) - workers["suspended"] - workers["silent"]:
        yield "no worker takes jobs"
    if (fresh := found.freshness) and fresh.overdue:
        yield f"{fresh.overdue_words} overdue"
    if fresh and fresh.nothing_moves:
        yield f"nothing moves: {fresh.due} due"
    if fresh and fresh.stopped is Stop.SCHEDULE:
        yield fresh.stopped.sentence
