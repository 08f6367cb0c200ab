"""What our worker and job override of RQ's, so that an upgrade of RQ shows here what changed."""

import dis
import inspect
from types import FunctionType

import pytest
from rq import Queue, Worker
from rq.job import Job

from docora_ops.worker.rq_worker import SnapshotWorker
from docora_ops.worker.tries import SnapshotJob
from tests.support.docora import QUEUE, Docora

METHODS_OF_WORKER = {
    "cleanup_execution(job, pipeline, execution=None)",
    "execute_job(job, queue)",
    "fork_work_horse(job, queue)",
    "handle_exception(job, *exc_info)",
    "handle_job_failure(job, queue, started_job_registry=None, exc_string='', execution=None)",
    "heartbeat(timeout=None, pipeline=None)",
    "main_work_horse(job, queue)",
    "maintain_heartbeats(job, execution)",
    "perform_job(job, queue, execution)",
    "serialize()",
    "wait_for_horse()",
}
METHODS_OF_JOB = {
    "get_retry_interval()",
    "heartbeat(timestamp, ttl, pipeline=None, xx=False)",
    "retry(queue, pipeline)",
    "set_status(status, pipeline=None)",
}
CHANGED_IN_WORKER = {"_horse_pid", "executions", "last_heartbeat"}
"""Attributes of RQ's worker to which our methods assign."""


def test_the_worker_overrides_these_methods_of_rqs(docora: Docora) -> None:
    worker = Worker([Queue(QUEUE, connection=docora.redis)], connection=docora.redis)
    assert overridden(SnapshotWorker, Worker) == (METHODS_OF_WORKER, METHODS_OF_WORKER)
    assert assigned(SnapshotWorker) & {*dir(worker)} == CHANGED_IN_WORKER


def test_the_job_overrides_these_methods_of_rqs(docora: Docora) -> None:
    job = Job.create("module.function", connection=docora.redis)
    assert overridden(SnapshotJob, Job) == (METHODS_OF_JOB, METHODS_OF_JOB)
    assert assigned(SnapshotJob) & {*dir(job)} == set()


@pytest.mark.parametrize(("ours", "theirs"), [(SnapshotWorker, Worker), (SnapshotJob, Job)])
def test_each_override_says_what_it_replaces(ours: type, theirs: type) -> None:
    for name, method in own(ours).items():
        if hasattr(theirs, name) and isinstance(method, FunctionType):
            assert (inspect.getcomments(method) or "").startswith("# RQ"), name


def classes(ours: type) -> list[type]:
    """Our classes, without those of RQ that they inherit from."""
    return [each for each in ours.__mro__ if each.__module__.startswith("docora_ops.")]


def own(ours: type) -> dict[str, object]:
    """All that our classes define, without what Python defines for each class."""
    return {
        name: value
        for each in classes(ours)
        for name, value in vars(each).items()
        if name[:2] != "__"
    }


def overridden(ours: type, theirs: type) -> tuple[set[str], set[str]]:
    """What of RQ's our classes define, too: as they define it, and as RQ does."""
    names = [name for name in own(ours) if hasattr(theirs, name)]
    return {signature(ours, name) for name in names}, {signature(theirs, name) for name in names}


def signature(cls: type, name: str) -> str:
    _, *parameters = inspect.signature(getattr(cls, name)).parameters.values()
    return f"{name}({', '.join(str(p.replace(annotation=p.empty)) for p in parameters)})"


def assigned(ours: type) -> set[str]:
    """The attributes to which our methods assign."""
    methods = [vars(each)["__init__"] for each in classes(ours) if "__init__" in vars(each)]
    methods += [value for value in own(ours).values() if isinstance(value, FunctionType)]
    instructions = (each for method in methods for each in dis.get_instructions(method))
    return {each.argval for each in instructions if each.opname == "STORE_ATTR"}
