"""The transcripts of README and the topics show what the commands print.

WRITE_TRANSCRIPTS=1 writes what they print now into the files instead.
"""

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from docora_ops.demo import world
from docora_ops.demo.receiver import Receiver
from docora_ops.demo.world import (
    API,
    APPS,
    DOCS,
    HANDBOOK,
    LANTERN,
    MAPLE,
    MOBILE,
    REPOSITORIES,
    ROBOT,
)
from docora_ops.links import LinkStatus
from docora_ops.queue.redis_client import describe
from tests.support.docora import Docora
from tests.support.proxy import eventually
from tests.support.transcripts import DASHBOARDS, comparable, play

WRITING = bool(os.environ.get("WRITE_TRANSCRIPTS"))
BAD_GATEWAY = "HTTP 502 on created README.md"


@dataclass(frozen=True)
class Stage:
    """The small Docora of the demo, on the servers of the tests."""

    docora: Docora
    upstream: Path
    apps_url: str
    root: Path
    key: bytes = field(default_factory=lambda: os.urandom(32))

    def fill(self) -> None:
        with self.docora.connection.transaction():
            cursor = self.docora.connection.cursor()
            world._fill_tables(cursor, self.key, self.upstream, self.apps_url)  # type: ignore[arg-type]
        database = self.docora.actions().database
        world._fill_queue(self.docora.settings, database, self.docora.redis)
        self.docora.age_links()

    def environment(self) -> dict[str, str]:
        return self.docora.environment(
            ENCRYPTION_KEY=self.key.hex(),
            REPOS_BASE_PATH=str(self.upstream / "clones"),
            DOCORA_OPS_GIT_PROTOCOLS="file",
            DOCORA_OPS_DRIFT_GRACE=None if WRITING else "1",
        )

    def forget_job(self, link: world.Link) -> None:
        """The queue loses the job of the link."""
        job_id = f"{link.app.app_id}-{link.repository.repository_id}"
        self.docora.redis.delete(f"rq:job:{job_id}")
        self.docora.redis.lrem(self.docora.queue.key, 0, job_id)

    def run(self, command: str) -> str:
        """Run a command line, and write other names for servers and role."""
        if "--json" in command:
            _, *arguments = shlex.split(command)
            shown = self.docora.run(*arguments, env=self.environment()).stdout
        else:
            line = f"exec 2>&1; {command}"
            shown = self.docora.run_in_shell(line, env=self.environment()).stdout
        for name, written in {
            str(self.docora.actions().database.target): "docora on db.internal",
            describe(self.docora.actions().redis): "redis.internal:6379/0",
            self.docora.role: "docora_ops",
        }.items():
            shown = shown.replace(name, written)
        return shown

    def check(self, path: str) -> None:
        """Compare the file with what its commands print, or write that into the file."""
        file = self.root / path
        text = file.read_text(encoding="utf-8")
        played = play(text, self.run)
        if WRITING and comparable(played) != comparable(text):
            file.write_text(played, encoding="utf-8")
        assert WRITING or comparable(played) == comparable(text)


@pytest.fixture
def stage(docora: Docora, tmp_path: Path, repository_root: Path) -> Iterator[Stage]:
    apps = Receiver({app.slug: app.auth_key for app in APPS})
    with apps.serving():
        yield Stage(docora, tmp_path / "upstream", apps.url, repository_root)


@pytest.fixture
def upstream(stage: Stage) -> None:
    for repository in REPOSITORIES:
        world._create_repository(repository, stage.upstream / repository.repository_name)


@contextmanager
def two_workers(stage: Stage) -> Iterator[None]:
    """Runs two workers, and begins when both listen."""
    environment = stage.environment() | {
        "DATABASE_URL": stage.docora.database_access.worker,
        "REDIS_URL": stage.docora.redis_access.worker,
    }
    with stage.docora.start_installed("worker", "--concurrency", "2", env=environment) as process:
        try:
            queue = "rq:workers:snapshot-queue"
            eventually(lambda: stage.docora.redis.scard(queue) == 2, "two workers")
            yield
        finally:
            process.terminate()
            process.communicate(timeout=60)


def test_the_incident(stage: Stage, upstream: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every link has failed, except those in sync; the only pending link has lost its job."""
    links = []
    for link in world.LINKS:
        lost = (link.app, link.repository) == (ROBOT, HANDBOOK)
        status = LinkStatus.SYNCED if link.status is LinkStatus.SCANNING else link.status
        if status is LinkStatus.PENDING_SNAPSHOT and not lost:
            status = LinkStatus.FAILED
        unknown_host = (link.app, link.repository) == (LANTERN, DOCS)
        error = link.last_error if unknown_host else BAD_GATEWAY
        links.append(
            link._replace(
                status=status,
                last_error=error if status is LinkStatus.FAILED else None,
                job=link.job if link.job is world.DEAD else None,
            )
        )
    monkeypatch.setattr(world, "LINKS", tuple(links))
    stage.fill()
    stage.docora.connection.execute(
        "UPDATE repositories SET circuit_open_until = NULL, consecutive_failures = 0"
    )
    with two_workers(stage):
        stage.check("docora_ops/help/incident.md")


def test_the_json_documents(stage: Stage) -> None:
    """One link has lost its job, one has a key instead of a job; an operation is running."""
    stage.fill()
    docora = stage.docora
    docora.connection.execute(
        "UPDATE apps SET base_url = 'https://' || split_part(email, '@', 2) || '/docora'"
    )
    docora.connection.execute(
        "UPDATE repositories SET github_url = concat_ws('/', 'https://github.com', owner, name)"
    )
    docora.connection.execute(
        "WITH snapshot AS (INSERT INTO repository_snapshots (repository_id, commit_sha)"
        " SELECT repository_id, repeat('77035d0ce7', 4) FROM repositories WHERE name = 'api'"
        " RETURNING id) INSERT INTO snapshot_files (snapshot_id, path, sha, size)"
        " SELECT id, path, 'sha', 20 FROM snapshot, unnest(%s::text[]) AS path",
        (list(world.contents(API)),),
    )
    stage.forget_job(world.Link(ROBOT, HANDBOOK, LinkStatus.PENDING_SNAPSHOT))
    docora.redis.set(f"rq:job:{MAPLE.app_id}-{MOBILE.repository_id}", "no job")
    docora.redis.hset(f"docora:bulk:{DASHBOARDS}", items=["total", 12, "completed", 4])
    docora.redis.hset(f"docora:bulk:{DASHBOARDS}", items=["succeeded", 4, "failed", 0])
    docora.redis.expire(f"docora:bulk:{DASHBOARDS}", 3600)
    docora.add_worker("web-1.4711.ab12")
    docora.redis.hset(
        "rq:worker:web-1.4711.ab12", items=["state", "idle", "hostname", "web-1", "pid", "4711"]
    )
    stage.check("docora_ops/help/json.md")


def test_readme(stage: Stage, upstream: None) -> None:
    """The small Docora of the demo, once the workers have emptied the queue."""
    stage.fill()
    with two_workers(stage):
        eventually(lambda: stage.docora.statuses().get("synced") == 10, "an empty queue")
        stage.check("README.md")
