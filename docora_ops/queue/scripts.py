"""Running Lua scripts about jobs, which get the names of RQ's keys as an argument."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files
from typing import cast

from redis import Redis
from rq import Queue
from rq.defaults import RQ_KEY_PREFIX
from rq.executions import ExecutionRegistry
from rq.job import Job
from rq.registry import StartedJobRegistry
from rq.results import Result

from docora_ops.queue.redis_client import prepare, redis_errors, with_rows_locked
from docora_ops.queue.registries import REGISTRIES, registry_key
from docora_ops.settings import Settings


class JobScript:
    """A script about the jobs of one queue, behind the functions of judge.lua."""

    def __init__(self, settings: Settings, client: Redis, name: str) -> None:
        self._client = client
        self._client_with_rows_locked = with_rows_locked(client)
        self._keys = key_names(settings.queue_name)
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
            arguments = [mode, json.dumps(self._keys | given), *arguments]
            replies = cast("list[bytes]", self._script(args=arguments, client=client))
        return [reply.decode(errors="surrogateescape") for reply in replies]


def key_names(queue_name: str) -> dict[str, object]:
    """Returns the names of RQ's keys, as prefixes to the name of a queue or a job id."""
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
