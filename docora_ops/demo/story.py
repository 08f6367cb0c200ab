"""Runs the real commands on the demo's servers, as in an incident."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event

from docora_ops.database import Database
from docora_ops.database.link_reports import count_links
from docora_ops.demo.receiver import Receiver
from docora_ops.demo.servers import postgres, valkey
from docora_ops.demo.world import ACME, API, APPS, HARBOR, build, fill
from docora_ops.errors import DocoraOpsError
from docora_ops.interrupts import deferred, held_back
from docora_ops.links import LinkStatus
from docora_ops.queue import RqQueue, connect
from docora_ops.render.console import is_terminal, make_console
from docora_ops.settings import Settings, load_settings

_PAUSE = 0.1  # seconds between two looks whether the workers listen
_START_LIMIT = 60  # seconds
FIRST_COMMANDS = (
    "status",
    f"retry '{ACME.name}' {API.repository_name} --wait",
    "retry-all-failed --in-flight 2 --max-failures 2",
)
"""Commands to try after the story."""


class DemoError(DocoraOpsError, code="demo"):
    """A command of the story did not end as expected."""


def tell(keep: bool = False) -> None:
    """Starts servers, fills them, runs the commands on them, and removes the servers.

    `keep`: then makes the links fail again, and leaves servers and workers up until Ctrl-C. Raises
    DemoError.
    """
    _clean_environment()
    receiver = Receiver({app.slug: app.auth_key for app in APPS})
    say("# Starting Postgres and Valkey in a temporary folder; no other server is used.")
    with _servers() as (folder, database_url, redis_url), receiver.serving():
        say("# Both are up, and so is a web server that stands for the apps.")
        variables = {
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "DOCORA_OPS_BACKEND": "rq",
            "ENCRYPTION_KEY": os.urandom(32).hex(),
            "REPOS_BASE_PATH": str(folder / "clones"),
            "DOCORA_OPS_GIT_PROTOCOLS": "file",
        }
        os.environ.update(variables, PAGER="")
        settings = load_settings()
        build(settings, folder / "upstream", receiver.url)
        story = Story(settings, receiver)
        story.tell()
        if keep:
            fill(settings, folder / "upstream", receiver.url)
            with story.workers():
                _wait(variables)
    say("# The servers are stopped and their folder is gone.")


@dataclass(slots=True)
class Story:
    """The commands in their order."""

    settings: Settings
    receiver: Receiver

    def tell(self) -> None:
        """Runs the commands. Raises DemoError."""
        self.run("Paged at three: apps get no changes any more. How bad is it?", "status")
        say("\n# Circuit: git failed five times in a row for a repository, so Docora's")
        say("# scheduler leaves it alone for half an hour. A retry does not wait for that.")
        say("# Drift: a link and its job disagree, such as a link that waits without a job.")
        say("# There is none here; docora-ops repair fixes it.")
        self.run("Why did the links fail?", "failed --group-by error --limit 5")
        say("\n# Stale: what a failed job has left in the queue. A retry replaces it.")
        self.run(
            "What would a retry of all links of one app do? Nothing is changed.",
            f"retry-all-failed --app '{HARBOR.name}' --dry-run",
        )
        with self.workers():
            self.run(
                "The causes are gone, and two workers run. Try one link, and wait for it.",
                f"retry '{ACME.name}' {API.repository_name} --wait",
            )
            self.run("It came in sync, so all the rest follows.", "retry-all-failed --yes --wait")
            self.run("Is it over?", "status")
        self.check()

    def run(self, sentence: str, line: str) -> None:
        """Runs one command, and waits for a key where somebody watches. Raises DemoError."""
        say(f"\n# {sentence}")
        say(f"$ docora-ops {line}")
        code = subprocess.call([sys.executable, "-m", "docora_ops", *shlex.split(line)])
        if code:
            raise DemoError(f"`docora-ops {line}` exited with {code}")
        _await_key()

    @contextmanager
    def workers(self) -> Iterator[None]:
        """Runs two workers in the background; begins when both listen. Raises DemoError."""
        command = [sys.executable, "-m", "docora_ops", "worker", "--concurrency", "2"]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            try:
                with connect(self.settings) as client:
                    queue = RqQueue(self.settings, client)
                    limit = time.monotonic() + _START_LIMIT
                    while queue.count_workers() < 2:  # noqa: PLR2004
                        if process.poll() is not None or time.monotonic() > limit:
                            raise DemoError("the two workers did not start")
                        time.sleep(_PAUSE)
                yield
            finally:
                process.terminate()

    def check(self) -> None:
        """Checks that every link is in sync. Raises DemoError."""
        with closing(Database(self.settings)) as database:
            counts = count_links(database)
        if self.receiver.problems:
            raise DemoError(f"an app refused what it was sent: {self.receiver.problems[0]}")
        if counts.by_status[LinkStatus.SYNCED] < counts.total:
            raise DemoError(f"not every link is in sync: {counts.by_status}")
        files = sum(len(self.receiver.of(app.slug).requests) for app in APPS)
        say(f"\n# The apps have received {files} files, each signature checked.")


def say(text: str) -> None:
    """Prints a text on stdout. Does not break a command: it may be pasted."""
    make_console(sys.stdout).print(
        text,
        style="bold" if text.startswith("$") else None,
        soft_wrap=text.startswith(("$", "export", "docora-ops")),
    )


def _await_key() -> None:
    """Waits for a key if a person watches at a terminal, so that each step is read in peace."""
    if os.environ.get("CI") or not (sys.stdin.isatty() and is_terminal(sys.stdout)):
        return
    before = termios.tcgetattr(sys.stdin)
    if os.tcgetpgrp(sys.stdin.fileno()) != os.getpgrp():
        return  # in the background, where reading the terminal would stop the demo
    try:
        tty.setcbreak(sys.stdin, termios.TCSAFLUSH)  # keys pressed before the prompt do not count
        sys.stdout.write("# Press any key to go on.")
        sys.stdout.flush()
        os.read(sys.stdin.fileno(), 1)
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSAFLUSH, before)
        sys.stdout.write("\r\x1b[K")  # the prompt gives way to the next step


def _wait(variables: dict[str, str]) -> None:
    """Prints the variables that lead to the servers, and commands to try; waits for Ctrl-C."""
    with suppress(KeyboardInterrupt):
        say("\n# Links have failed again, and two workers run, until Ctrl-C.")
        say("# In another terminal:")
        for name, value in variables.items():
            say(f"export {name}={shlex.quote(value)}")
        say(f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH")
        say("# Then, to begin with:")
        for line in FIRST_COMMANDS:
            say(f"docora-ops {line}")
        Event().wait()


@contextmanager
def _servers() -> Iterator[tuple[Path, str, str]]:
    """Starts the servers in a temporary folder; always stops them and removes the folder."""
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
    """Delays signals, since an interrupted start would leave a server behind.

    A terminal sends Ctrl-C to every process. The servers inherit this block, so that they outlive
    the commands. SIGTERM ends the servers, so it is not blocked.
    """
    with held_back({signal.SIGINT}), deferred({signal.SIGTERM, signal.SIGHUP}):
        yield


def _clean_environment() -> None:
    """Removes variables that may lead elsewhere: Docora's, ours, and of libpq, git and proxies."""
    ours = {
        str(field.validation_alias or name).upper() for name, field in Settings.model_fields.items()
    }
    for variable in list(os.environ):
        name = variable.upper()
        is_of_a_kind = name.startswith(("DOCORA_OPS_", "PG", "GIT_")) or name.endswith("_PROXY")
        if is_of_a_kind or name in ours:
            del os.environ[variable]
