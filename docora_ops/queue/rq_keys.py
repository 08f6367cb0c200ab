"""The keys of RQ's queue of snapshot jobs."""

from rq import Queue
from rq.defaults import RQ_KEY_PREFIX
from rq.executions import WORKER_EXECUTIONS_KEY_TEMPLATE, ExecutionRegistry
from rq.intermediate_queue import IntermediateQueue
from rq.job import Job
from rq.registry import (
    CanceledJobRegistry,
    DeferredJobRegistry,
    FailedJobRegistry,
    FinishedJobRegistry,
    ReadyJobRegistry,
    ScheduledJobRegistry,
    StartedJobRegistry,
)

from docora_ops.jobs import QUEUE_NAME

LIST = Queue.redis_queue_namespace_prefix + QUEUE_NAME  # waiting jobs
INTERMEDIATE = IntermediateQueue.get_intermediate_queue_key(LIST)  # jobs just taken by workers
WIP = StartedJobRegistry.key_template.format(QUEUE_NAME)  # registry of running jobs
EXECUTIONS = ExecutionRegistry.key_template.format("")  # prefix: a job's executions
EXECUTIONS_OF_WORKER = WORKER_EXECUTIONS_KEY_TEMPLATE  # to be formatted with its name
EXECUTION = f"{RQ_KEY_PREFIX}:execution:"  # prefix: one execution
RESULTS = f"{RQ_KEY_PREFIX}:results:"  # prefix: a job's results
# All other registries of the queue.
REGISTRIES = {
    "failed": FailedJobRegistry.key_template.format(QUEUE_NAME),
    "finished": FinishedJobRegistry.key_template.format(QUEUE_NAME),
    "canceled": CanceledJobRegistry.key_template.format(QUEUE_NAME),
    "deferred": DeferredJobRegistry.key_template.format(QUEUE_NAME),
    "scheduled": ScheduledJobRegistry.key_template.format(QUEUE_NAME),
    "ready": ReadyJobRegistry.key_template.format(QUEUE_NAME),
}
# RQ's keys and key prefixes, for the Lua scripts.
SCRIPT_KEYS: dict[str, object] = {
    "queues": Queue.redis_queues_keys,
    "list": LIST,
    "intermediate": INTERMEDIATE,
    "wip": WIP,
    "registries": list(REGISTRIES.values()),
    "registry_of_status": {
        "scheduled": REGISTRIES["scheduled"],
        "deferred": REGISTRIES["deferred"],
        "ready_to_enqueue": REGISTRIES["ready"],
    },
    "job_prefix": Job.redis_job_namespace_prefix,
    "results_prefix": RESULTS,
    "executions_prefix": EXECUTIONS,
    "execution_prefix": EXECUTION,
}
# A shell command that removes the queue with all jobs of links; `rq empty` keeps delayed jobs.
_SCAN = 'redis-cli -u "$REDIS_URL" --scan --pattern'
TO_REMOVE_RQ_JOBS = (
    f"{{ {_SCAN} '{RQ_KEY_PREFIX}:*:{QUEUE_NAME}'; {_SCAN} '{RQ_KEY_PREFIX}:*:app_*-repo_*'; }} | "
    'xargs -r -n 100 redis-cli -u "$REDIS_URL" del'
)
