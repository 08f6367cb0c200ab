"""Running Lua scripts, which get the names of RQ's keys as an argument."""

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

from docora_ops.queue.redis_client import redis_errors, with_rows_locked
from docora_ops.queue.registries import REGISTRIES, registry_key
from docora_ops.settings import Settings


class JobScript:
    """A script about the jobs of one queue, behind the functions of judge.lua."""

    def __init__(self, settings: Settings, client: Redis, name: str) -> None:
        self._client = client
        self._client_with_rows_locked = with_rows_locked(client)
        self._wip_key = registry_key(StartedJobRegistry, settings.queue_name)
        self._keys = _key_names(settings.queue_name)
        self._expired_at = 0
        self._expired: dict[str, list[str]] | None = None
        """Executions in the registry of running jobs that had expired then, by job id."""
        sources = [files("docora_ops.queue").joinpath(part) for part in ("judge.lua", name)]
        self._script = client.register_script(
            "".join(source.read_text(encoding="utf-8") for source in sources)
        )

    def run(
        self,
        mode: str,
        job_ids: Sequence[str],
        arguments: Sequence[str | int | bytes],
        config: Mapping[str, object],
        *,
        rows_locked: bool = False,
    ) -> list[str]:
        """Runs the script and returns its answers. Raises RedisError.

        `rows_locked`: give Redis a few seconds only.
        """
        client = self._client_with_rows_locked if rows_locked else self._client
        with redis_errors(self._client, rows_locked=rows_locked):
            if self._expired is None:
                self._expired_at, self._expired = self._read_expired(client)
            expired = self._expired
            known = {job_id: expired[job_id] for job_id in job_ids if job_id in expired}
            config = {**self._keys, **config, "expired": known, "expired_at": self._expired_at}
            replies = self._script(args=[mode, json.dumps(config), *arguments], client=client)
        # Answers hold fields of jobs, which others may have written.
        return [reply.decode(errors="surrogateescape") for reply in cast("list[bytes]", replies)]

    def _read_expired(self, client: Redis) -> tuple[int, dict[str, list[str]]]:
        """Reads the expired executions, once: there may be a hundred thousand."""
        now = client.time()[0]
        members = client.zrange(self._wip_key, cast("int", "-inf"), now, byscore=True)
        expired: dict[str, list[str]] = {}
        for member in cast("list[bytes]", members):
            # Scripts take UTF-8 only: RQ removes other members.
            text = member.decode(errors="replace")
            expired.setdefault(text.partition(":")[0], []).append(text)
        return now, expired


def _key_names(queue_name: str) -> dict[str, object]:
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
