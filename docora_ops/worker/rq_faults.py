"""Works around faults of RQ. Each has its own function, to be deleted when RQ is fixed."""

from collections.abc import Callable
from itertools import groupby
from operator import itemgetter
from typing import Any
from uuid import uuid4

from redis import Redis
from redis.client import Pipeline
from redis.lock import Lock
from rq import Queue, Worker
from rq.exceptions import InvalidJobOperation
from rq.executions import Execution, ExecutionRegistry
from rq.intermediate_queue import IntermediateQueue
from rq.job import Job, JobStatus
from rq.utils import current_timestamp
from rq.worker_registration import register

_MAINTENANCE_TTL = 120  # seconds
_RECOVERY_TTL = 90  # seconds for which a job counts as running while it is recovered


def register_again(worker: Worker, pipeline: Pipeline) -> None:
    """Adds the whole registration of a worker to the pipeline of its heartbeat.

    Fault of RQ 3.0, in `rq.worker.BaseWorker.heartbeat`: after Redis was emptied, the worker is no
    longer listed.
    """
    fields = worker.serialize() | {"state": worker.get_state()}
    pipeline.hset(worker.key, mapping=fields)
    register(worker, pipeline)


def maintenance_lock(client: Redis, queue: Queue) -> Lock:
    """Returns RQ's lock for maintenance, with a TTL of two minutes.

    Fault of RQ 3.0, in `rq.worker.BaseWorker.clean_registries`: a killed worker keeps the lock for
    15 minutes.
    """
    return Lock(client, queue.registry_cleaning_key, timeout=_MAINTENANCE_TTL)


def remove_from_intermediate_list(job: Job, queue: Queue, pipeline: Pipeline) -> None:
    """Removes a job from RQ's intermediate list, in the pipeline that ends the job's execution.

    The list holds the jobs that a worker has taken but not begun.

    Fault of RQ 3.0, in `rq.executions.cleanup_execution`: the id of a job that was killed before it
    began stays in the list, and RQ fails the job a minute later.
    """
    pipeline.lrem(queue.intermediate_queue_key, 1, job.id)


def clean_registries(queue: Queue, was_abandoned: Callable[..., None]) -> None:
    """Cleans the registries of a queue: queues or fails the jobs of killed workers, one by one.

    Fault of RQ 3.0, in `rq.registry.StartedJobRegistry.cleanup`: counts the failures of all these
    jobs before it queues the first one again. Meanwhile, the jobs do not count as live, so a
    command could queue them, too. Here, each job counts as running until RQ has handled it.

    was_abandoned: called with each job of a killed worker, to count its failure.
    """
    client, started = queue.connection, queue.started_job_registry
    expired: Any = client.zrangebyscore(started.key, 0, current_timestamp(), withscores=True)
    for score, entries in groupby(expired, itemgetter(1)):
        job_ids = [started.parse_job_id(entry) for entry, _ in entries]
        executions = [Execution(uuid4().hex, job_id, client) for job_id in job_ids]
        with client.pipeline() as pipeline:
            for execution in executions:
                execution.save(_RECOVERY_TTL, pipeline)
                of_job = ExecutionRegistry(execution.job_id, client)
                of_job.add(execution, _RECOVERY_TTL, pipeline)
            pipeline.execute()
            try:
                started.cleanup(score, [was_abandoned])
            finally:
                for execution in executions:
                    pipeline.delete(execution.key)
                    ExecutionRegistry(execution.job_id, client).remove(execution, pipeline)
                pipeline.execute()
    queue.finished_job_registry.cleanup()
    queue.failed_job_registry.cleanup()
    queue.ready_job_registry.cleanup()


def begin_stuck_job(worker: Worker, job: Job, queue: Queue) -> Execution:
    """Makes a job that a worker took but never began count as running. Returns its new execution.

    Fault of RQ 3.0, in `rq.intermediate_queue.IntermediateQueue.cleanup`: until RQ has failed the
    job, the job counts as waiting. So a retry would keep the job, although it never runs.

    Also deletes the time at which RQ first saw the job in the intermediate list. Otherwise, RQ
    could fail the job's next try before it begins.
    """
    intermediate: IntermediateQueue = queue.intermediate_queue
    with worker.connection.pipeline() as pipeline:
        execution = Execution.create(job, _RECOVERY_TTL, pipeline, worker_name=worker.name)
        pipeline.delete(intermediate.get_first_seen_key(job.id))
        pipeline.execute()
    return execution


def is_queued_again(client: Redis, job: Job, execution: Execution) -> bool:
    """Tells whether the failure of an execution is recorded, and the job waits for its next try.

    Fault of RQ 3.0, in `rq.worker.Worker.monitor_work_horse`: if a process is killed just after it
    has recorded a failure, RQ records the failure again, and queues the job twice.
    """
    if client.zscore(job.started_job_registry.key, execution.composite_key) is not None:
        return False
    try:
        return job.get_status() in {JobStatus.QUEUED, JobStatus.SCHEDULED}
    except InvalidJobOperation:
        return False
