"""Fills the demo's servers: a Docora with failed links, their jobs, and the git repositories."""

import hashlib
import os
import subprocess
from contextlib import closing
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import psycopg
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from redis import Redis
from rq.job import Job, JobStatus
from rq.job_lifecycle import record_job_failure

from docora_ops.database.connection import Database
from docora_ops.database.links import read_link
from docora_ops.links import QUEUE_NAME, LinkStatus
from docora_ops.queue.connection import connect
from docora_ops.queue.operations import record_pass
from docora_ops.queue.rq import RqQueue
from docora_ops.settings import Settings

WORKER = "snapshot-worker-1"


class App(NamedTuple):
    """A client app."""

    app_id: str
    name: str
    slug: str  # the last part of its base_url


class Repository(NamedTuple):
    """A watched repository."""

    repository_id: str
    owner: str
    name: str

    @property
    def repository_name(self) -> str:
        """Returns `owner/name`."""
        return f"{self.owner}/{self.name}"


class Link(NamedTuple):
    """An app's link to a repository, and the status of its job in the queue."""

    app: App
    repository: Repository
    status: LinkStatus
    minutes_since_scan: int | None = None
    retry_count: int = 0
    last_error: str | None = None
    job: JobStatus | None = None


ACME = App("app_04c2f7a91be85d3360e1a7c4", "Acme Search", "acme-search")
LANTERN = App("app_2d91b60ce47f38a5c0d2f816", "Paper Lantern", "paper-lantern")
HARBOR = App("app_57e08a3f1c6bd92740b5e3ad", "Quiet Harbor", "quiet-harbor")
ROBOT = App("app_8b3d16f5a2097ce84f61d0b9", "Tin Robot Notes", "tin-robot")
MAPLE = App("app_c96a4e02d8f7135b9e0c2a74", "Maple Review", "maple-review")
APPS = (ACME, LANTERN, HARBOR, ROBOT, MAPLE)

API = Repository("repo_0a7d52c8e1f94b3d60a2c5f7", "octo", "api")
WEB = Repository("repo_1e84b90f3c2d57a6e8b1d042", "octo", "web")
BILLING = Repository("repo_39c5f1a70d86e24b9c3f7a18", "octo", "billing")
MOBILE = Repository("repo_4f20d7b8a96c13e5047bd2c9", "octo", "mobile")
HANDBOOK = Repository("repo_6b18e3d4c7f05a92d1e60b3f", "hollow-hill", "handbook")
INFRA = Repository("repo_8d7a04c2b5e91f36a8d4c0e7", "hollow-hill", "infra")
FIRMWARE = Repository("repo_a5e3961f0b7d48c2e5a19d60", "tin-robot", "firmware")
DOCS = Repository("repo_d2f6b85e4a0c739b1d8e5f24", "tin-robot", "docs")
REPOSITORIES = (API, WEB, BILLING, MOBILE, HANDBOOK, INFRA, FIRMWARE, DOCS)
PRIVATE = {BILLING, MOBILE, INFRA}
OPEN_CIRCUITS = {INFRA}

NO_ACCESS = "fatal: Authentication failed for 'https://github.com/octo/billing/'"
NO_GITHUB = (
    "fatal: unable to access 'https://github.com/hollow-hill/infra/': "
    "Could not resolve host: github.com"
)
NOT_FOUND = "fatal: repository 'https://github.com/octo/mobile/' not found"
# As Docora's own worker writes them.
NO_LANTERN = "getaddrinfo ENOTFOUND docora.paper-lantern.example"
LANTERN_LICENSE = f"Notification failed for created LICENSE: {NO_LANTERN}"
LANTERN_README = f"Notification failed for created README.md: {NO_LANTERN}"
ROBOT_500 = "Notification failed for created src/index.ts: HTTP 500"
HARBOR_401 = "Notification failed for updated config/limits.yaml: HTTP 401"
MAPLE_REFUSED = "Notification failed for created LICENSE: connect ECONNREFUSED 203.0.113.24:443"
# As `docora-ops worker` writes it, and the other HTTP errors below.
NO_HOST = "docora.paper-lantern.example:443: Name or service not known on created LICENSE"

PENDING, SCANNING, SYNCED, FAILED = LinkStatus
DEAD, WAITING = JobStatus.FAILED, JobStatus.QUEUED

LINKS = (
    Link(ACME, API, FAILED, 95, 5, "HTTP 500 on created src/index.ts", DEAD),
    Link(ACME, WEB, SYNCED, 3),
    Link(ACME, BILLING, FAILED, 4320, 5, NO_ACCESS),
    Link(ACME, MOBILE, SYNCED, 4),
    Link(ACME, INFRA, FAILED, 70, 5, NO_GITHUB),
    Link(LANTERN, API, SYNCED, 2),
    Link(LANTERN, WEB, FAILED, 180, 5, LANTERN_README, WAITING),
    Link(LANTERN, HANDBOOK, FAILED, 185, 5, LANTERN_LICENSE),
    Link(LANTERN, DOCS, FAILED, 190, 5, NO_HOST, DEAD),
    Link(HARBOR, BILLING, FAILED, 610, 5, HARBOR_401),
    Link(HARBOR, MOBILE, PENDING, job=WAITING),
    Link(HARBOR, HANDBOOK, SYNCED, 5),
    Link(HARBOR, INFRA, FAILED, 72, 5, NO_GITHUB, DEAD),
    Link(HARBOR, FIRMWARE, FAILED, 30, 5, "HTTP 413 on created assets/boot.bin", DEAD),
    Link(ROBOT, API, FAILED, 44, 5, ROBOT_500),
    Link(ROBOT, HANDBOOK, PENDING, 25, 2, "HTTP 502 on created guides/onboarding.md", WAITING),
    Link(ROBOT, FIRMWARE, SYNCED, 1),
    Link(ROBOT, DOCS, SYNCED, 4),
    Link(MAPLE, API, FAILED, 250, 5, MAPLE_REFUSED),
    Link(MAPLE, WEB, SYNCED, 2),
    Link(MAPLE, MOBILE, FAILED, 1500, 5, NOT_FOUND),
    Link(MAPLE, HANDBOOK, SYNCED, 3),
)


