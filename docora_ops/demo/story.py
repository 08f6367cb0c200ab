"""The tool's main job, told with the real commands on real servers."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from typing import ClassVar

import psycopg
from redis import Redis
from rich import box
from rich.table import Table
from rq import Queue

from docora_ops.demo.receiver import Receiver
from docora_ops.demo.servers import postgres, valkey
from docora_ops.demo.world import ACME, API, APPS, LANTERN, REPOSITORIES, WEB, Place, build
from docora_ops.errors import DocoraOpsError
from docora_ops.render.console import output
from docora_ops.settings import Settings

REFUSED = 4
"""What a refusal exits with."""

_GLANCE = 0.3
"""Seconds between two looks at the queue."""

COUNT_STATUSES = "SELECT status, count(*) FROM app_repositories GROUP BY status"


class DemoError(DocoraOpsError):
    """A command of the story did not end as it should."""

    code: ClassVar[str] = "demo"


def tell(keep: bool = False) -> None:
    """Start servers, fill them, run the commands on them one by one, and clear all away.

    `keep`: leave the servers up after the story, until Ctrl-C. Raises DemoError when a command
    does not exit as expected, and KeyboardInterrupt after having cleared away.
    """
    with _clean_environment():
        say("Starting a Postgres and a Valkey in a temporary folder. No other server is touched.")
        with _servers() as (folder, database_url, redis_url), _apps().serving() as apps:
            say("Both are up, and so is a web server that stands for the apps. No worker runs yet.")
            place = Place(folder / "upstream", apps.url, os.urandom(32))
            build(database_url, redis_url, place)
            variables = {
                "DATABASE_URL": database_url,
                "REDIS_URL": redis_url,
                "ENCRYPTION_KEY": place.key.hex(),
                "REPOS_BASE_PATH": str(folder / "clones"),
                "DOCORA_OPS_GIT_PROTOCOLS": "file",
            }
            story = Story(variables, apps)
            story.tell()
            if keep:
                story.wait()
        say("The servers are stopped and their folder is gone.")


@dataclass(slots=True)
class Story:
    """The commands, in the environment of the servers."""

    variables: dict[str, str]
    apps: Receiver
    shown: Counter[str] = field(default_factory=Counter)
    """How many requests of each app have been shown."""

    def tell(self) -> None:
        """Run one command after another. Raises DemoError."""
        self.show_state()
        self.run(
            "What would a bulk retry do? Link by link, and nothing is changed.",
            "retry-all-failed",
            "--dry-run",
        )
        self.run(
            "One link back to work. The failed job that it left in the queue is replaced.",
            *("retry", ACME.name, API.full_name, "--front"),
        )
        self.show_state()
        self.run("A worker takes what waits, and ends.", "worker", "--burst")
        self.show_arrivals()
        self.run(
            "This link is in sync: refused, with what would help.",
            *("retry", LANTERN.name, API.full_name),
            exit_code=REFUSED,
        )
        self.run(
            "All the rest. Where a snapshot runs elsewhere: hands off.",
            *("retry-all-failed", "--yes"),
        )
        self.run(
            "Any terminal, and Docora's dashboard, can follow an operation by its id.",
            *("progress", self.operation_id()),
        )
        self.drain("Two workers empty the queue.", "worker", "--burst", "--concurrency", "2")
        self.show_arrivals()
        self.run(
            "An app has lost its copy: forget what it was sent, so that all is sent again.",
            *("resync", ACME.name, WEB.full_name, "--yes"),
        )
        self.drain("And a worker sends it.", "worker", "--burst")
        self.show_arrivals()
        self.run(
            "Queue what is due, once a minute, say: new links, rescans, and failed links, unless "
            "the circuit of their repository was opened.",
            *("schedule", "--dry-run"),
        )
        self.show_state()

    def run(self, sentence: str, *arguments: str, exit_code: int = 0) -> None:
        """Run one command as a user would. Raises DemoError unless it exits with `exit_code`."""
        self._announce(sentence, arguments)
        with self._start(arguments) as process:
            self._finish(process, arguments, exit_code)
        if exit_code:
            say(f"# Exit code {exit_code}, as it should be.")

    def drain(self, sentence: str, *arguments: str) -> None:
        """Run workers, and say how far they are instead of showing their log."""
        self._announce(sentence, (*arguments, "2>worker.log"))
        with self._start(arguments, stderr=subprocess.DEVNULL) as process:
            before = None
            while process.poll() is None:
                state = self._state()
                if state != before:
                    say("# {} failed, {} waiting, {} in sync".format(*state))
                before = state
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_GLANCE)
            self._finish(process, arguments, 0)

    def show_state(self) -> None:
        """Say what stands in Postgres and in Redis, read without the tool."""
        failed, waiting, in_sync = self._state()
        say(f"# Links: {failed} failed, {in_sync} in sync. Jobs waiting in the queue: {waiting}.")

    def show_arrivals(self) -> None:
        """A table of what the apps have got since the last one."""
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1))
        for name in ("App", "Repository", "Files sent", "In the repository"):
            table.add_column(name, justify="left" if name in {"App", "Repository"} else "right")
        for app in APPS:
            requests = self.apps.of(app.slug).requests
            sent = Counter(
                f"{request.json['repository']['owner']}/{request.json['repository']['name']}"
                for request in requests[self.shown[app.slug] :]
            )
            self.shown[app.slug] = len(requests)
            for repository in REPOSITORIES:
                if count := sent[repository.full_name]:
                    total = len(repository.contents)
                    table.add_row(app.name, repository.full_name, str(count), str(total))
        if self.apps.problems:
            raise DemoError(f"an app refused what it was sent: {self.apps.problems[0]}")
        say("# What has arrived at the apps, each signature checked:")
        output().print(table)

    def operation_id(self) -> str:
        """The id of the one bulk operation so far."""
        with Redis.from_url(self.variables["REDIS_URL"], decode_responses=True) as client:
            [key] = client.scan_iter("docora:bulk:*")
        return str(key).rpartition(":")[2]

    def wait(self) -> None:
        """Say where the servers are, and wait for Ctrl-C."""
        say("\n# The servers stay up until Ctrl-C. To play with them, in another terminal:")
        for name, value in self.variables.items():
            say(f"export {name}={shlex.quote(value)}")
        say(f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH")
        with suppress(KeyboardInterrupt):
            Event().wait()

    def _announce(self, sentence: str, arguments: Sequence[str]) -> None:
        say(f"\n# {sentence}")
        say(f"$ {shlex.join(['docora-ops', *arguments])}".replace("'2>worker.log'", "2>worker.log"))

    def _start(
        self, arguments: Sequence[str], stderr: int | None = None
    ) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "docora_ops", *arguments],
            env=os.environ | self.variables,
            stderr=stderr,
        )

    def _finish(
        self, process: subprocess.Popen[bytes], arguments: Sequence[str], exit_code: int
    ) -> None:
        code = process.wait()
        if code != exit_code:
            line = shlex.join(["docora-ops", *arguments])
            raise DemoError(f"`{line}` exited with {code}; {exit_code} was expected")

    def _state(self) -> tuple[int, int, int]:
        """Failed links, waiting jobs, links in sync."""
        with psycopg.connect(self.variables["DATABASE_URL"]) as connection:
            statuses: dict[str, int] = dict(connection.execute(COUNT_STATUSES).fetchall())
        name = Settings.model_construct().queue_name
        with Redis.from_url(self.variables["REDIS_URL"]) as client:
            waiting = Queue(name, connection=client).count
        return statuses.get("failed", 0), waiting, statuses.get("synced", 0)


def say(text: str) -> None:
    """One line on stdout, there before a command's own output."""
    style = "bold" if text.startswith("$") else None
    output().print(text, style=style, soft_wrap=True)


