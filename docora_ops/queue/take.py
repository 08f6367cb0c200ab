"""Takes jobs from RQ's list for a worker, so that apps share the slots and holds are obeyed.

A slot is a worker that takes jobs, since each runs one job at a time.
"""

import json
import time
from dataclasses import dataclass
from enum import StrEnum
from importlib.resources import files
from typing import cast

from redis import Redis
from rq.job import Job

from docora_ops.queue.holds import HOLDS
from docora_ops.queue.redis_answers import text_of
from docora_ops.queue.rq_keys import EXECUTION, EXECUTIONS_OF_WORKER, INTERMEDIATE, LIST
from docora_ops.queue.rq_workers import NO_JOB_REASON, workers_by_name

_PAGE = 2000  # ids that a call reads
_MOST_COUNTED = 100_000  # waiting jobs whose apps are counted
_INTERVAL = 2  # seconds between two counts, at least
# The pauses of all workers together, for each second that a count takes: a twentieth of Redis.
_PAUSES = 20
# Up to so many slots are read again each second. Each worker reads all of them, so the pause grows
# faster than their number: 1,600 workers read 5,000 slots per second, not 40,000.
_SLOTS_EACH_SECOND = 25


class Finding(StrEnum):
    """What a worker has found in the list."""

    TAKEN = "taken"
    MORE = "more"  # nothing so far; the look is to go on at once
    FULL = "full"  # the waiting jobs belong to apps that are held or have no share left
    HELD = "held"  # all waiting jobs belong to apps that are held
    EMPTY = "empty"
    UNREADABLE = "unreadable"  # the holds cannot be read, so no job may be taken


@dataclass(frozen=True)
class Found:
    """What a worker has found, and the id of the job that it has taken, if any."""

    finding: Finding
    job_id: str = ""


class JobTaker:
    """Takes the next job for a worker, in place of RQ's `Queue.dequeue_any`.

    Its methods raise the client's RedisError.

    reserves: leave one slot free while only one app has live jobs.
    """

    def __init__(self, client: Redis, *, reserves: bool) -> None:
        script = files("docora_ops.queue").joinpath("take.lua").read_text(encoding="utf-8")
        self._client, self._script = client, client.register_script(script)
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
        self.obeys_holds = True

    def take(self) -> Found:
        """Moves the id of the first job that may run to RQ's intermediate list.

        If there is none, `wait` before the next call, unless the finding is MORE.
        """
        if self._is_empty:  # `wait` tells when it no longer is
            return Found(Finding.EMPTY)
        if time.monotonic() >= self._slots_until:
            workers = workers_by_name(self._client, NO_JOB_REASON)
            self._slots = [name for name, reason in workers.items() if not reason]
            pause = max(1, (len(self._slots) / _SLOTS_EACH_SECOND) ** 1.5)
            self._slots_until = time.monotonic() + pause
        answer, *rest = self._run("take", self._look)
        if answer == b"uncounted":
            self._count_apps()
            return Found(Finding.MORE)  # whatever has become of the count meanwhile
        finding = Finding(text_of(answer))
        self._look = rest[0] if rest and finding is not Finding.UNREADABLE else b""
        self._is_empty = finding is Finding.EMPTY
        if finding is Finding.FULL and self._apps > int(rest[1]):
            # All apps that wait have running jobs, too, or are held: fewer than were counted.
            self._apps, self._look = int(rest[1]), b""
            return Found(Finding.MORE)
        return Found(finding, text_of(rest[1]) if finding is Finding.TAKEN else "")

    def wait(self, seconds: int) -> None:
        """Waits for `seconds`, or until a job waits if the list was empty; takes no job."""
        if not self._is_empty:
            time.sleep(seconds)
        # To where it comes from: a job that may not be taken need not be put back. One job wakes
        # all workers that wait, but it is cheap to find the list empty.
        elif self._client.blmove(LIST, LIST, seconds, src="LEFT", dest="LEFT") is not None:
            self._is_empty = False

    def holds_fault(self) -> str | None:
        """Returns what is wrong with the holds, None if they can be obeyed or may not be read."""
        _, *rest = self._run("check")
        return text_of(rest[0]) if rest else None

    def _run(self, mode: str, argument: bytes | int = b"") -> list[bytes]:
        is_counted = time.monotonic() < self._apps_until
        config = self._config | {
            "workers": [EXECUTIONS_OF_WORKER.format(name) for name in self._slots],
            "apps": self._apps if is_counted else None,
        }
        reply = self._script(args=[mode, json.dumps(config), argument])
        answer, may_read, *rest = cast("list[bytes]", reply)
        self.obeys_holds = bool(may_read)
        return [answer, *rest]

    def _count_apps(self) -> None:
        """Counts the apps with live jobs. Those of a very long list are only estimated."""
        began, apps, place = time.monotonic(), set[bytes](), 0
        while 0 <= place < _MOST_COUNTED:
            answer, *rest = self._run("count", place)
            if answer != b"counted":
                return
            place = int(rest[0])
            apps.update(rest[1:])
        self._apps = len(apps)
        end = time.monotonic()
        pause = max(_INTERVAL, _PAUSES * len(self._slots) * (end - began))
        self._apps_until = end + pause
