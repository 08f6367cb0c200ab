"""One round: commands, workers and another producer work on a world while faults hit them."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from signal import Signals
from typing import cast

from tests.chaos.servers import Postgres, Valkey, start_proxies
from tests.chaos.world import MAX_RETRY_ATTEMPTS, World
from tests.support.docora import COMMAND
from tests.support.small_batches import SMALL_BATCHES
from tests.support.worker_processes import Running, belonging_to, command_line

WORKERS = 2
END_TIMEOUT = 120
MAX_PAUSE, MAX_REQUESTS = 0.6, 100
"""Seconds between two steps, unless so many requests reach the servers earlier."""
TICK = 0.01
MAX_FAULT_STEPS = 6
SETTINGS = {
    "DOCORA_OPS_CONNECT_TIMEOUT": "5",
    "DOCORA_OPS_STATEMENT_TIMEOUT": "10",
    "DOCORA_OPS_LOCK_TIMEOUT": "2",
    "DOCORA_OPS_DRIFT_GRACE": "2",
    "MAX_RETRY_ATTEMPTS": str(MAX_RETRY_ATTEMPTS),
    "RESCAN_INTERVAL_MS": "60000",
}


class Process(Running):
    """A command or a worker, its output, and the signals that were sent to it."""

    def __init__(
        self,
        number: int,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        logs: Path,
        *,
        is_pooled: bool,
    ) -> None:
        self.arguments = tuple(arguments)
        self.is_pooled = is_pooled
        self.name = f"{number:03} {' '.join(arguments)}{' through the pooler' * is_pooled}"
        self.is_worker = arguments[0] == "worker"
        self.began = time.monotonic()
        self.signals: set[Signals] = set()
        self.fatal: set[Signals] = set()  # SIGKILL, and what came before it could be handled
        self.was_killed_alone = False  # its children were not killed with it
        self._files = logs / f"{number:03}-{arguments[0]}"
        command = SMALL_BATCHES if "--batch-size" in arguments else (str(COMMAND),)
        with self._files.with_suffix(".out").open("wb") as stdout:
            super().__init__(
                subprocess.Popen(
                    [*command, *arguments],
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=stdout,
                    stderr=subprocess.PIPE,
                    encoding="utf-8",
                    start_new_session=True,
                )
            )

    @property
    def worker_names(self) -> set[str]:
        name, number = self.arguments[2], int(self.arguments[-1])
        return {f"{name}-{each + 1}" for each in range(number)} if number > 1 else {name}

    @property
    def output(self) -> str:
        return self._files.with_suffix(".out").read_text(encoding="utf-8")

    def hurt(self, number: Signals, *, alone: bool) -> None:
        self.signals.add(number)
        if number is Signals.SIGKILL or not _handles(self.pid, Signals.SIGTERM):
            self.fatal.add(number)
        if alone:
            self.was_killed_alone |= self.is_worker and number is Signals.SIGKILL
            self.signal(number)
        else:
            self.signal_all(number)

    def end(self) -> int:
        """Waits for the end and keeps what was written to stderr; returns the exit code."""
        code = super().end()
        assert self.process.stderr is not None
        self.process.stderr.close()
        self._files.with_suffix(".err").write_text(self.log, encoding="utf-8")
        return code


def _handles(pid: int, number: Signals) -> bool:
    with suppress(OSError):
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
        masks = re.findall(r"^Sig(?:Blk|Cgt):\s*(\w+)$", status, re.MULTILINE)
        return any(int(mask, 16) >> (number - 1) & 1 for mask in masks)
    return False


@dataclass(frozen=True)
class Size:
    """The size of a round. Each app is linked to each repository."""

    apps: int
    repositories: int
    steps: int


@dataclass
class Round:
    world: World
    postgres: Postgres
    valkey: Valkey
    random: Random
    logs: Path
    size: Size
    processes: list[Process] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    story: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    data_lost: bool = False  # by Redis
    # A worker was stopped for longer than its heartbeat lives, so others took over its job.
    overslept: bool = False
    # Workers may have lost their Postgres sessions, and with them the locks of their links.
    sessions_cut: bool = False
    down: set[Postgres | Valkey] = field(default_factory=set)
    step: int = 0
    # The ends of faults that last, and the steps at which they come.
    _effects: list[tuple[int, Callable[[], object]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._began = time.monotonic()
        self.may_lose_data = self.random.random() < 0.3
        self.may_oversleep = self.random.random() < 0.3

    def run(self, steps: Sequence[Callable[[Round], object]]) -> None:
        """Takes random steps, then ends all faults and processes and starts both servers again."""
        with start_proxies(self.postgres, self.valkey) as self.proxies:
            try:
                for step in range(self.size.steps):
                    self.step = step
                    self._end_effects(step)
                    if sum(process.is_worker for process in self.alive()) < WORKERS:
                        self.start_worker()
                    self.random.choice(steps)(self)
                    self._pause()
                self._end_effects(self.size.steps + MAX_FAULT_STEPS)
                for process in self.commands():
                    try:
                        process.process.wait(END_TIMEOUT)
                    except subprocess.TimeoutExpired:
                        self.problems.append(f"hangs: {process.name}")
                self.world.apps.calm.set()
                self._await_orphans_and_registrations()
            finally:
                self.world.apps.calm.set()
                for process in self.alive():
                    process.fatal.add(Signals.SIGKILL)
                for process in self.processes:
                    process.kill()
                for pid in belonging_to(str(self.world.snapshots.repos)):
                    self.problems.append(f"left running: {command_line(pid)}")
                    with suppress(ProcessLookupError):
                        os.kill(pid, Signals.SIGKILL)

    # Used by the steps

    def start(self, arguments: list[str], *, is_pooled: bool = False) -> None:
        pool_url = self.proxies.pool_url if is_pooled else None
        urls = {"DATABASE_URL": pool_url or self.proxies.database_url}
        urls["REDIS_URL"] = self.proxies.to_redis.url
        of_worker = self.world.snapshots.environment(**SETTINGS, **urls)
        environment = self.world.producer.environment(**of_worker)
        number, is_pooled = len(self.processes), pool_url is not None
        process = Process(number, arguments, environment, self.logs, is_pooled=is_pooled)
        self.processes.append(process)
        self.tell("start", process.name)

    def start_worker(self) -> None:
        name = f"chaos-{len(self.processes)}"
        self.start(["worker", "--name", name, "--concurrency", self.random.choice("122")])

    def alive(self) -> list[Process]:
        return [process for process in self.processes if process.process.poll() is None]

    def commands(self) -> list[Process]:
        return [process for process in self.alive() if not process.is_worker]

    def victim(self, *, is_worker: bool) -> Process | None:
        alive = [process for process in self.alive() if process.is_worker is is_worker]
        return self.random.choice(alive) if alive else None

    def for_a_while(self, end: Callable[[], object]) -> None:
        self._effects.append((self.step + self.random.randint(1, MAX_FAULT_STEPS), end))

    def inflict(self, fault: str, victim: Process | None = None) -> None:
        self.faults[fault] += 1
        self.tell(fault, f"({victim.name})" if victim else "")

    def tell(self, *words: str) -> None:
        self.story.append(f"{time.monotonic() - self._began:7.2f} {' '.join(words)}")

    # Time

    def _pause(self) -> None:
        end = time.monotonic() + self.random.uniform(0, MAX_PAUSE)
        wanted = self.proxies.requests + self.random.randrange(MAX_REQUESTS)
        while self.proxies.requests < wanted and time.monotonic() < end:
            time.sleep(TICK)

    def _end_effects(self, step: int) -> None:
        due = [end for at, end in self._effects if at <= step]
        self._effects = [(at, end) for at, end in self._effects if at > step]
        for end in due:
            end()

    def _await_orphans_and_registrations(self) -> None:
        """Children of killed workers end by themselves; the others are registered in any Redis."""
        orphaned = [parent for parent in self.processes if parent.was_killed_alone]
        left = {process for process in self.alive() if process.is_worker and not process.signals}
        end = time.monotonic() + END_TIMEOUT
        while (orphaned or left) and time.monotonic() < end:
            orphaned = [parent for parent in orphaned if parent.processes]
            registered = cast("set[bytes]", self.world.producer.redis.smembers("rq:workers"))
            names = {key.decode().removeprefix("rq:worker:") for key in registered}
            left &= set(self.alive())
            left = {each for each in left if each.worker_names - names}
            time.sleep(TICK)
        self.problems += [f"children go on without their parent: {each.name}" for each in orphaned]
        self.problems += [f"runs, and RQ does not know it: {each.name}" for each in left]
