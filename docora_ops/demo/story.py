"""Runs the real commands on the demo's servers, one after the other."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event

from rich.text import Text

from docora_ops.database import Database
from docora_ops.demo.receiver import Receiver
from docora_ops.demo.servers import postgres, valkey
from docora_ops.demo.world import ACME, API, APPS, LANTERN, REPOSITORIES, WEB, build, contents
from docora_ops.errors import DocoraOpsError
from docora_ops.queue import connect
from docora_ops.render.console import make_console
from docora_ops.render.layout import records
from docora_ops.settings import Settings, load_settings

_TO_LOG = " 2>worker.log"
"""Ends the line of a command whose stderr is not shown."""
_COLUMNS = ("App", "Repository", "Files sent", "In the repository")
_PAUSE = 0.3
"""Seconds between two looks at the queue while workers run."""

COUNT_STATUSES = "SELECT status, count(*) FROM app_repositories GROUP BY status"


class DemoError(DocoraOpsError, code="demo"):
    """A command of the story did not end as expected."""


def tell(keep: bool = False) -> None:
    """Starts servers, fills them, runs the commands on them, and removes the servers.

    `keep`: leaves the servers up after the story, until Ctrl-C. Raises DemoError.
    """
    _clean_environment()
    receiver = Receiver({app.slug: app.auth_key for app in APPS})
    say("Starting a Postgres and a Valkey in a temporary folder. No other server is touched.")
    with _servers() as (folder, database_url, redis_url), receiver.serving():
        say("Both are up, and so is a web server that stands for the apps. No worker runs yet.")
        variables = {
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "ENCRYPTION_KEY": os.urandom(32).hex(),
            "REPOS_BASE_PATH": str(folder / "clones"),
            "DOCORA_OPS_GIT_PROTOCOLS": "file",
        }
        os.environ.update(variables)
        settings = load_settings()
        build(settings, folder / "upstream", receiver.url)
        Story(settings, receiver).tell()
        if keep:
            _wait(variables)
    say("The servers are stopped and their folder is gone.")


@dataclass(slots=True)
class Story:
    """The commands in their order."""

    settings: Settings
    receiver: Receiver

    def tell(self) -> None:
        """Runs the commands. Raises DemoError."""
        self.show_state()
        self.run(
            "What would a bulk retry do? Link by link, and nothing is changed.",
            "docora-ops retry-all-failed --dry-run",
        )
        self.run(
            "One link back to work. The failed job that it left in the queue is replaced.",
            f"docora-ops retry '{ACME.name}' {API.repository_name} --front",
        )
        self.show_state()
        self.run("A worker takes what waits, and ends.", "docora-ops worker --burst")
        self.show_arrivals()
        self.run(
            "This link is in sync: refused, with what would help.",
            f"docora-ops retry '{LANTERN.name}' {API.repository_name}",
            exit_code=4,
        )
        self.run(
            "All the rest. A link whose snapshot is running is left as it is.",
            "docora-ops retry-all-failed --yes",
        )
        self.run(
            "Any terminal, and Docora's dashboard, can follow an operation by its id.",
            f"docora-ops progress {self.operation_id()}",
        )
        self.run(
            "Two workers empty the queue.",
            f"docora-ops worker --burst --concurrency 2{_TO_LOG}",
        )
        self.show_arrivals()
        self.run(
            "An app has lost its copy: forget what it was sent, so that all is sent again.",
            f"docora-ops resync '{ACME.name}' {WEB.repository_name} --yes",
        )
        self.run("And a worker sends it.", f"docora-ops worker --burst{_TO_LOG}")
        self.show_arrivals()
        self.run(
            "Queue what is due, once a minute, say: new links, rescans, and failed links, unless "
            "the circuit of their repository was opened.",
            "docora-ops schedule --dry-run",
        )
        self.show_state()

    def run(self, sentence: str, line: str, *, exit_code: int = 0) -> None:
        """Runs one command. Raises DemoError unless it exits with `exit_code`."""
        say(f"\n# {sentence}")
        say(f"$ {line}")
        line, logs_to_file, _ = line.partition(_TO_LOG)
        _, *arguments = shlex.split(line)
        with subprocess.Popen(
            [sys.executable, "-m", "docora_ops", *arguments],
            stderr=subprocess.DEVNULL if logs_to_file else None,
        ) as process:
            if logs_to_file:
                self.follow(process)
        if process.returncode != exit_code:
            raise DemoError(f"`{line}` exited with {process.returncode}; {exit_code} was expected")
        if exit_code:
            say(f"# Exit code {exit_code}, as it should be.")

    def follow(self, process: subprocess.Popen[bytes]) -> None:
        """Shows the number of links and jobs, at each change, while workers run."""
        before = None
        while process.poll() is None:
            state = self.state()
            if state != before:
                say("# {} failed, {} waiting, {} in sync".format(*state))
            before = state
            with suppress(subprocess.TimeoutExpired):
                process.wait(_PAUSE)

    def show_state(self) -> None:
        """Shows the number of links and jobs."""
        failed, waiting, in_sync = self.state()
        say(f"# Links: {failed} failed, {in_sync} in sync. Jobs waiting in the queue: {waiting}.")

    def show_arrivals(self) -> None:
        """Shows how many files each app has received since the last call."""
        rows = []
        for app in APPS:
            requests = self.receiver.of(app.slug).requests
            sent = Counter(request.json["repository"]["repository_id"] for request in requests)
            requests.clear()
            for repository in REPOSITORIES:
                if count := sent[repository.repository_id]:
                    row = (app.name, repository.repository_name, count, len(contents(repository)))
                    rows.append([Text(str(value)) for value in row])
        if self.receiver.problems:
            raise DemoError(f"an app refused what it was sent: {self.receiver.problems[0]}")
        say("# What has arrived at the apps, each signature checked:")
        console = make_console(sys.stdout)
        console.print(records(_COLUMNS, rows, console.width, numbers=_COLUMNS[2:]))

    def operation_id(self) -> str:
        """Returns the id of the only bulk operation so far."""
        with connect(self.settings) as client:
            [key] = client.scan_iter("docora:bulk:*")
        return str(key.decode().rpartition(":")[2])

    def state(self) -> tuple[int, int, int]:
        """Counts failed links, waiting jobs and links in sync."""
        with closing(Database(self.settings)) as database:
            links: dict[str, int] = dict(database.rows(COUNT_STATUSES))
        with connect(self.settings) as client:
            waiting = client.llen(f"rq:queue:{self.settings.queue_name}")
        return links.get("failed", 0), waiting, links.get("synced", 0)


def say(text: str) -> None:
    """Prints one line on stdout."""
    style = "bold" if text.startswith("$") else None
    make_console(sys.stdout).print(text, style=style, soft_wrap=True)


def _wait(variables: dict[str, str]) -> None:
    """Prints the variables that lead to the servers, and waits for Ctrl-C."""
    say("\n# The servers stay up until Ctrl-C. To play with them, in another terminal:")
    for name, value in variables.items():
        say(f"export {name}={shlex.quote(value)}")
    say(f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH")
    with suppress(KeyboardInterrupt):
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
    """Delays signals, since an interrupted start would leave a server behind."""
    pending: list[int] = []
    handlers = {
        number: signal.signal(number, lambda number, _: pending.append(number))
        for number in (signal.SIGTERM, signal.SIGHUP)
    }
    # A terminal sends Ctrl-C to every process. The servers inherit this block, so that they outlive
    # the commands. SIGTERM ends the servers, so it is not blocked.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for held_back in pending[:1]:
            signal.raise_signal(held_back)


def _clean_environment() -> None:
    """Removes the variables that lead to other servers: of Docora, libpq, git and proxies."""
    ours = {
        str(field.validation_alias or name).upper() for name, field in Settings.model_fields.items()
    }
    for variable in list(os.environ):
        name = variable.upper()
        if name in ours or name.startswith(("PG", "GIT_")) or name.endswith("_PROXY"):
            del os.environ[variable]
