"""A small Docora in the middle of a bad day: apps, repositories, links, and their jobs."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import Enum, auto
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import psycopg
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from redis import Redis
from rq import Queue, Retry
from rq.executions import Execution
from rq.job import Job
from rq.job_lifecycle import record_job_failure

from docora_ops.links import LinkStatus, Payload
from docora_ops.settings import FAILURE_TTL, RESULT_TTL, Settings

WORKER = "snapshot-worker-1"
HEARTBEAT_TTL = 7 * 86_400
"""Seconds; nobody is there to renew it, and the world may be played with for long."""


class JobKind(Enum):
    """Where the job of a link stands."""

    DEAD = auto()
    RUNNING = auto()
    WAITING = auto()


@dataclass(frozen=True)
class Place:
    """Where the world lies: what stands for GitHub, for the apps, and Docora's key."""

    repositories: Path
    apps_url: str
    key: bytes

    def encrypt(self, text: str) -> str:
        """As Docora encrypts its secrets: `iv:tag:ciphertext` in hex."""
        iv = os.urandom(16)
        sealed = AESGCM(self.key).encrypt(iv, text.encode(), None)
        return f"{iv.hex()}:{sealed[-16:].hex()}:{sealed[:-16].hex()}"


class App(NamedTuple):
    """A client app; the domain is one that can't exist."""

    app_id: str
    name: str
    domain: str

    @property
    def slug(self) -> str:
        """The last part of where it is sent its files."""
        return self.domain.partition(".")[0]

    @property
    def auth_key(self) -> str:
        """What its requests are signed with."""
        return _sha(self.app_id)


class Repository(NamedTuple):
    """A watched repository."""

    repository_id: str
    owner: str
    name: str
    is_private: bool = False
    circuit_is_open: bool = False

    @property
    def full_name(self) -> str:
        """`owner/name`."""
        return f"{self.owner}/{self.name}"

    @property
    def contents(self) -> dict[str, str]:
        """Its files."""
        paths = PATHS[: 8 + REPOSITORIES.index(self)]
        return {path: f"{path} of {self.full_name}\n" for path in paths}

    def url(self, place: Place) -> str:
        """Where it is cloned from."""
        return f"file://{place.repositories / self.owner / self.name}"


class Link(NamedTuple):
    """One app's link to one repository, and the job that it has left in the queue."""

    app: App
    repository: Repository
    status: LinkStatus
    minutes_since_scan: int | None = None
    retry_count: int = 0
    last_error: str | None = None
    job: JobKind | None = None


ACME = App("app_04c2f7a91be85d3360e1a7c4", "Acme Search", "acme-search.example")
LANTERN = App("app_2d91b60ce47f38a5c0d2f816", "Paper Lantern", "paper-lantern.example")
HARBOR = App("app_57e08a3f1c6bd92740b5e3ad", "Quiet Harbor", "quiet-harbor.example")
ROBOT = App("app_8b3d16f5a2097ce84f61d0b9", "Tin Robot Notes", "tin-robot.example")
MAPLE = App("app_c96a4e02d8f7135b9e0c2a74", "Maple Review", "maple-review.example")
APPS = (ACME, LANTERN, HARBOR, ROBOT, MAPLE)

API = Repository("repo_0a7d52c8e1f94b3d60a2c5f7", "octo", "api")
WEB = Repository("repo_1e84b90f3c2d57a6e8b1d042", "octo", "web")
BILLING = Repository("repo_39c5f1a70d86e24b9c3f7a18", "octo", "billing", is_private=True)
MOBILE = Repository("repo_4f20d7b8a96c13e5047bd2c9", "octo", "mobile", is_private=True)
HANDBOOK = Repository("repo_6b18e3d4c7f05a92d1e60b3f", "hollow-hill", "handbook")
INFRA = Repository(
    "repo_8d7a04c2b5e91f36a8d4c0e7", "hollow-hill", "infra", is_private=True, circuit_is_open=True
)
FIRMWARE = Repository("repo_a5e3961f0b7d48c2e5a19d60", "tin-robot", "firmware")
DOCS = Repository("repo_d2f6b85e4a0c739b1d8e5f24", "tin-robot", "docs")
REPOSITORIES = (API, WEB, BILLING, MOBILE, HANDBOOK, INFRA, FIRMWARE, DOCS)

