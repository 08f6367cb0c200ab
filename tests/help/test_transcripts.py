"""The transcripts of README and of the topic json show what the commands print.

WRITE_TRANSCRIPTS=1 writes what they print now into the files instead.
"""

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from docora_ops.demo import world
from docora_ops.demo.servers import apps
from docora_ops.demo.world import MAPLE, MOBILE, REPOSITORIES
from docora_ops.queue.redis_client import describe
from tests.support.docora import Docora
from tests.support.proxy import eventually
from tests.support.terminal import run_on_screen
from tests.support.transcripts import comparable, play

WRITING = bool(os.environ.get("WRITE_TRANSCRIPTS"))


@dataclass
class Stage:
    """The small Docora of the demo, on the servers of the tests."""

    docora: Docora
    upstream: Path
    apps_url: str
    root: Path

    def __post_init__(self) -> None:
        key = os.urandom(32)
        self.environment = self.docora.environment(
            ENCRYPTION_KEY=key.hex(),
            REPOS_BASE_PATH=str(self.upstream / "clones"),
            DOCORA_OPS_GIT_PROTOCOLS="file",
            DOCORA_OPS_DRIFT_GRACE=None if WRITING else "1",
        )
        with self.docora.connection.transaction():
            cursor = self.docora.connection.cursor()
            world._fill_tables(cursor, key, self.upstream, self.apps_url)  # type: ignore[arg-type]
        database = self.docora.actions().database
        world._fill_queue(self.docora.settings, database, self.docora.redis)
        self.docora.age_links()

    def run(self, command: str) -> str:
        """Runs a command line, and writes other names for servers and role."""
        if "--json" in command:
            _, *arguments = shlex.split(command)
            shown = self.docora.run(*arguments, env=self.environment).stdout
        else:
            shown = run_on_screen(self.docora, command, self.environment)
        for name, written in {
            str(self.docora.actions().database.target): "docora on db.internal",
            describe(self.docora.actions().redis): "redis.internal:6379/0",
            self.docora.role: "docora_ops",
        }.items():
            shown = shown.replace(name, written)
        return shown

    def check(self, path: str) -> None:
        """Compares the file with what its commands print, or writes that into the file."""
        file = self.root / path
        text = file.read_text(encoding="utf-8")
        played = play(text, self.run)
        if WRITING and comparable(played) != comparable(text):
            file.write_text(played, encoding="utf-8")
        assert WRITING or comparable(played) == comparable(text)


@pytest.fixture
def stage(docora: Docora, tmp_path: Path, repository_root: Path) -> Iterator[Stage]:
    with apps() as (url, _):
        yield Stage(docora, tmp_path / "upstream", url, repository_root)


@contextmanager
def two_workers(stage: Stage) -> Iterator[None]:
    """Runs two workers, and begins when both listen."""
    environment = stage.environment | {
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


def test_the_json_documents(stage: Stage) -> None:
    """A worker is known that takes no job, and one link has a key instead of a job."""
    docora = stage.docora
    docora.connection.execute(
        "UPDATE repositories SET github_url = concat_ws('/', 'https://github.com', owner, name)"
    )
    docora.redis.set(f"rq:job:{MAPLE.app_id}-{MOBILE.repository_id}", "no job")
    docora.add_worker("web-1.4711.ab12")
    stage.check("docora_ops/help/json.md")


@pytest.mark.slow
def test_readme(stage: Stage) -> None:
    """The small Docora of the demo, once the workers have emptied the queue."""
    for repository in REPOSITORIES:
        world._create_repository(repository, stage.upstream / repository.repository_name)
    with two_workers(stage):
        eventually(lambda: stage.docora.statuses().get("synced") == 11, "an empty queue")
        stage.check("README.md")
