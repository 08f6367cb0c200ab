"""The client apps' side: how they answer, and what they can swear to."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from enum import Enum, auto
from threading import Event, Lock, Thread, current_thread

from docora_ops.demo.receiver import CREATED, Request

_SLOWNESS = 0.5
"""Seconds that a slow app takes over each file."""
_FAILURE = 500


class Mood(Enum):
    """How an app answers."""

    WELL = auto()
    FLAKY = auto()
    """With 500, each third time."""
    BROKEN = auto()
    """With 500."""
    HANGS_UP = auto()
    """Not at all."""
    SLOW = auto()


Delivery = tuple[str, str, str, str]
"""App, repository id, path and SHA-256."""


@dataclass
class Apps:
    """What the receiver asks for an answer; keeps what was acknowledged, and who sent at once.

    A job sends over a connection of its own, so jobs at work on one link at once show: one that
    goes on sending after another has begun.
    """

    moods: dict[str, Mood] = field(default_factory=dict)
    acknowledged: dict[Delivery, float] = field(default_factory=dict)
    """When, for the last time."""
    late: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Of each link, the most that a job has sent after another had begun."""
    calm: Event = field(default_factory=Event)
    """Set, when nobody is to be slow any more."""
    _requests: Counter[str] = field(default_factory=Counter)
    _connections: dict[tuple[str, str], dict[Thread, int]] = field(default_factory=dict)
    """Of each link, in the order of their first requests, with how many came too late."""
    _lock: Lock = field(default_factory=Lock)

    def answer(self, request: Request) -> int:
        """The status. Raises ConnectionError to hang up."""
        if request.event == "sync_failed":
            return CREATED
        body = request.json
        link = (request.app, body["repository"]["repository_id"])
        with self._lock:
            self._note(link)
            self._requests[request.app] += 1
            number = self._requests[request.app]
        match self.moods.get(request.app, Mood.WELL):
            case Mood.HANGS_UP:
                raise ConnectionResetError
            case Mood.BROKEN:
                return _FAILURE
            case Mood.FLAKY if number % 3 == 0:
                return _FAILURE
            case Mood.SLOW:
                self.calm.wait(_SLOWNESS)
        self.acknowledge(*link, body["file"]["path"], body["file"]["sha"])
        return CREATED

    def acknowledge(self, app: str, repository_id: str, path: str, sha: str) -> None:
        """The app has the file."""
        with self._lock:
            self.acknowledged[app, repository_id, path, sha] = time.monotonic()

    def _note(self, link: tuple[str, str]) -> None:
        known = self._connections.setdefault(link, {})
        connection = current_thread()  # each has one
        known.setdefault(connection, 0)
        if connection is not next(reversed(known)):
            known[connection] += 1
            self.late[link] = max(self.late[link], known[connection])