NO_USER = "fatal: could not read Username for 'https://github.com': terminal prompts disabled"
GIT_503 = (
    "fatal: unable to access 'https://github.com/hollow-hill/infra/': "
    "The requested URL returned error: 503"
)
NOT_FOUND = "fatal: repository 'https://github.com/octo/mobile/' not found"
# Written by Docora's own worker, before the installation moved to RQ.
LANTERN_LICENSE = (
    "Notification failed for created LICENSE: getaddrinfo ENOTFOUND docora.paper-lantern.example"
)
LANTERN_README = (
    "Notification failed for created README.md: getaddrinfo ENOTFOUND docora.paper-lantern.example"
)
ROBOT_500 = "Notification failed for created src/index.ts: HTTP 500"
HARBOR_401 = "Notification failed for updated config/limits.yaml: HTTP 401"
MAPLE_REFUSED = "Notification failed for created LICENSE: connect ECONNREFUSED 203.0.113.24:443"
# Written by `docora-ops worker`, as are the other HTTP errors below.
NO_HOST = "docora.paper-lantern.example:443: Name or service not known on created LICENSE"

PENDING, SCANNING, SYNCED, FAILED = LinkStatus
DEAD, RUNNING, WAITING = JobKind

LINKS = (
    Link(ACME, API, FAILED, 95, 5, "HTTP 500 on created src/index.ts", DEAD),
    Link(ACME, WEB, SYNCED, 3),
    Link(ACME, BILLING, FAILED, 4320, 5, NO_USER),
    Link(ACME, MOBILE, SYNCED, 4),
    Link(ACME, INFRA, FAILED, 70, 5, GIT_503),
    Link(LANTERN, API, SYNCED, 2),
    Link(LANTERN, WEB, FAILED, 180, 5, LANTERN_README, WAITING),
    Link(LANTERN, HANDBOOK, FAILED, 185, 5, LANTERN_LICENSE),
    Link(LANTERN, DOCS, FAILED, 190, 5, NO_HOST, DEAD),
    Link(HARBOR, BILLING, FAILED, 610, 5, HARBOR_401),
    Link(HARBOR, MOBILE, PENDING, job=WAITING),
    Link(HARBOR, HANDBOOK, SCANNING, 5, job=RUNNING),
    Link(HARBOR, INFRA, FAILED, 72, 5, GIT_503, DEAD),
    # Just now between its verdict in Postgres and the end of its job.
    Link(HARBOR, FIRMWARE, FAILED, 30, 5, "HTTP 413 on created assets/boot.bin", RUNNING),
    Link(ROBOT, API, FAILED, 44, 5, ROBOT_500),
    Link(ROBOT, HANDBOOK, PENDING, 25, 2, "HTTP 502 on created guides/onboarding.md", WAITING),
    Link(ROBOT, FIRMWARE, SYNCED, 1),
    Link(ROBOT, DOCS, SYNCED, 4),
    Link(MAPLE, API, FAILED, 250, 5, MAPLE_REFUSED),
    Link(MAPLE, WEB, SYNCED, 2),
    Link(MAPLE, MOBILE, FAILED, 1500, 5, NOT_FOUND),
    Link(MAPLE, HANDBOOK, SYNCED, 3),
)

PATHS = (
    "README.md",
    "LICENSE",
    "package.json",
    "config/limits.yaml",
    "docs/getting-started.md",
    "docs/troubleshooting.md",
    "guides/onboarding.md",
    "scripts/release.sh",
    "src/config.ts",
    "src/http/client.ts",
    "src/http/server.ts",
    "src/main.ts",
    "src/queue.ts",
    "tests/client.test.ts",
    "tests/server.test.ts",
)

INSERT_APP = """
INSERT INTO apps (app_id, token_hash, app_name, base_url, email, client_auth_key_encrypted)
VALUES (%s, %s, %s, %s, %s, %s)
"""
INSERT_REPOSITORY = """
INSERT INTO repositories (repository_id, github_url, owner, name, is_private,
    consecutive_failures, circuit_open_until)
VALUES (%s, %s, %s, %s, %s, %s, now() + make_interval(mins => %s))
"""
INSERT_LINK = """
INSERT INTO app_repositories (app_id, repository_id, github_token_encrypted, status, retry_count,
    last_error, last_scanned_at)
VALUES (%s, %s, %s, %s, %s, %s, now() - make_interval(mins => %s))
"""
INSERT_DELIVERY = """
INSERT INTO app_delivered_files (app_id, repository_id, file_path, file_sha, delivered_at)
VALUES (%s, %s, %s, %s, now() - make_interval(mins => %s))
"""


