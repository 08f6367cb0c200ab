"""The tool's main job, told with the real commands on real servers."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from typing import ClassVar

import psycopg
from redis import Redis
from rq import Queue

from docora_ops.demo.servers import postgres, valkey
from docora_ops.demo.world import ACME, API, LANTERN, WEB, build
from docora_ops.errors import DocoraOpsError
from docora_ops.render.console import output
from docora_ops.settings import Settings

REFUSED = 4
"""What a refusal exits with."""

COUNT_FAILED = "SELECT count(*) FROM app_repositories WHERE status = 'failed'"


class DemoError(DocoraOpsError):
    """A command of the story did not end as it should."""

    code: ClassVar[str] = "demo"


def tell(keep: bool = False) -> None:
    """Start servers, fill them, run the commands on them one by one, and clear all away.

    `keep`: leave the servers up after the story, until Ctrl-C. Raises DemoError when a command
    does not exit as expected, and KeyboardInterrupt after having cleared away.
    """
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        # A terminal that is closed must not leave the servers behind either.
        signal.signal(signal.SIGHUP, signal.default_int_handler)
    with _clean_environment():
        say("Starting a Postgres and a Valkey in a temporary folder. No other server is touched.")
        with _servers() as (database_url, redis_url):
            say("Both are up. No worker runs here, and the commands will say so.")
            build(database_url, redis_url)
            story = Story(database_url, redis_url)
            story.tell()
            if keep:
                story.wait()
        say("The servers are stopped and their folder is gone.")


@dataclass(frozen=True, slots=True)
class Story:
    """The commands, in the environment of the two servers."""

    database_url: str
    redis_url: str

    def tell(self) -> None:
        """Run one command after another. Raises DemoError."""
        octo_api, octo_web = f"{API.owner}/{API.name}", f"{WEB.owner}/{WEB.name}"

        self.show_state()
        self.run(
            "What would a bulk retry do? Link by link, and nothing is changed.",
            "retry-all-failed",
            "--dry-run",
        )
        self.show_state()
        self.run(
            "One link back to work. The failed job that it left in the queue is replaced.",
            *("retry", ACME.name, octo_api),
        )
        self.show_state()
        self.run(
            "This link is in sync: refused, with what would help.",
            *("retry", LANTERN.name, octo_api),
            exit_code=REFUSED,
        )
        self.run(
            "All the rest. Jobs that wait already are kept; where a snapshot runs: hands off.",
            *("retry-all-failed", "--yes"),
        )
        self.show_state()
        self.run(
            "Any terminal, and Docora's dashboard, can follow an operation by its id.",
            *("progress", self.operation_id()),
        )
        self.run(
            "An app has lost its copy: forget what it was sent, so that all is sent again.",
            *("resync", ACME.name, octo_web, "--yes"),
        )
        self.show_state()

    def run(self, sentence: str, *arguments: str, exit_code: int = 0) -> None:
        """Run one command as a user would. Raises DemoError unless it exits with `exit_code`."""
        line = shlex.join(["docora-ops", *arguments])
        say(f"\n# {sentence}")
        say(f"$ {line}", style="bold")
        code = subprocess.run(
            [sys.executable, "-m", "docora_ops", *arguments],
            env=os.environ | {"DATABASE_URL": self.database_url, "REDIS_URL": self.redis_url},
            check=False,
        ).returncode
        if code != exit_code:
            raise DemoError(f"`{line}` exited with {code}; {exit_code} was expected")
        if exit_code:
            say(f"# Exit code {exit_code}, as it should be.")

    def show_state(self) -> None:
        """Say what stands in Postgres and in Redis, read without the tool."""
        with psycopg.connect(self.database_url) as connection:
            row = connection.execute(COUNT_FAILED).fetchone()
        failed = row[0] if row else 0
        name = Settings.model_construct().queue_name
        with Redis.from_url(self.redis_url) as client:
            waiting = Queue(name, connection=client).count
        say(f"# Failed links in Postgres: {failed}. Jobs waiting in {name}: {waiting}.")

    def operation_id(self) -> str:
        """The id of the one bulk operation so far."""
        with Redis.from_url(self.redis_url, decode_responses=True) as client:
            [key] = client.scan_iter("docora:bulk:*")
        return str(key).rpartition(":")[2]

    def wait(self) -> None:
        """Say where the servers are, and wait for Ctrl-C."""
        say("\n# The servers stay up until Ctrl-C. To play with them, in another terminal:")
        say(f"export DATABASE_URL={shlex.quote(self.database_url)}")
        say(f"export REDIS_URL={shlex.quote(self.redis_url)}")
        with suppress(KeyboardInterrupt):
            Event().wait()


def say(text: str, style: str = "") -> None:
    """One line on stdout, there before a command's own output."""
    output().print(text, style=style or None, soft_wrap=True)


@contextmanager
def _servers() -> Iterator[tuple[str, str]]:
    """A Postgres and a Valkey with nothing in them; interrupted or not, nothing of them stays."""
    stack = ExitStack()
    try:
        with _signals_held_back():
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="docora-ops-demo-")))
            urls = stack.enter_context(postgres(folder)), stack.enter_context(valkey(folder))
        yield urls
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
    """Without Docora's settings, and without libpq's: PGHOSTADDR would lead to another server."""
    before = dict(os.environ)
    for name in before:
        if name.upper().startswith(("PG", "DOCORA_OPS_", "MAX_RETRY_", "RETRY_BASE_")):
            del os.environ[name]
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
