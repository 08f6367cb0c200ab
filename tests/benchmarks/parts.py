"""Where the time of a snapshot job goes: `parts LINKS` runs so many jobs, as a work-horse does."""

import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import wraps
from typing import Any

from redis.connection import AbstractConnection
from urllib3.connection import HTTPConnection

from docora_ops import settings
from docora_ops.database.postgres import Database
from docora_ops.database.session import Session
from docora_ops.queue import connect
from docora_ops.worker import git, scan, snapshot_job
from docora_ops.worker.webhook import Webhook

PARTS: dict[str, tuple[tuple[Any, str], ...]] = {
    "settings": ((settings, "load_settings"),),
    "connections": (
        (Session, "_open"),
        (AbstractConnection, "connect"),
        (HTTPConnection, "connect"),
    ),
    "git": (
        (git.Git, "_finish"),
        (git.Git, "start"),
        (scan.Objects, "ask"),
        (scan.Objects, "_receive"),
        (scan, "stop"),
    ),
    "database": tuple(
        (owner, name)
        for owner, names in (
            (Database, ("rows", "row", "execute", "copy", "_roll_back")),
            (Session, ("_begin",)),
        )
        for name in names
    ),
    "POSTs": ((Webhook, "post"),),
}
"""The functions whose time counts for each part, without what they call of another part."""


class Stopwatch:
    """Counts the time between two events for the part that was at work."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._stack = ["Python"]
        self._since = time.perf_counter()

    def _switch(self) -> None:
        now = time.perf_counter()
        self.seconds[self._stack[-1]] += now - self._since  # type: ignore[assignment]
        self._since = now

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Returns a function that counts its time for the part."""

        @wraps(function)
        def wrapper(*arguments: Any, **options: Any) -> Any:
            self._switch()
            self._stack.append(part)
            try:
                return function(*arguments, **options)
            finally:
                self._switch()
                self._stack.pop()

        return wrapper

    def stop(self) -> None:
        """Counts the time up to now."""
        self._switch()


def main(links: int) -> None:
    """Prints the milliseconds of each part, for one job."""
    stopwatch = Stopwatch()
    for part, functions in PARTS.items():
        for owner, name in functions:
            setattr(owner, name, stopwatch.timed(part, getattr(owner, name)))
    values = settings.load_settings()
    snapshot_job.use_settings(values, connect(values))
    for number in range(1, links + 1):
        snapshot_job.snapshot(app_id=f"app_{1:024x}", repository_id=f"repo_{number:024x}")
    stopwatch.stop()
    print(json.dumps({part: value / links * 1000 for part, value in stopwatch.seconds.items()}))


if __name__ == "__main__":
    main(int(sys.argv[1]))
