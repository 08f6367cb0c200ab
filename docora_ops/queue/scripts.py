"""The names of RQ's keys, and Lua scripts about jobs, which get these names as an argument."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files
from typing import cast

from redis import Redis
from rq import Queue
from rq.defaults import RQ_KEY_PREFIX
from rq.executions import ExecutionRegistry
from rq.intermediate_queue import IntermediateQueue
from rq.job import Job
from rq.registry import (
    BaseRegistry,
    CanceledJobRegistry,
    DeferredJobRegistry,
    FailedJobRegistry,
    FinishedJobRegistry,
    ReadyJobRegistry,
    ScheduledJobRegistry,
    StartedJobRegistry,
)

from docora_ops.jobs import QUEUE_NAME
from docora_ops.queue.redis_client import prepare, redis_errors, with_rows_locked

LIST = Queue.redis_queue_namespace_prefix + QUEUE_NAME
"""The list of waiting jobs."""
INTERMEDIATE = IntermediateQueue.get_intermediate_queue_key(LIST)
"""The list of jobs that workers have just taken."""
REGISTRIES: dict[str, type[BaseRegistry]] = {
    "failed": FailedJobRegistry,
    "finished": FinishedJobRegistry,
    "canceled": CanceledJobRegistry,
    "deferred": DeferredJobRegistry,
    "scheduled": ScheduledJobRegistry,
    "ready": ReadyJobRegistry,
}
"""All registries of a queue, except that of running jobs."""


def registry_key(registry: type[BaseRegistry], queue: str = QUEUE_NAME) -> str:
    """Returns the key of a queue's registry, or the prefix of such keys for an empty name."""
    return registry.key_template.format(queue)


class JobScript:
    """A script about the jobs of one queue, behind the functions of judge.lua."""

    def __init__(self, client: Redis, name: str) -> None:
        self._client = client
        self._client_with_rows_locked = with_rows_locked(client)
        sources = [files("docora_ops.queue").joinpath(part) for part in ("judge.lua", name)]
        self._script = client.register_script(
            "".join(source.read_text(encoding="utf-8") for source in sources)
        )

    def prepare(self) -> None:
        """Connects and loads the script before rows are locked. Raises RedisError."""
        prepare(self._client_with_rows_locked, self._script)

    def run(
        self,
        mode: str,
        arguments: Sequence[str | bytes],
        *,
        rows_locked: bool = False,
        **config: object,
    ) -> list[str]:
        """Runs the script and returns its answers. Raises RedisError.

        rows_locked: give Redis a few seconds only, as rows are locked meanwhile.
        config: values for the script; None leaves a value out.
        """
        client = self._client_with_rows_locked if rows_locked else self._client
        given = {name: value for name, value in config.items() if value is not None}
        with redis_errors(self._client, rows_locked=rows_locked):
            arguments = [mode, json.dumps(_KEYS | given), *arguments]
            replies = cast("list[bytes]", self._script(args=arguments, client=client))
        return [reply.decode(errors="surrogateescape") for reply in replies]


# Prefixes to the name of a queue or a job id.
_KEYS: dict[str, object] = {
    "queue": QUEUE_NAME,
    "queue_prefix": Queue.redis_queue_namespace_prefix,
    "queues_key": Queue.redis_queues_keys,
    "job_prefix": Job.redis_job_namespace_prefix,
    "results_prefix": f"{RQ_KEY_PREFIX}:results:",
    "executions_prefix": registry_key(ExecutionRegistry, ""),
    "execution_prefix": f"{RQ_KEY_PREFIX}:execution:",
    "wip_prefix": registry_key(StartedJobRegistry, ""),
    **{f"{name}_prefix": registry_key(each, "") for name, each in REGISTRIES.items()},
    "registry_prefixes": [registry_key(each, "") for each in REGISTRIES.values()],
}
