"""Takes jobs from RQ's list for a worker: obeys holds, and shares the slots among the apps.

Each worker that takes jobs is a slot, because it runs one job at a time.
"""

import json
import time
from enum import StrEnum
from typing import cast

from redis import Redis
from rq.job import Job

from docora_ops.queue.holds import HOLDS
from docora_ops.queue.redis_client import script_of, text_of
from docora_ops.queue.rq_keys import EXECUTION, EXECUTIONS_OF_WORKER, INTERMEDIATE, LIST
from docora_ops.queue.rq_workers import NO_JOB_REASON, workers_by_name

_PAGE = 2000  # ids that one call reads
_MOST_COUNTED = 100_000  # waiting jobs whose apps are counted
_INTERVAL = 2  # seconds between two counts, at least
# Seconds of pause per second of counting, for all workers together: Redis spends a twentieth of its
# time on counting.
_PAUSES = 20
# Up to this number of slots, each worker reads all of them every second. Beyond it, the pause grows
# faster than the number: together, 1,600 workers read 5,000 slots per second, not 40,000.
_SLOTS_EACH_SECOND = 25


class Finding(StrEnum):
    """The result of a search of the list."""

    TAKEN = "taken"
    MORE = "more"  # nothing so far; search on at once
    FULL = "full"  # the waiting jobs belong to apps that are held or have no share left
    HELD = "held"  # all waiting jobs belong to apps that are held
    EMPTY = "empty"


class JobTaker:
    """Takes the next job for a worker, in place of RQ's `Queue.dequeue_any`.

    Its methods raise the client's RedisError.

    reserves: leave one slot free while only one app has live jobs.
    """

    def __init__(self, client: Redis, *, reserves: bool) -> None:
        self._client = client
        self._script = client.register_script(script_of("denials.lua", "take.lua"))
        self._config = {
            "list": LIST,
            "intermediate": INTERMEDIATE,
            "execution_prefix": EXECUTION,
            "job_prefix": Job.redis_job_namespace_prefix,
            "holds": HOLDS,
            "page": _PAGE,
            "reserves": reserves,
        }
        self._look = b""
        self._is_empty = False
        self._slots: list[str] = []
        self._apps = 0
        self._slots_until = self._apps_until = 0.0

    def take(self) -> tuple[Finding, str]:
        """Takes the first job that may run: moves its id to RQ's intermediate list.

        Returns the result of the search, and the id of the job, which is empty if none was taken.
        Unless the finding is TAKEN or MORE, call `wait` before the next call.
        """
        if self._is_empty:  # until `wait` sees a job
            return Finding.EMPTY, ""
        if time.monotonic() >= self._slots_until:
            workers = workers_by_name(self._client, NO_JOB_REASON)
            self._slots = [name for name, reason in workers.items() if not reason]
            pause = max(1, (len(self._slots) / _SLOTS_EACH_SECOND) ** 1.5)
            self._slots_until = time.monotonic() + pause
        answer, *rest = self._run("take", self._look)
        if answer == b"uncounted":
            self._count_apps()
            return Finding.MORE, ""
        finding = Finding(text_of(answer))
        self._look = rest[0] if rest else b""
        self._is_empty = finding is Finding.EMPTY
        if finding is Finding.FULL and self._apps > int(rest[1]):
            # All waiting apps have running jobs or are held, so there are fewer apps than counted.
            self._apps, self._look = int(rest[1]), b""
            return Finding.MORE, ""
        return finding, text_of(rest[1]) if finding is Finding.TAKEN else ""

    def wait(self, seconds: int) -> None:
        """Waits for `seconds`. If `take` found no job in the list, waits only until one is added.

        Takes no job.
        """
        if not self._is_empty:
            time.sleep(seconds)
        # Moves the first job to where it was, so that nothing need be put back. One job wakes all
        # waiting workers, but it costs them little to find the list empty again.
        elif self._client.blmove(LIST, LIST, seconds, src="LEFT", dest="LEFT") is not None:
            self._is_empty = False

    def _run(self, mode: str, argument: bytes | int = b"") -> list[bytes]:
        is_counted = time.monotonic() < self._apps_until
        config = self._config | {
            "workers": [EXECUTIONS_OF_WORKER.format(name) for name in self._slots],
            "apps": self._apps if is_counted else None,
        }
        return cast("list[bytes]", self._script(args=[mode, json.dumps(config), argument]))

    def _count_apps(self) -> None:
        """Counts the apps that have running jobs, or are not held and have waiting jobs.

        Reads only the first 100,000 waiting jobs.
        """
        began, apps, place = time.monotonic(), set[bytes](), 0
        while 0 <= place < _MOST_COUNTED:
            _, following, *counted = self._run("count", place)
            place = int(following)
            apps.update(counted)
        self._apps = len(apps)
        end = time.monotonic()
        pause = max(_INTERVAL, _PAUSES * len(self._slots) * (end - began))
        self._apps_until = end + pause
