"""A Docora with links in every state, whose apps answer well or badly."""

import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum, auto
from pathlib import Path
from random import Random
from threading import Event, Lock, Thread, current_thread
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry as RedisRetry
from rq import Retry
from rq.job import Job, JobStatus
from rq.utils import now

from docora_ops.jobs import Hold
from docora_ops.queue.holds import find_hold
from docora_ops.queue.redis_client import server_time
from docora_ops.queue.rq_jobs import JOB_FUNCTION
from tests.support.delivery_checks import shas
from tests.support.docora import QUEUE, Docora
from tests.support.receiver import CREATED, Request
from tests.support.rows import TestLink
from tests.support.snapshots import TOKEN, Snapshots, Upstream

MAX_RETRY_ATTEMPTS = 3
STRAYS = 3
FILES = 6  # of a repository: enough to notice two jobs that send them at once
SLOWNESS = 0.5  # seconds that a slow app takes for each file


class Mood(Enum):
    WELL = auto()
    FLAKY = auto()  # every third request fails
    BROKEN = auto()  # every request fails
    HANGS_UP = auto()  # without an answer
    SLOW = auto()


MOODS = (*[Mood.WELL] * 5, *[Mood.FLAKY] * 2, Mood.BROKEN, Mood.HANGS_UP, Mood.SLOW)


@dataclass
class Apps:
    """Answers for the receiver, and counts requests of jobs that overlap, or that a hold forbids.

    Each job sends over its own connection. A request on a connection that is not the newest of its
    link is late: another job has begun meanwhile. A job looks for a hold before each request, so
    one that meets the same hold as the request before it was not to be sent.
    """

    docora: Docora
    moods: dict[str, Mood] = field(default_factory=dict)
    # The time of the last acknowledgement by app, repository id, path and SHA-256.
    acknowledged: dict[tuple[str, str, str, str], float] = field(default_factory=dict)
    # The most late requests of one job, by link.
    late: Counter[tuple[str, str]] = field(default_factory=Counter)
    in_spite_of_hold: Counter[str] = field(default_factory=Counter)  # requests by app
    calm: Event = field(default_factory=Event)  # while set, no app is slow
    _requests: Counter[str] = field(default_factory=Counter)
    # Late requests by connection, in the order of the first requests, by link.
    _connections: dict[tuple[str, str], Counter[Thread]] = field(default_factory=dict)
    _holds: dict[Thread, Hold | None] = field(default_factory=dict)  # that each has met last
    _lock: Lock = field(default_factory=Lock)

    def answer(self, request: Request) -> int:
        """Returns the status. Raises ConnectionError to hang up."""
        if request.event == "sync_failed":
            return CREATED
        body = request.json
        link = (request.app, body["repository"]["repository_id"])
        hold = self._find_hold(f"{request.headers['X-Docora-App-Id']}-{link[1]}")
        with self._lock:
            counts = self._connections.setdefault(link, Counter())
            connection = current_thread()  # the receiver runs a thread for each connection
            self.in_spite_of_hold[request.app] += bool(hold and hold == self._holds.get(connection))
            self._holds[connection] = hold
            counts.setdefault(connection, 0)
            if connection is not next(reversed(counts)):
                counts[connection] += 1
                self.late[link] = max(self.late[link], counts[connection])
            self._requests[request.app] += 1
            number = self._requests[request.app]
        match self.moods.get(request.app, Mood.WELL):
            case Mood.HANGS_UP:
                raise ConnectionResetError
            case Mood.BROKEN:
                return 500
            case Mood.FLAKY if number % 3 == 0:
                return 500
            case Mood.SLOW:
                self.calm.wait(SLOWNESS)
        self.acknowledge(*link, body["file"]["path"], body["file"]["sha"])
        return CREATED

    def _find_hold(self, job_id: str) -> Hold | None:
        with suppress(redis.RedisError):  # it is down: nobody can tell
            return find_hold(self.docora.redis, job_id, server_time(self.docora.redis))
        return None

    def acknowledge(self, app: str, repository_id: str, path: str, sha: str) -> None:
        with self._lock:
            self.acknowledged[app, repository_id, path, sha] = time.monotonic()