def build(database_url: str, redis_url: str, place: Place) -> None:
    """Fill an empty database, an empty queue and an empty folder of repositories.

    Raises psycopg's, redis-py's and git's errors.
    """
    for repository in REPOSITORIES:
        _make_upstream(repository, place)
    with psycopg.connect(database_url) as connection:
        connection.execute(files("docora_ops.demo").joinpath("schema.sql").read_bytes())
        _fill_tables(connection, place)
    with Redis.from_url(redis_url) as client:
        _fill_queue(client, place)


def _make_upstream(repository: Repository, place: Place) -> None:
    folder = place.repositories / repository.owner / repository.name
    for path, content in repository.contents.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content, encoding="utf-8")
    identity = ("-c", f"user.name={repository.owner}", "-c", "user.email=demo@octo.example")
    for arguments in (
        ("init", "--quiet", "--initial-branch=main"),
        ("add", "--all"),
        (*identity, "commit", "--quiet", "--message=All there is"),
    ):
        subprocess.run(["git", *arguments], cwd=folder, check=True)


def _fill_tables(connection: psycopg.Connection, place: Place) -> None:
    with connection.cursor() as cursor:
        cursor.executemany(
            INSERT_APP,
            [
                (
                    app.app_id,
                    _sha(app.name),
                    app.name,
                    f"{place.apps_url}/{app.slug}",
                    f"ops@{app.domain}",
                    place.encrypt(app.auth_key),
                )
                for app in APPS
            ],
        )
        cursor.executemany(
            INSERT_REPOSITORY,
            [
                (
                    repository.repository_id,
                    repository.url(place),
                    repository.owner,
                    repository.name,
                    repository.is_private,
                    5 if repository.circuit_is_open else 0,
                    20 if repository.circuit_is_open else None,
                )
                for repository in REPOSITORIES
            ],
        )
        cursor.executemany(
            INSERT_LINK,
            [
                (
                    link.app.app_id,
                    link.repository.repository_id,
                    place.encrypt("a token") if link.repository.is_private else None,
                    link.status,
                    link.retry_count,
                    link.last_error,
                    link.minutes_since_scan,
                )
                for link in LINKS
            ],
        )
        cursor.executemany(INSERT_DELIVERY, _deliveries())


def _deliveries() -> Iterator[tuple[object, ...]]:
    """What the apps have received: all of a repository, or what came before the failure."""
    for link in LINKS:
        if link.minutes_since_scan is None:
            continue
        contents = list(link.repository.contents.items())
        received = len(contents) if link.status is SYNCED else len(contents) // 2
        for path, content in contents[:received]:
            ids = link.app.app_id, link.repository.repository_id
            yield *ids, path, _sha(content), link.minutes_since_scan


def _fill_queue(client: Redis, place: Place) -> None:
    settings = Settings.model_construct()  # the defaults, whatever the environment says
    queue = Queue(settings.queue_name, connection=client)
    # Those that a worker has taken out come first, while the list is otherwise empty.
    for link in sorted(LINKS, key=lambda link: link.job is WAITING):
        if link.job is None:
            continue
        job = queue.enqueue_job(_make_job(queue, settings, link, place))
        if link.job is not WAITING:
            queue.pop_job_id()
            _work(job, fails=link.job is DEAD, error=link.last_error or "")


def _make_job(queue: Queue, settings: Settings, link: Link, place: Place) -> Job:
    app, repository = link.app, link.repository
    payload = Payload(
        app_id=app.app_id,
        app_name=app.name,
        repository_id=repository.repository_id,
        github_url=repository.url(place),
        owner=repository.owner,
        name=repository.name,
        base_url=f"{place.apps_url}/{app.slug}",
        github_token_encrypted=None,
        client_auth_key_encrypted=place.encrypt(app.auth_key),
    )
    delays = settings.retry_delays
    return queue.create_job(
        settings.job_function,
        kwargs=asdict(payload) | {"is_rescan": link.minutes_since_scan is not None},
        timeout=settings.job_timeout,
        result_ttl=RESULT_TTL,
        failure_ttl=FAILURE_TTL,
        description=payload.description,
        job_id=payload.job_id,
        retry=Retry(max=len(delays), interval=delays),
    )


def _work(job: Job, *, fails: bool, error: str) -> None:
    """What a worker writes when it begins a job and, perhaps, when that has failed."""
    with job.connection.pipeline() as pipeline:
        job.prepare_for_execution(WORKER, pipeline)
        if fails:
            job.retries_left = 0
            record_job_failure(job, error, pipeline)
        else:
            Execution.create(job, HEARTBEAT_TTL, pipeline=pipeline, worker_name=WORKER)
        pipeline.execute()


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
