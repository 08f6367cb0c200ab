"""The transcripts of README and the topics show what the commands print.

WRITE_TRANSCRIPTS=1 writes what they print now into the files instead.
"""

import os
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from docora_ops.demo import world
from docora_ops.demo.receiver import Receiver
from docora_ops.demo.world import (
    ACME,
    APPS,
    DOCS,
    FIRMWARE,
    HARBOR,
    INFRA,
    MAPLE,
    MOBILE,
    NO_GITHUB,
    REPOSITORIES,
    ROBOT,
)
from docora_ops.links import LinkStatus
from docora_ops.queue.redis_client import describe
from tests.support.docora import Docora
from tests.support.proxy import eventually
from tests.support.terminal import run_on_screen
from tests.support.transcripts import comparable, play

WRITING = bool(os.environ.get("WRITE_TRANSCRIPTS"))
BAD_GATEWAY = "HTTP 502 on created README.md"


@dataclass
class Stage:
    """The small Docora of the demo, on the servers of the tests."""

    docora: Docora
    upstream: Path
    apps_url: str
    root: Path
    key: bytes = field(default_factory=lambda: os.urandom(32))
    lost: dict[str, str] = field(default_factory=dict)
    """Variables that lead to a server that is down."""

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
            **self.lost,
        )

    def worker_environment(self) -> dict[str, str]:
        """The role and the user of the workers."""
        docora = self.docora
        return {
            "DATABASE_URL": docora.database_access.worker,
            "REDIS_URL": docora.redis_access.worker,
        }

    def fail(self, error: str, condition: str, values: Sequence[object] = ()) -> None:
        """Makes links fail for good."""
        self.docora.connection.execute(
            "UPDATE app_repositories SET status = 'failed', retry_count = 5, last_error = %s"
            f" WHERE {condition}".encode(),
            [error, *values],
        )

    def in_peace(self) -> None:
        """Waits until every link is in sync."""
        eventually(lambda: set(self.docora.statuses()) == {"synced"}, "every link in sync")

    def run(self, command: str) -> str:
        """Run a command line, and write other names for servers and role."""
        if "--json" in command:
            _, *arguments = shlex.split(command)
            shown = self.docora.run(*arguments, env=self.environment()).stdout
        else:
            environment = self.environment()
            if "docora-ops worker" in command:
                environment |= self.worker_environment()
            shown = run_on_screen(self.docora, command, environment)
        for name, written in {
            str(self.docora.actions().database.target): "docora on db.internal",
            describe(self.docora.actions().redis): "redis.internal:6379/0",
            "127.0.0.1:1/0": "redis.internal:6379/0",
            self.docora.role: "docora_ops",
        }.items():
            shown = shown.replace(name, written)
        return shown

    def check(self, path: str, arrange: Mapping[str, Callable[[], object]] | None = None) -> None:
        """Compare the file with what its commands print, or write that into the file.

        `arrange`: by heading of a section, what happens before its commands run.
        """
        file = self.root / path
        text = file.read_text(encoding="utf-8")
        played = ""
        for section in re.split(r"^(?=## )", text, flags=re.MULTILINE):
            heading = section.partition("\n")[0].removeprefix("## ")
            (arrange or {}).get(heading, lambda: None)()
            played += play(section, self.run)
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
    environment = stage.environment() | stage.worker_environment()
    with stage.docora.start_installed("worker", "--concurrency", "2", env=environment) as process:
        try:
            queue = "rq:workers:snapshot-queue"
            eventually(lambda: stage.docora.redis.scard(queue) == 2, "two workers")
            yield
        finally:
            process.terminate()
            process.communicate(timeout=60)


@pytest.mark.slow
def test_each_incident_is_over_after_its_commands(
    stage: Stage, upstream: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world, "LINKS", tuple(map(_mended, world.LINKS)))
    stage.fill()
    docora = stage.docora
    docora.connection.execute(
        "UPDATE repositories SET circuit_open_until = NULL, consecutive_failures = 0"
    )
    workers = ExitStack()
    with ExitStack() as stack:
        stack.callback(workers.close)

        def work() -> None:
            workers.enter_context(two_workers(stage))

        def gateway() -> None:
            work()
            stage.fail(BAD_GATEWAY, "status = 'synced'")

        def git() -> None:
            stage.fail(NO_GITHUB, "repository_id = ANY (%s)", [[INFRA.repository_id]])
            docora.connection.execute(
                "UPDATE repositories SET consecutive_failures = 5,"
                " circuit_open_until = now() + interval '20 minutes' WHERE repository_id = %s",
                (INFRA.repository_id,),
            )

        def killed() -> None:
            for status, repository in (("scanning", FIRMWARE), ("pending_snapshot", DOCS)):
                docora.connection.execute(
                    "UPDATE app_repositories SET status = %s"
                    " WHERE app_id = %s AND repository_id = %s",
                    (status, ROBOT.app_id, repository.repository_id),
                )

        def idle() -> None:
            stage.in_peace()
            workers.close()
            stage.fail(BAD_GATEWAY, "app_id = %s", [HARBOR.app_id])
            assert docora.run("retry-all-failed", "--yes", env=stage.environment()).code == 0

        def emptied() -> None:
            stage.fail(BAD_GATEWAY, "app_id = %s", [ACME.app_id])
            assert docora.run("retry-all-failed", "--yes", env=stage.environment()).code == 0
            docora.redis.flushdb()
            work()

        def down() -> None:
            stage.in_peace()
            stage.lost = {"REDIS_URL": "redis://127.0.0.1:1"}

        def up() -> None:
            stage.lost = {}

        stage.check(
            "docora_ops/help/incident.md",
            {
                "The apps, or what stands before them, did not answer": gateway,
                "git failed, and circuits opened": git,
                "Workers were killed": killed,
                "No worker takes the jobs": idle,
                "Redis lost the queue": emptied,
                "An app lost its files": stage.in_peace,
                "A server is down": down,
                "Afterwards": up,
            },
        )


def _mended(link: world.Link) -> world.Link:
    return link._replace(status=LinkStatus.SYNCED, last_error=None, retry_count=0, job=None)


def test_the_json_documents(stage: Stage) -> None:
    """A worker is known that takes no job, and one link has a key instead of a job."""
    stage.fill()
    docora = stage.docora
    docora.connection.execute(
        "UPDATE repositories SET github_url = concat_ws('/', 'https://github.com', owner, name)"
    )
    docora.redis.set(f"rq:job:{MAPLE.app_id}-{MOBILE.repository_id}", "no job")
    docora.add_worker("web-1.4711.ab12")
    stage.check("docora_ops/help/json.md")


@pytest.mark.slow
def test_readme(stage: Stage, upstream: None) -> None:
    """The small Docora of the demo, once the workers have emptied the queue."""
    stage.fill()
    with two_workers(stage):
        eventually(lambda: stage.docora.statuses().get("synced") == 11, "an empty queue")
        stage.check("README.md")
