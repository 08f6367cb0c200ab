"""The client apps: how they answer, and what they acknowledged."""

import time
from collections import Counter
from dataclasses import dataclass, field
from enum import Enum, auto
from threading import Event, Lock, Thread, current_thread

from tests.support.receiver import CREATED, Request

SLOWNESS = 0.5
"""Seconds that a slow app takes for each file."""
FAILURE = 500


class Mood(Enum):
    """How an app answers."""

    WELL = auto()
    FLAKY = auto()
    """Every third request fails."""
    BROKEN = auto()
    """Every request fails."""
    HANGS_UP = auto()
    """It closes the connection without an answer."""
    SLOW = auto()


Delivery = tuple[str, str, str, str]
"""App, repository id, path and SHA-256."""


@dataclass
class Apps:
    """Answers for the receiver, and counts requests of jobs that overlap.

    Each job sends over its own connection. A request on a connection that is not the newest of its
    link is late: another job has begun meanwhile.
    """

    moods: dict[str, Mood] = field(default_factory=dict)
    acknowledged: dict[Delivery, float] = field(default_factory=dict)
    """The time of the last acknowledgement."""
    late: Counter[tuple[str, str]] = field(default_factory=Counter)
    """The most late requests of one job, by link."""
    calm: Event = field(default_factory=Event)
    """While set, no app is slow."""
    _requests: Counter[str] = field(default_factory=Counter)
    _connections: dict[tuple[str, str], Counter[Thread]] = field(default_factory=dict)
    """Late requests by connection, in the order of the first requests, by link."""
    _lock: Lock = field(default_factory=Lock)

    def answer(self, request: Request) -> int:
        """Returns the status. Raises ConnectionError to hang up."""
        if request.event == "sync_failed":
            return CREATED
        body = request.json
        link = (request.app, body["repository"]["repository_id"])
        with self._lock:
            self._count_late(link)
            self._requests[request.app] += 1
            number = self._requests[request.app]
        match self.moods.get(request.app, Mood.WELL):
            case Mood.HANGS_UP:
                raise ConnectionResetError
            case Mood.BROKEN:
                return FAILURE
            case Mood.FLAKY if number % 3 == 0:
                return FAILURE
            case Mood.SLOW:
                self.calm.wait(SLOWNESS)
        self.acknowledge(*link, body["file"]["path"], body["file"]["sha"])
        return CREATED

    def acknowledge(self, app: str, repository_id: str, path: str, sha: str) -> None:
        """Notes that the app has the file."""
        with self._lock:
            self.acknowledged[app, repository_id, path, sha] = time.monotonic()

    def _count_late(self, link: tuple[str, str]) -> None:
        counts = self._connections.setdefault(link, Counter())
        connection = current_thread()  # the receiver runs a thread for each connection
        counts.setdefault(connection, 0)
        if connection is not next(reversed(counts)):
            counts[connection] += 1
            self.late[link] = max(self.late[link], counts[connection])