def _apps() -> Receiver:
    return Receiver({app.slug: app.auth_key for app in APPS})


@contextmanager
def _servers() -> Iterator[tuple[Path, str, str]]:
    """A folder, a Postgres and a Valkey; interrupted or not, nothing of them stays."""
    stack = ExitStack()
    try:
        with _signals_held_back():
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="docora-ops-demo-")))
            urls = stack.enter_context(postgres(folder)), stack.enter_context(valkey(folder))
        yield folder, *urls
    finally:
        with _signals_held_back():
            stack.close()


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """Put off a Ctrl-C: whoever is broken off while starting a server leaves it behind."""
    pending: list[int] = []
    handlers = {
        number: signal.signal(number, lambda number, _: pending.append(number))
        for number in (signal.SIGTERM, signal.SIGHUP)
    }
    # A terminal sends Ctrl-C to every process, and these have to outlive the commands that use
    # them: what is started here inherits the block. Of SIGTERM it must not, as that ends them.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for held_back in pending[:1]:
            signal.raise_signal(held_back)


@contextmanager
def _clean_environment() -> Iterator[None]:
    """Without Docora's settings, libpq's (PGHOSTADDR would lead to another server) and proxies."""
    before = dict(os.environ)
    ours = {
        str(field.validation_alias or name).upper() for name, field in Settings.model_fields.items()
    }
    for name in before:
        is_proxy = name.upper().endswith("_PROXY")
        if name.upper().startswith(("PG", "GIT_")) or name.upper() in ours or is_proxy:
            del os.environ[name]
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
