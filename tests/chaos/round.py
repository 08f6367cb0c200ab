"""One round: commands, workers and another producer work on a world while faults hit them."""

from __future__ import annotations

import os
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from signal import Signals
from typing import cast

from docora_ops.cli.exit_codes import ExitCode
from tests.chaos.processes import Process
from tests.chaos.proxies import start_proxies
from tests.chaos.servers import Postgres, Valkey
from tests.chaos.world import MAX_RETRY_ATTEMPTS, World
from tests.support.worker_processes import belonging_to, command_line

WORKERS = 2
END_TIMEOUT = 120
"""Seconds within which commands and orphans must end once all faults are over."""
MAX_REQUESTS = 100
MAX_PAUSE = 0.6
"""Seconds between two steps, unless that many requests reach the servers earlier."""
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


@dataclass(frozen=True)
class Size:
    """The size of a round. Each app is linked to each repository."""

    apps: int
    repositories: int
    steps: int
    may_suspend: bool
    """Commands may be suspended for longer than Postgres keeps an idle transaction."""


@dataclass(frozen=True)
class Effect:
    """The end of a fault that lasts: not before this step, nor before this moment."""

    end: Callable[[], object]
    step: int
    moment: float


@dataclass
class Round:
    """A round and all that happened in it."""

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
    data_lost: bool = False
    """Redis lost its data."""
    overslept: bool = False
    """A worker was stopped for longer than its heartbeat lives, so others took over its job."""
    sessions_cut: bool = False
    """Workers may have lost their Postgres sessions, and with them the locks of their links."""
    suspended: set[Process] = field(default_factory=set)
    down: set[Postgres | Valkey] = field(default_factory=set)
    docoras_worker: subprocess.Popen[str] | None = None
    """A worker of BullMQ, which ours make room for."""
    step: int = 0
    _effects: list[Effect] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._began = time.monotonic()
        self.may_lose_data = self.random.random() < 0.3
        self.may_oversleep = self.random.random() < 0.3
        self.may_suspend = self.size.may_suspend and self.random.random() < 0.5

    def run(self, steps: Sequence[Callable[[Round], None]]) -> None:
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
                while self._effects:
                    self._end_effects(self.size.steps + MAX_FAULT_STEPS)
                    time.sleep(TICK)
                self._await_commands()
                self.world.apps.calm.set()
                self._await_orphans()
                self._await_registrations()
                self._check_pool()
            finally:
                self.world.apps.calm.set()
                if self.docoras_worker:
                    self.docoras_worker.kill()
                for process in self.alive():
                    process.fatal.add(Signals.SIGKILL)
                for process in self.processes:
                    process.kill()
                self._kill_stragglers()

    # Used by the steps

    def start(self, arguments: list[str], *, is_pooled: bool = False) -> None:
        """Starts a command or a worker."""
        pool_url = self.proxies.pool_url if is_pooled else None
        environment = self.world.snapshots.environment(
            **SETTINGS,
            DATABASE_URL=pool_url or self.proxies.database_url,
            REDIS_URL=self.proxies.to_redis.url,
        )
        process = Process(
            len(self.processes),
            arguments,
            self.world.producer.environment(**environment),
            self.logs,
            is_pooled=pool_url is not None,
        )
        self.processes.append(process)
        self.tell("start", process.name)

    def start_worker(self) -> None:
        """Starts a worker, or two below one parent."""
        name = f"chaos-{len(self.processes)}"
        self.start(["worker", "--name", name, "--concurrency", self.random.choice("122")])

    def alive(self) -> list[Process]:
        """Returns the processes that have not ended."""
        return [process for process in self.processes if process.process.poll() is None]

    def commands(self) -> list[Process]:
        """Returns the commands that have not ended."""
        return [process for process in self.alive() if not process.is_worker]

    def victim(self, *, is_worker: bool) -> Process | None:
        """Chooses a worker or a command that is not suspended, if there is one."""
        alive = [process for process in self.alive() if process.is_worker is is_worker]
        awake = [process for process in alive if process not in self.suspended]
        return self.random.choice(awake) if awake else None

    def for_a_while(self, end: Callable[[], object], seconds: float = 0) -> None:
        """Calls `end` some steps later, and not before so many seconds have passed."""
        step = self.step + self.random.randint(1, MAX_FAULT_STEPS)
        self._effects.append(Effect(end, step, time.monotonic() + seconds))

    def inflict(self, fault: str, victim: Process | None = None) -> None:
        """Counts a fault and tells of it."""
        self.faults[fault] += 1
        self.tell(fault, f"({victim.name})" if victim else "")

    def tell(self, *words: str) -> None:
        """Adds a line to the story of the round."""
        self.story.append(f"{time.monotonic() - self._began:7.2f} {' '.join(words)}")

    # Time

    def _pause(self) -> None:
        end = time.monotonic() + self.random.uniform(0, MAX_PAUSE)
        wanted = self.proxies.requests + self.random.randrange(MAX_REQUESTS)
        while self.proxies.requests < wanted and time.monotonic() < end:
            time.sleep(TICK)

    def _end_effects(self, step: int) -> None:
        now = time.monotonic()
        due = [each for each in self._effects if each.step <= step and each.moment <= now]
        self._effects = [each for each in self._effects if each not in due]
        for effect in due:
            effect.end()

    # The end

    def _await_commands(self) -> None:
        for process in self.commands():
            try:
                process.process.wait(END_TIMEOUT)
            except subprocess.TimeoutExpired:
                self.problems.append(f"hangs: {process.name}")

    def _await_orphans(self) -> None:
        """Waits for the children of killed workers to end by themselves."""
        end = time.monotonic() + END_TIMEOUT
        for parent in self.processes:
            while parent.was_killed_alone and parent.processes and time.monotonic() < end:
                time.sleep(TICK)
            if parent.was_killed_alone and parent.processes:
                self.problems.append(f"children go on without their parent: {parent.name}")

    def _await_registrations(self) -> None:
        """Waits until each running worker is registered, also in a Redis that was emptied."""
        end = time.monotonic() + END_TIMEOUT
        left = {process for process in self.alive() if process.is_worker and not process.signals}
        while left and time.monotonic() < end:
            registered = cast("set[bytes]", self.world.producer.redis.smembers("rq:workers"))
            names = {key.decode().removeprefix("rq:worker:") for key in registered}
            left &= set(self.alive())
            left = {each for each in left if each.worker_names - names}
            time.sleep(TICK)
        self.problems += [f"runs, and RQ does not know it: {each.name}" for each in left]

    def _check_pool(self) -> None:
        """Checks that a command works through PgBouncer, and that none left anything there."""
        if self.proxies.pool_url is None:
            return
        environment = {"DATABASE_URL": self.proxies.pool_url}
        command = self.world.producer.run("schedule", "--dry-run", env=environment)
        if command.code != ExitCode.OK:
            self.problems.append(f"through the pooler: {command}")
        left = self.proxies.left_in_pool()
        self.problems += [f"left behind in the pool: {what}" for what in left]

    def _kill_stragglers(self) -> None:
        """Kills and reports processes that outlived the ones that this round started."""
        for pid in belonging_to(str(self.world.snapshots.repos)):
            self.problems.append(f"left running: {command_line(pid)}")
            with suppress(ProcessLookupError):
                os.kill(pid, Signals.SIGKILL)