class Producer(Docora):
    """Another producer, which pushes jobs of links with RQ's own enqueue."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.redis.set_retry(RedisRetry(NoBackoff(), 0))

    def reconnect(self) -> None:
        self.close()
        self.__post_init__()

    def enqueue(self, job_id: str, **options: Any) -> Job:
        return self.queue.enqueue(JOB_FUNCTION, **self.call(job_id), **options)

    def call(self, job_id: str) -> dict[str, Any]:
        app_id, _, repository_id = job_id.partition("-")
        return {
            "app_id": app_id,
            "repository_id": repository_id,
            "job_id": job_id,
            "description": "another producer's",
            "retry": Retry(max=MAX_RETRY_ATTEMPTS - 1, interval=1),
        }


@dataclass
class World:
    snapshots: Snapshots
    producer: Producer
    apps: Apps
    links: list[TestLink] = field(default_factory=list)
    slow_app: str = ""  # the app whose jobs the careless producer pushes
    files: dict[str, dict[str, str]] = field(default_factory=dict)  # SHA-256 by path, by repository
    names: dict[str, str] = field(default_factory=dict)  # at the receiver, by app id

    @property
    def careless(self) -> set[str]:
        """The ids of jobs that are pushed without a look."""
        return {link.job_id for link in self.links if link.app_id == self.slow_app}

    def add(self, link: TestLink, state: str) -> None:
        status, fields, delivered = STATES[state]
        self.snapshots.docora.link(*link.ids, status, **fields)
        for path, sha in list(self.files[link.repository_id].items())[:delivered]:
            self.producer.connection.execute(
                "INSERT INTO app_delivered_files (app_id, repository_id, file_path, file_sha)"
                " VALUES (%s, %s, %s, %s)",
                (*link.ids, path, sha),
            )
            self.apps.acknowledge(self.names[link.app_id], link.repository_id, path, sha)
        match state:
            case "waiting":
                self.producer.enqueue(link.job_id)
            case "delayed":
                self.producer.queue.enqueue_in(
                    timedelta(seconds=1), JOB_FUNCTION, **self.producer.call(link.job_id)
                )
            case "failed half way":
                self.producer.leave_job(link.job_id, JobStatus.FAILED)
            case "killed while scanning":
                self.producer.start_job(link.job_id, heartbeat=-10)
        self.links.append(link)


RESET: dict[str, Any] = {"retry_count": 0, "last_error": None}
FAILED_ONCE: dict[str, Any] = {"retry_count": 1, "last_error": "HTTP 500 on created a"}
STATES: dict[str, tuple[str, dict[str, Any], int]] = {
    "failed": ("failed", {}, 0),
    "failed half way": ("failed", {}, 1),
    "waiting": ("pending_snapshot", RESET, 0),
    "delayed": ("pending_snapshot", FAILED_ONCE, 0),
    "due": ("synced", RESET | {"scanned": timedelta(hours=1)}, FILES),
    "synced": ("synced", RESET | {"scanned": timedelta(seconds=1)}, FILES),
    "stuck": ("scanning", RESET, 0),
    "killed while scanning": ("scanning", RESET, 0),
}
"""Status, further fields and number of delivered files of a link, by the name of its state."""
LIKELY_STATES = (*STATES, *["failed", "waiting"] * 3, *["failed half way"] * 2, "due")


def make_upstreams(directory: Path, number: int) -> dict[str, Upstream]:
    """Makes repositories, by `owner/name`; no two have a path in common."""
    upstreams = {}
    for name in (f"octo/repository{each}" for each in range(number)):
        upstreams[name] = Upstream(directory / "upstream" / name)
        upstreams[name].commit({f"{name}/{each}": bytes((each, each)) for each in range(FILES)})
    return upstreams


def make_world(
    snapshots: Snapshots,
    producer: Producer,
    apps: Apps,
    upstreams: dict[str, Upstream],
    number: int,
    random: Random,
) -> World:
    """Makes apps, each linked to all repositories, in empty stores, and strays in the queue."""
    world = World(snapshots, producer, apps)
    for name, upstream in upstreams.items():
        repository_id = snapshots.add_repository(upstream, name)
        world.files[repository_id] = shas(upstream.contents())
    for name in (f"App{each}" for each in range(number)):
        app_id = snapshots.add_app(name)
        world.names[app_id] = name
        apps.moods[name] = random.choice(MOODS)
        for repository_id in world.files:
            link = TestLink(app_id, repository_id)
            world.add(link, random.choice(LIKELY_STATES))
            snapshots.set_token(link, TOKEN if random.random() < 0.5 else None)
    world.slow_app = random.choice(list(world.names))
    apps.moods[world.names[world.slow_app]] = Mood.SLOW
    # Orphaned jobs, stale entries and doubled ids.
    for stray in range(STRAYS):
        producer.enqueue(f"app_{stray:024x}-repo_{stray:024x}")
    for link in random.sample(world.links, STRAYS):
        producer.redis.zadd(f"rq:failed:{QUEUE}", {link.job_id: now().timestamp() + 3600})
    for job_id in sorted(world.careless.intersection(producer.waiting())):
        producer.redis.rpush(producer.queue.key, job_id)
    producer.age_links()
    return world
