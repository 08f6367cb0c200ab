"""Runs the real commands on the demo's servers, as in an incident."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from typing import NamedTuple

from docora_ops.demo.servers import apps, postgres, valkey
from docora_ops.demo.world import ACME, API, HARBOR, build, fill
from docora_ops.errors import DocoraOpsError
from docora_ops.queue.connection import connect
from docora_ops.queue.rq import RqQueue
from docora_ops.settings import Settings, load_settings

_PAUSE = 0.1  # seconds between two checks whether the workers listen
_START_LIMIT = 60  # seconds
# Commands to try after the story.
FIRST_COMMANDS = (
    "status",
    f"retry '{ACME.name}' {API.repository_name} --wait",
    "retry-all-failed --limit 3 --wait",
)


class DemoError(DocoraOpsError, code="demo"):
    """A command of the story did not end as expected."""


def tell(keep: bool = False) -> None:
    """Starts servers, fills them, runs commands on them, and removes the servers.

    Raises DemoError.

    keep: afterwards, make links fail again, and keep servers and workers running until Ctrl-C.
    """
    say("# Starting Postgres and Valkey in a temporary folder; no other server is used.")
    with prepared() as demo:
        say("# Both are up, and so is a web server that stands for the apps.")
        _run_commands(demo.settings)
        say(f"\n# The apps have received {demo.posts.total()} files.")
        if keep:
            demo.fill()
            with workers(demo.settings):
                _wait(demo.variables)
    say("# The servers are stopped and their folder is gone.")


class Demo(NamedTuple):
    """The demo's servers: their settings, and the files that the apps have received, by path."""

    settings: Settings
    variables: dict[str, str]
    posts: Counter[str]
    upstream: Path
    apps_url: str

    def fill(self) -> None:
        """Makes links fail again."""
        fill(self.settings, self.upstream, self.apps_url)


@contextmanager
def prepared() -> Iterator[Demo]:
    """Starts servers with failed links, and sets the environment for commands to use them."""
    _clean_environment()
    with _servers() as (folder, database_url, redis_url), apps() as (apps_url, posts):
        variables = {
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "DOCORA_OPS_BACKEND": "rq",
            "ENCRYPTION_KEY": os.urandom(32).hex(),
            "REPOS_BASE_PATH": str(folder / "clones"),
            "DOCORA_OPS_GIT_PROTOCOLS": "file",
        }
        os.environ.update(variables)
        settings = load_settings()
        build(settings, folder / "upstream", apps_url)
        yield Demo(settings, variables, posts, folder / "upstream", apps_url)


def _run_commands(settings: Settings) -> None:
    _run("Paged at three: apps get no changes any more. How bad is it?", "status")
    say("\n# Circuit: git failed five times in a row for a repository, so Docora's")
    say("# scheduler leaves it alone for half an hour. A retry does not wait for that.")
    _run("Why did the links fail?", "failed --group-by error --limit 5")
    say("\n# Stale: what a failed job has left in the queue. A retry replaces it.")
    _run(
        "What would a retry of all links of one app do? Nothing is changed.",
        f"retry-all-failed --app '{HARBOR.name}' --dry-run",
    )
    with workers(settings):
        _run(
            "The causes are gone, and two workers run. Try one link, and wait for it.",
            f"retry '{ACME.name}' {API.repository_name} --wait",
        )
        _run("It came in sync, so all the rest follows.", "retry-all-failed --yes --wait")
        _run("Is it over?", "status")


def _run(sentence: str, line: str) -> None:
    """Runs one command, then waits for Enter if a person is watching. Raises DemoError."""
    say(f"\n# {sentence}")
    say(f"$ docora-ops {line}")
    code = subprocess.call([sys.executable, "-m", "docora_ops", *shlex.split(line)])
    if code:
        raise DemoError(f"`docora-ops {line}` exited with {code}")
    if sys.stdin.isatty() and sys.stdout.isatty() and not os.environ.get("CI"):
        with suppress(EOFError):
            input("# Press Enter to go on.")


@contextmanager
def workers(settings: Settings) -> Iterator[None]:
    """Runs two workers in the background. The block begins once both listen. Raises DemoError."""
    command = [sys.executable, "-m", "docora_ops", "worker", "--concurrency", "2"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            with connect(settings) as client:
                queue = RqQueue(settings, client)
                limit = time.monotonic() + _START_LIMIT
                while len(queue.workers()) < 2:  # noqa: PLR2004
                    if process.poll() is not None or time.monotonic() > limit:
                        raise DemoError("the two workers did not start")
                    time.sleep(_PAUSE)
            yield
        finally:
            process.terminate()


def say(text: str) -> None:
    """Prints a text on stdout. Does not wrap commands, so that they can be pasted."""
    is_bold = text.startswith("$") and sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    sys.stdout.write(f"\x1b[1m{text}\x1b[0m\n" if is_bold else f"{text}\n")
    sys.stdout.flush()


def _wait(variables: dict[str, str]) -> None:
    with suppress(KeyboardInterrupt):
        say("\n# Links have failed again, and two workers run, until Ctrl-C.")
        say("# In another terminal:")
        for name, value in variables.items():
            say(f"export {name}={shlex.quote(value)}")
        say(f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH")
        say("# To keep scanning, as a timer would:")
        say("docora-ops schedule --repeat")
        say("# Then, to begin with:")
        for line in FIRST_COMMANDS:
            say(f"docora-ops {line}")
        Event().wait()
    say("\n# Stopping.")


@contextmanager
def _servers() -> Iterator[tuple[Path, str, str]]:
    """Starts the servers in a temporary folder; always stops them and removes the folder.

    Delays signals while starting and stopping, because an interrupted start would leave a server
    behind. The servers start with SIGINT blocked, because Ctrl-C in the terminal must not end a
    server that a command still uses. SIGTERM stops the servers.
    """
    stack = ExitStack()
    try:
        with _blocked():
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="docora-ops-demo-")))
            urls = stack.enter_context(postgres(folder)), stack.enter_context(valkey(folder))
        yield folder, *urls
    finally:
        with _blocked():
            stack.close()


@contextmanager
def _blocked() -> Iterator[None]:
    """Delays the signals that would end the demo until the block has ended."""
    ending = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ending)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _clean_environment() -> None:
    """Removes variables of Docora, docora-ops, libpq, git and proxies that may point elsewhere."""
    names = "|".join(str(field.validation_alias) for field in Settings.model_fields.values())
    lead_elsewhere = f"DOCORA_OPS_.*|PG.*|GIT_.*|.*_PROXY|({names})(_FILE)?"
    for name in list(os.environ):
        if re.fullmatch(lead_elsewhere, name, re.IGNORECASE):
            del os.environ[name]
