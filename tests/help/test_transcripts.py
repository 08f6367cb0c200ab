"""The pictures of README, and the transcripts of topics, show what the commands print.

WRITE_TRANSCRIPTS=1 writes what they print now into the files instead.
"""

import os
import re
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydantic import SecretStr

from docora_ops.demo import world
from docora_ops.demo.servers import apps
from docora_ops.demo.world import (
    ACME,
    API,
    DOCS,
    FIRMWARE,
    HARBOR,
    INFRA,
    LANTERN,
    MAPLE,
    MOBILE,
    NO_GITHUB,
    REPOSITORIES,
    ROBOT,
    App,
)
from docora_ops.queue.redis_client import describe
from docora_ops.queue.redis_server import read_clock
from tests.support.docora import Docora
from tests.support.proxy import Proxy, eventually, patience
from tests.support.rows import TestLink
from tests.support.terminal import on_terminal, run_on_screen
from tests.support.transcripts import (
    COLUMNS,
    comparable,
    comparable_picture,
    draw,
    play,
    with_other_user,
)

WRITING = bool(os.environ.get("WRITE_TRANSCRIPTS"))
BAD_GATEWAY = "HTTP 502 on created README.md"
PICTURES = {
    "status": "docora-ops status",
    "failed": "docora-ops failed --group-by error",
    "retry": "docora-ops retry 'Acme Search' octo/api --wait",
}


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
        self.of_workers = {
            "DATABASE_URL": self.docora.database_access.worker,
            "REDIS_URL": self.docora.redis_access.worker,
        }
        with self.docora.connection.transaction():
            cursor = self.docora.connection.cursor()
            world._fill_tables(cursor, key, self.upstream, self.apps_url)  # type: ignore[arg-type]
        database = self.docora.actions().database
        world._fill_queue(self.docora.settings, database, self.docora.redis)
        self.docora.age_links()

    def fail(self, error: str, condition: str, values: Sequence[object] = ()) -> None:
        """Makes links fail for good, which were good an hour ago."""
        self.docora.connection.execute(
            "UPDATE app_repositories SET status = 'failed', retry_count = 5, last_error = %s,"
            f" last_scanned_at = now() - interval '70 minutes' WHERE {condition}".encode(),
            [error, *values],
        )

    def in_peace(self) -> None:
        """Waits until every link is in sync."""
        eventually(lambda: set(self.docora.statuses()) == {"synced"}, "every link in sync")

    def run(self, command: str, *, in_colour: bool = False) -> str:
        """Runs a command line, and writes other names for servers, role and user."""
        # A timer runs `schedule` each minute.
        self.docora.redis.set("docora-ops:schedule", int(time.time()))
        _, *arguments = shlex.split(command)
        if in_colour:
            _, shown = on_terminal(self.docora, arguments, columns=COLUMNS, env=self.environment)
        elif "--json" in command:
            shown = self.docora.run(*arguments, env=self.environment).stdout
        else:
            servers = self.of_workers if "docora-ops worker" in command else {}
            shown = run_on_screen(self.docora, command, self.environment | servers)
        url = SecretStr(self.environment["DATABASE_URL"])
        for name, written in {
            str(self.docora.actions(database_url=url).database.server): "docora on db.internal",
            describe(self.docora.actions().redis): "redis.internal:6379/0",
            "127.0.0.1:1/0": "redis.internal:6379/0",
            f"{self.apps_url}/{HARBOR.slug}": f"https://{HARBOR.slug}.example/docora",
            self.docora.role: "docora_ops",
        }.items():
            shown = shown.replace(name, written)
        return with_other_user(shown, self.docora.actions().docora.describe_change("", None).who)

    def check(self, path: str, **arrange: Callable[[], object]) -> None:
        """Compares the file with what its commands print, or writes that into the file.

        `arrange`: by a word of the heading of a section, what happens before its commands run.
        """
        file = self.root / path
        text = file.read_text(encoding="utf-8")
        played = ""
        for section in re.split(r"^(?=## )", text, flags=re.MULTILINE):
            for word in arrange.keys() & set(re.findall(r"\w+", section.partition("\n")[0])):
                arrange.pop(word)()
            played += play(section, self.run)
        assert not arrange, "no such sections: their commands ran without what they are about"
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
    environment = stage.environment | stage.of_workers
    with stage.docora.start_installed("worker", "--concurrency", "2", env=environment) as process:
        try:
            queue = "rq:workers:snapshot-queue"
            eventually(lambda: stage.docora.redis.scard(queue) == 2, "two workers")
            yield
        finally:
            process.terminate()
            process.communicate(timeout=2 * patience())


@pytest.mark.slow
def test_the_json_documents(stage: Stage) -> None:
    """A worker is known that takes no job, and one link has a key instead of a job."""
    docora = stage.docora
    docora.connection.execute(
        "UPDATE repositories SET github_url = concat_ws('/', 'https://github.com', owner, name)"
    )
    docora.redis.set(f"rq:job:{MAPLE.app_id}-{MOBILE.repository_id}", "no job")
    docora.add_worker("web-1.4711.ab12")

    def proof() -> None:
        docora.connection.execute(
            "WITH s AS (INSERT INTO repository_snapshots (repository_id, commit_sha, scanned_at)"
            "  SELECT repository_id, 'c0ffee', last_scanned_at - interval '50 ms'"
            "  FROM app_repositories"
            "  WHERE app_id = %(app)s AND repository_id = %(repository)s"
            "  RETURNING id, repository_id)"
            " INSERT INTO snapshot_files (snapshot_id, path, sha, size)"
            " SELECT s.id, d.file_path, d.file_sha, 1 FROM s JOIN app_delivered_files d"
            " USING (repository_id) WHERE app_id = %(app)s UNION ALL"
            " SELECT s.id, 'docs/new.md', repeat('a', 64), 1 FROM s",
            {"app": LANTERN.app_id, "repository": API.repository_id},
        )

    stage.check("docora_ops/help/json.md", proof=proof)


