"""Our Lua scripts, which RQ's names of its keys are told to."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import cast

from redis import Redis
from rq import Queue
from rq.defaults import RQ_KEY_PREFIX
from rq.executions import ExecutionRegistry
from rq.job import Job
from rq.registry import StartedJobRegistry
from rq.results import Result

from docora_ops.queue.connection import describe, redis_errors
from docora_ops.queue.registries import REGISTRIES, registry_key
from docora_ops.settings import Settings


class JobScript:
    """A script about the jobs of one queue; what judge.lua says comes before it."""

    def __init__(self, settings: Settings, client: Redis, name: str) -> None:
        self._where = describe(settings)
        self._keys = _key_names(settings.queue_name)
        folder = files("docora_ops.queue")
        self._script = client.register_script(
            "".join(
                folder.joinpath(part).read_text(encoding="utf-8") for part in ("judge.lua", name)
            )
        )

    def run(
        self, mode: str, config: Mapping[str, object], arguments: Sequence[str | int | bytes]
    ) -> list[str]:
        """Its answers. Raises RedisError."""
        with redis_errors(self._where):
            replies = self._script(args=[mode, json.dumps({**self._keys, **config}), *arguments])
        # Fields of jobs are in there, and anybody may have written those.
        return [reply.decode(errors="surrogateescape") for reply in cast("list[bytes]", replies)]


def _key_names(queue_name: str) -> dict[str, object]:
    """RQ's names of its keys, as prefixes to the name of a queue or the id of a job."""
    return {
        "queue": queue_name,
        "queue_prefix": Queue.redis_queue_namespace_prefix,
        "queues_key": Queue.redis_queues_keys,
        "job_prefix": Job.redis_job_namespace_prefix,
        "results_prefix": Result.get_key(""),  # type: ignore[no-untyped-call]
        "executions_prefix": registry_key(ExecutionRegistry, ""),
        "execution_prefix": f"{RQ_KEY_PREFIX}:execution:",
        "wip_prefix": registry_key(StartedJobRegistry, ""),
        **{f"{name}_prefix": registry_key(each, "") for name, each in REGISTRIES.items()},
        "rate_limit_prefix": f"{RQ_KEY_PREFIX}:rl:",
        "registry_prefixes": [registry_key(each, "") for each in REGISTRIES.values()],
    }
