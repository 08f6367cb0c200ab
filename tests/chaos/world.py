"""A Docora with links in every state, whose snapshots can really be made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

from redis.backoff import NoBackoff
from redis.retry import Retry as RedisRetry
from rq import Retry
from rq.job import Job, JobStatus
from rq.utils import now

from docora_ops.settings import Settings
from tests.chaos.apps import Apps, Mood
from tests.support.delivery_checks import shas
from tests.support.docora import QUEUE, Docora
from tests.support.rows import TestLink
from tests.support.snapshots import TOKEN, Snapshots, Upstream

MAX_RETRY_ATTEMPTS = 3
_JOB_FUNCTION = Settings.model_fields["job_function"].default
_STRAYS = 3
_FILES = 6
"""In a repository: enough for two jobs that send them at once to be seen."""
_MOODS = (*[Mood.WELL] * 5, Mood.FLAKY, Mood.FLAKY, Mood.BROKEN, Mood.HANGS_UP, Mood.SLOW)


class Producer(Docora):
    """Whoever else pushes jobs of links: by RQ's own enqueue, under the same ids."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.redis.set_retry(RedisRetry(NoBackoff(), 0))

    def reconnect(self) -> None:
        """After servers were down."""
        self.close()
        self.__post_init__()

    def enqueue(self, job_id: str, **options: Any) -> Job:
        job: Job = self.queue.enqueue(_JOB_FUNCTION, **self._call(job_id), **options)
        return job

    def schedule_job(self, job_id: str, when: datetime | None = None) -> Job:
        when = when or now() + timedelta(seconds=1)
        job: Job = self.queue.enqueue_at(when, _JOB_FUNCTION, **self._call(job_id))
        return job

    def _call(self, job_id: str) -> dict[str, Any]:
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
    """What is there in one round."""

    snapshots: Snapshots
    producer: Producer
    apps: Apps
    links: list[TestLink] = field(default_factory=list)
    slow_app: str = ""
    """The one whose jobs the producer pushes who does not look whether they are there."""
    files: dict[str, dict[str, str]] = field(default_factory=dict)
    """SHA-256 by path of what each repository holds."""
    names: dict[str, str] = field(default_factory=dict)
    """By app id: how the receiver knows the apps."""

    @property
    def careless(self) -> set[str]:
        """Ids of the jobs that are pushed without a look."""
        return {link.job_id for link in self.links if link.app_id == self.slow_app}

    def deliver(self, link: TestLink, files: int | None = None) -> None:
        """The app has received so many of the repository's files; all, if None."""
        for path, sha in list(self.files[link.repository_id].items())[:files]:
            self.producer.connection.execute(
                "INSERT INTO app_delivered_files (app_id, repository_id, file_path, file_sha)"
                " VALUES (%s, %s, %s, %s)",
                (link.app_id, link.repository_id, path, sha),
            )
            self.apps.acknowledge(self.names[link.app_id], link.repository_id, path, sha)

    def row(self, link: TestLink, status: str, **options: Any) -> None:
        """The link itself."""
        if status != "failed":
            options |= {"retry_count": 0, "last_error": None}
        self.snapshots.docora.link(link.app_id, link.repository_id, status, **options)


def make_upstreams(directory: Path, number: int) -> dict[str, Upstream]:
    """Repositories by `owner/name`; no two have a path in common."""
    upstreams = {}
    for name in (f"octo/repository{each}" for each in range(number)):
        upstreams[name] = Upstream(directory / "upstream" / name)
        upstreams[name].commit({f"{name}/{each}": bytes((each, each)) for each in range(_FILES)})
    return upstreams


def make_world(
    snapshots: Snapshots,
    producer: Producer,
    apps: Apps,
    upstreams: dict[str, Upstream],
    number: int,
    random: Random,
) -> World:
    """So many apps, each linked to all repositories, in stores that are empty."""
    world = World(snapshots, producer, apps)
    for name, upstream in upstreams.items():
        repository_id = snapshots.add_repository(upstream, name)
        world.files[repository_id] = shas(upstream.contents())
    for name in (f"App{each}" for each in range(number)):
        app_id = snapshots.add_app(name)
        world.names[app_id] = name
        apps.moods[name] = random.choice(_MOODS)
        for repository_id in world.files:
            link = TestLink(app_id, repository_id)
            random.choice(_STATES)(world, link)
            snapshots.set_token(link, TOKEN if random.random() < 0.5 else None)
            world.links.append(link)
    world.slow_app = random.choice(list(world.names))
    apps.moods[world.names[world.slow_app]] = Mood.SLOW
    _add_strays(world, random)
    producer.age_links()
    return world


# The states of a link, and of its job


def _failed(world: World, link: TestLink) -> None:
    world.row(link, "failed")


def _failed_half_way(world: World, link: TestLink) -> None:
    world.row(link, "failed")
    world.deliver(link, 1)
    world.producer.leave_job(link.job_id, JobStatus.FAILED)


def _failed_after_success(world: World, link: TestLink) -> None:
    world.row(link, "failed")
    world.deliver(link)
    world.producer.leave_job(link.job_id, JobStatus.FINISHED)


def _failed_while_running(world: World, link: TestLink) -> None:
    """Its worker was killed between the verdict and the end of the job."""
    world.row(link, "failed")
    world.producer.start_job(link.job_id, heartbeat=-10)


def _waiting(world: World, link: TestLink) -> None:
    world.row(link, "pending_snapshot")
    world.producer.enqueue(link.job_id)


def _delayed(world: World, link: TestLink) -> None:
    world.row(link, "pending_snapshot", retry_count=1, last_error="HTTP 500 on created a")
    world.producer.schedule_job(link.job_id)


def _due(world: World, link: TestLink) -> None:
    world.row(link, "synced", scanned=timedelta(hours=1))
    world.deliver(link)


def _synced(world: World, link: TestLink) -> None:
    world.row(link, "synced", scanned=timedelta(seconds=1))
    world.deliver(link)


def _stuck(world: World, link: TestLink) -> None:
    world.row(link, "scanning")


def _left_behind(world: World, link: TestLink) -> None:
    """Its worker was killed."""
    world.row(link, "scanning")
    world.producer.start_job(link.job_id, heartbeat=-10)


_STATES: tuple[Callable[[World, TestLink], None], ...] = (
    *[_failed] * 4,
    *[_failed_half_way] * 3,
    _failed_after_success,
    _failed_while_running,
    *[_waiting] * 4,
    _delayed,
    _due,
    _due,
    _synced,
    _stuck,
    _left_behind,
)


def _add_strays(world: World, random: Random) -> None:
    """What stands in the queue and should not."""
    redis = world.producer.redis
    for number in range(_STRAYS):
        world.producer.enqueue(f"app_{number:024x}-repo_{number:024x}")
    for link in random.sample(world.links, _STRAYS):
        redis.zadd(f"rq:failed:{QUEUE}", {link.job_id: now().timestamp() + 3600})
    for job_id in sorted(world.careless.intersection(world.producer.waiting())):
        redis.rpush(world.producer.queue.key, job_id)