@pytest.fixture
def upstream(stage: Stage) -> None:
    for repository in REPOSITORIES:
        world._create_repository(repository, stage.upstream / repository.repository_name)


@pytest.mark.slow
@pytest.mark.usefixtures("upstream")
def test_the_pictures_of_readme(stage: Stage) -> None:
    """The small Docora of the demo, once the workers have emptied the queue."""
    redis = stage.docora.redis
    world.write_record(redis, world.outcomes_of_links(read_clock(redis)))
    # A long TMPDIR makes the path of the socket of Postgres wider than the picture.
    with two_workers(stage), Proxy.before_postgres(stage.docora.database_url) as postgres:
        stage.environment["DATABASE_URL"] = postgres.url
        eventually(lambda: stage.docora.statuses().get("synced") == 11, "links in sync")
        # A job ends in Redis after its link is in sync, and the worker is busy until then.
        workers = redis.smembers("rq:workers:snapshot-queue")
        eventually(
            lambda: {redis.hget(worker, "state") for worker in workers} == {b"idle"}, "idle workers"
        )
        for name, command in PICTURES.items():
            file = stage.root / ".github" / "pictures" / f"{name}.svg"
            drawn = draw(command, stage.run(command, in_colour=True))
            before = comparable_picture(file.read_text(encoding="utf-8") if file.exists() else "")
            if WRITING and before != comparable_picture(drawn):
                file.write_text(drawn, encoding="utf-8")
            # If not: make pictures
            assert WRITING or before == comparable_picture(drawn)


@pytest.mark.slow
@pytest.mark.usefixtures("upstream")
def test_each_incident_is_over_after_its_commands(stage: Stage) -> None:
    docora = stage.docora
    docora.redis.flushdb()
    docora.connection.execute(
        "UPDATE repositories SET circuit_open_until = NULL, consecutive_failures = 0;"
        "UPDATE app_repositories SET status = 'synced', last_error = NULL, retry_count = 0"
    )
    workers = ExitStack()

    def gateway() -> None:
        workers.enter_context(two_workers(stage))
        stage.fail(BAD_GATEWAY, "true")

    def git() -> None:
        stage.fail(NO_GITHUB, "repository_id = %s", [INFRA.repository_id])
        docora.connection.execute(
            "UPDATE repositories SET consecutive_failures = 5,"
            " circuit_open_until = now() + interval '20 minutes' WHERE repository_id = %s",
            (INFRA.repository_id,),
        )

    def hanging() -> None:
        stage.in_peace()
        stage.fail("no answer within 30 s on created README.md", "app_id = %s", [HARBOR.app_id])

    def killed() -> None:
        stage.in_peace()
        # A worker that looks for stuck links, every 30 s, would be faster than the commands.
        docora.redis.set("rq:clean_registries:snapshot-queue", 1)
        for status, repository in (("scanning", FIRMWARE), ("pending_snapshot", DOCS)):
            docora.set_link(TestLink(ROBOT.app_id, repository.repository_id), status=status)

    def retry_links_of(app: App) -> None:
        stage.fail(BAD_GATEWAY, "app_id = %s", [app.app_id])
        assert docora.run("retry-all-failed", "--yes", env=stage.environment).code == 0

    def idle() -> None:
        stage.in_peace()
        workers.close()
        retry_links_of(HARBOR)

    def emptied() -> None:
        retry_links_of(ACME)
        docora.redis.flushdb()
        workers.enter_context(two_workers(stage))

    def incomplete() -> None:
        stage.in_peace()
        # Only a link whose scan has stored the commit differs for certain.
        docora.connection.execute(
            "WITH s AS (UPDATE repository_snapshots SET scanned_at = now()"
            "  WHERE repository_id = %(repository)s),"
            " l AS (UPDATE app_repositories SET last_scanned_at = now()"
            "  WHERE app_id = %(app)s AND repository_id = %(repository)s)"
            " DELETE FROM app_delivered_files WHERE app_id = %(app)s"
            "  AND repository_id = %(repository)s AND file_path LIKE 'src/module-1%%'",
            {"app": ROBOT.app_id, "repository": DOCS.repository_id},
        )

    def down() -> None:
        stage.in_peace()
        stage.environment["REDIS_URL"] = "redis://127.0.0.1:1"

    def up() -> None:
        stage.environment["REDIS_URL"] = docora.redis_url

    with workers:
        stage.check(
            "docora_ops/help/incident.md",
            gateway=gateway,
            circuits=git,
            hangs=hanging,
            killed=killed,
            jobs=idle,
            queue=emptied,
            misses=incomplete,
            down=down,
            Afterwards=up,
        )
