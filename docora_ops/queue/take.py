"""Takes jobs from RQ's list for a worker: obeys holds, and shares the slots among the apps.

Each worker that takes jobs is a slot, because it runs one job at a time. The share of an app is an
equal part of the slots. take.lua sees which apps have running jobs. Each worker reads only now and
then which apps have waiting jobs, because this takes long if the list is long.
"""

import json
import time
from enum import StrEnum
from typing import cast

from redis import Redis
from rq.job import Job

from docora_ops.links import ids_of_job
from docora_ops.queue.holds import HOLDS
from docora_ops.queue.redis_client import script_of, text_of
from docora_ops.queue.rq_keys import EXECUTION, EXECUTIONS_OF_WORKER, INTERMEDIATE, LIST
from docora_ops.queue.rq_workers import NO_JOB_REASON, workers_by_name

_PAGE = 2000  # ids that one call reads
_MOST_COUNTED = 100_000  # waiting jobs whose apps are counted
# take.lua gets at most one counted app per slot, because with more apps, the share of each is one
# slot anyway. It gets this many more, because some may be held.
_MORE_APPS = 1000
_INTERVAL = 2  # seconds between two counts, at least
# Seconds of pause per second of counting, for all workers together: Redis spends at most a
# twentieth of its time on counting.
_PAUSES = 20
# Up to this number of slots, each worker reads all of them every second. Beyond it, the pause grows
# faster than the number: together, 1,600 workers read 5,000 slots per second, not 40,000.
_SLOTS_EACH_SECOND = 25


class TakeResult(StrEnum):
    """The result of a search of the list."""

    TAKEN = "taken"
    MORE = "more"  # nothing so far; search on at once
    FULL = "full"  # all waiting jobs belong to apps that are held or have no share left
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
        self._slots: list[str] = []  # for each, the key of its worker's executions
        self._apps: list[str] = []  # with waiting jobs, when they were counted last
        self._slots_until = self._apps_until = 0.0

    def take(self) -> tuple[TakeResult, str]:
        """Takes the first job that may run: moves its id to RQ's intermediate list.

        Returns the result of the search, and the id of the job, which is empty if none was taken.
        Unless the result is TAKEN or MORE, call `wait` before the next call.
        """
        if self._is_empty:  # until `wait` sees a job
            return TakeResult.EMPTY, ""
        if time.monotonic() >= self._slots_until:
            self._read_slots()
        if time.monotonic() >= self._apps_until and len(self._slots) > 1:
            self._count_apps()
        config = self._config | {"workers": self._slots, "apps": self._apps}
        answer = cast("list[bytes]", self._script(args=[json.dumps(config), self._look]))
        word, self._look, job_id = answer
        result = TakeResult(text_of(word))
        self._is_empty = result is TakeResult.EMPTY
        if result is TakeResult.FULL:
            # The search has passed over a job of each app that has waiting jobs. Other counted apps
            # no longer have any.
            passed = json.loads(text_of(self._look))["passed"]
            waiting = [app for app in self._apps if app in passed]
            if len(waiting) < len(self._apps):
                self._apps = waiting
                return TakeResult.MORE, ""
        return result, text_of(job_id)

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

    def _read_slots(self) -> None:
        workers = workers_by_name(self._client, NO_JOB_REASON)
        taking = [name for name, reason in workers.items() if not reason]
        self._slots = [EXECUTIONS_OF_WORKER.format(name) for name in taking]
        pause = max(1, (len(self._slots) / _SLOTS_EACH_SECOND) ** 1.5)
        self._slots_until = time.monotonic() + pause

    def _count_apps(self) -> None:
        """Finds the apps of the first 100,000 waiting jobs."""
        began, apps = time.monotonic(), set[str]()
        for first in range(0, _MOST_COUNTED, _PAGE):
            page = cast("list[bytes]", self._client.lrange(LIST, first, first + _PAGE - 1))
            apps.update(ids[0] for ids in map(ids_of_job, map(text_of, page)) if ids)
            if len(page) < _PAGE:
                break
        self._apps = list(apps)[: len(self._slots) + _MORE_APPS]
        end = time.monotonic()
        self._apps_until = end + max(_INTERVAL, _PAUSES * len(self._slots) * (end - began))
