"""Running sweep.lua, with what the caller has read of the list and the expired executions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files
from typing import cast

from redis import Redis
from rq import Queue
from rq.registry import StartedJobRegistry

from docora_ops.queue.redis_client import prepare, redis_errors, with_rows_locked
from docora_ops.queue.registries import registry_key
from docora_ops.queue.scripts import key_names
from docora_ops.queue.waiting_list import ExpiredExecutions, WaitingList
from docora_ops.settings import Settings

_PAGE = 5000


class SweepScript:
    """sweep.lua behind the functions of sweep_judge.lua."""

    def __init__(self, settings: Settings, client: Redis, name: str) -> None:
        self._client = client
        self._client_with_rows_locked = with_rows_locked(client)
        self._list_key = Queue.redis_queue_namespace_prefix + settings.queue_name
        self._wip_key = registry_key(StartedJobRegistry, settings.queue_name)
        self._keys = key_names(settings.queue_name)
        sources = [files("docora_ops.queue").joinpath(part) for part in ("sweep_judge.lua", name)]
        self._script = client.register_script(
            "".join(source.read_text(encoding="utf-8") for source in sources)
        )

    def prepare(self) -> None:
        """Connects and loads the script before rows are locked. Raises RedisError."""
        prepare(self._client_with_rows_locked, self._script)

    def run(
        self,
        mode: str,
        job_ids: Sequence[str],
        arguments: Sequence[str | int | bytes],
        waiting: WaitingList | None = None,
        *,
        expired: ExpiredExecutions | None = None,
        rows_locked: bool = False,
        **config: object,
    ) -> list[str]:
        """Runs the script and returns its answers. Raises RedisError.

        `waiting` or `expired` saves reading the expired executions, which may be many: with rows
        locked, give one of them. `rows_locked`: give Redis a few seconds.
        """
        if waiting:
            config["cutoff"] = waiting.cutoff
        client = self._client_with_rows_locked if rows_locked else self._client
        with redis_errors(self._client, rows_locked=rows_locked):
            if waiting:
                expired = waiting.expired
            expired = expired or self._read_expired(client)
            known = {id_: expired.by_job[id_] for id_ in job_ids if id_ in expired.by_job}
            config |= {**self._keys, "expired": known, "expired_at": expired.read_at}
            config = {name: value for name, value in config.items() if value is not None}
            replies = self._script(args=[mode, json.dumps(config), *arguments], client=client)
        # Answers hold fields of jobs, which others may have written.
        return [reply.decode(errors="surrogateescape") for reply in cast("list[bytes]", replies)]

    def read_waiting(self) -> WaitingList:
        """Reads the queue's list, and the expired executions."""
        with redis_errors(self._client):
            expired = self._read_expired(self._client)
            return WaitingList(self._read_list(), expired)

    def _read_list(self, attempts: int = 3) -> list[bytes]:
        """Reads the list in pieces, so that Redis is held for a few milliseconds.

        Begins at the tail, since workers pop the head: an id may only move away from what is read.
        Each piece overlaps what was read before. If it does not, all is read anew, at last at once.
        """
        read: list[bytes] = []  # the last one first
        while True:
            end = max(len(read), 1)
            piece = cast("list[bytes]", self._client.lrange(self._list_key, -end - _PAGE, -end))
            is_last = len(piece) <= _PAGE
            piece.reverse()
            if read:
                overlap = piece.index(read[-1]) + 1 if read[-1] in piece else 0
                if not overlap or piece[:overlap] != read[-overlap:]:
                    if attempts:
                        return self._read_list(attempts - 1)
                    return cast("list[bytes]", self._client.lrange(self._list_key, 0, -1))
                del piece[:overlap]
            read += piece
            if is_last:
                return read[::-1]

    def read_expired(self) -> ExpiredExecutions:
        """Reads the expired executions."""
        with redis_errors(self._client):
            return self._read_expired(self._client)

    def _read_expired(self, client: Redis) -> ExpiredExecutions:
        now = client.time()[0]
        expired = client.zrange(self._wip_key, cast("int", "-inf"), now, byscore=True)
        by_job: dict[str, list[str]] = {}
        for member in cast("list[bytes]", expired):
            # Scripts take UTF-8 only: RQ removes other members.
            text = member.decode(errors="replace")
            by_job.setdefault(text.partition(":")[0], []).append(text)
        return ExpiredExecutions(now, by_job)