def build(settings: Settings, upstream: Path, apps_url: str) -> None:
    """Fills an empty database and an empty queue, and creates the repositories in `upstream`."""
    for repository in REPOSITORIES:
        _create_repository(repository, upstream / repository.repository_name)
    with psycopg.connect(settings.require_database_url().get_secret_value()) as connection:
        connection.execute(files("docora_ops.demo").joinpath("schema.sql").read_bytes())
    fill(settings, upstream, apps_url)


def fill(settings: Settings, upstream: Path, apps_url: str) -> None:
    """Replaces the contents of the tables and the queue with the state of the incident."""
    url = settings.require_database_url().get_secret_value()
    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        connection.execute("TRUNCATE apps, repositories CASCADE")
        _fill_tables(cursor, settings.require_encryption_key(), upstream, apps_url)
    with closing(Database(settings)) as database, connect(settings) as client:
        client.flushdb()
        _fill_queue(settings, database, client)


def contents(repository: Repository) -> dict[str, str]:
    """Returns the files of a repository by path."""
    modules = range(REPOSITORIES.index(repository) + 6)
    paths = ["README.md", "LICENSE", *(f"src/module-{number}.ts" for number in modules)]
    return {path: f"{path} of {repository.repository_name}\n" for path in paths}


def _create_repository(repository: Repository, folder: Path) -> None:
    for path, content in contents(repository).items():
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


def _fill_tables(
    cursor: psycopg.Cursor[tuple[object, ...]], key: bytes, upstream: Path, apps_url: str
) -> None:
    for app in APPS:
        url, email = f"{apps_url}/{app.slug}", f"ops@{app.slug}.example"
        auth_key = _encrypt(_sha(app.app_id), key)
        cursor.execute(
            "INSERT INTO apps (app_id, token_hash, app_name, base_url, email,"
            " client_auth_key_encrypted) VALUES (%s, %s, %s, %s, %s, %s)",
            (app.app_id, _sha(app.name), app.name, url, email, auth_key),
        )
    for repository in REPOSITORIES:
        url = (upstream / repository.repository_name).as_uri()
        circuit = (5, 20) if repository in OPEN_CIRCUITS else (0, None)
        names = (repository.repository_id, url, repository.owner, repository.name)
        cursor.execute(
            "INSERT INTO repositories (repository_id, github_url, owner, name, is_private,"
            " consecutive_failures, circuit_open_until)"
            " VALUES (%s, %s, %s, %s, %s, %s, now() + make_interval(mins => %s))",
            (*names, repository in PRIVATE, *circuit),
        )
    for link in LINKS:
        ids = (link.app.app_id, link.repository.repository_id)
        token = _encrypt("a token", key) if link.repository in PRIVATE else None
        state = (link.status, link.retry_count, link.last_error, link.minutes_since_scan)
        cursor.execute(
            "INSERT INTO app_repositories (app_id, repository_id, github_token_encrypted, status,"
            " retry_count, last_error, last_scanned_at, created_at) VALUES (%s, %s, %s, %s, %s, %s,"
            " now() - make_interval(mins => %s), now() - interval '7 days')",
            (*ids, token, *state),
        )
        if link.minutes_since_scan is None:
            continue
        delivered = list(contents(link.repository).items())
        if link.status is not SYNCED:
            delivered = delivered[: len(delivered) // 2]
        cursor.executemany(
            "INSERT INTO app_delivered_files (app_id, repository_id, file_path, file_sha,"
            " delivered_at) VALUES (%s, %s, %s, %s, now() - make_interval(mins => %s))",
            [(*ids, path, _sha(content), link.minutes_since_scan) for path, content in delivered],
        )


def _fill_queue(settings: Settings, database: Database, client: Redis) -> None:
    queue = RqQueue(settings, client)
    record_pass(client)
    for link in LINKS:
        row = read_link(database, link.app.app_id, link.repository.repository_id)
        if link.job is None or row is None:
            continue
        is_rescan = link.minutes_since_scan is not None
        queue.push([row], {True: lambda _: True, False: lambda _: False}[is_rescan])
        if link.job is WAITING:
            continue
        # Writes what a worker writes when a job begins, and when its last try has failed.
        client.lrem(f"rq:queue:{QUEUE_NAME}", 1, row.job_id)
        job = Job.fetch(row.job_id, connection=client)
        with client.pipeline() as pipeline:
            job.prepare_for_execution(WORKER, pipeline)
            job.retries_left = 0
            record_job_failure(job, link.last_error or "", pipeline)
            pipeline.execute()


def _encrypt(text: str, key: bytes) -> str:
    """Encrypts a secret as Docora does: `iv:tag:ciphertext` in hex."""
    iv = os.urandom(16)
    sealed = AESGCM(key).encrypt(iv, text.encode(), None)
    return f"{iv.hex()}:{sealed[-16:].hex()}:{sealed[:-16].hex()}"


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
