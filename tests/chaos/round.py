"""One round: a world, everybody at work on it at once, and what befalls them meanwhile."""

from __future__ import annotations

import os
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from signal import Signals
from typing import cast

import redis
from rq.exceptions import DuplicateJobError

from docora_ops.cli.exit_codes import ExitCode
from tests.chaos.between import standing_between
from tests.chaos.commands import random_command
from tests.chaos.effects import Effects
from tests.chaos.passing_time import expire_heartbeats_of
from tests.chaos.processes import Process
from tests.chaos.servers import Postgres, Valkey
from tests.chaos.world import MAX_RETRY_ATTEMPTS, World
from tests.support.proxy import COMMIT, PUSH, Fault, Proxy
from tests.support.worker_processes import belonging_to, command_line

_AT_ONCE = 5
"""Commands."""
_POOLED = 0.4
"""Of the commands, how many go through the pooler."""
_WORKERS = 2
_PATIENCE = 120
"""Seconds until a command that nobody hinders any more is thought to hang."""
_MOST_REQUESTS = 100
_LONGEST_PAUSE = 0.6
"""Seconds between two steps, unless so many requests come to the servers earlier."""
_TICK = 0.01
_LONGEST_EFFECT = 6
"""Steps."""
_SLOWNESS = 0.02
_BEYOND_IDLENESS = 16
"""Seconds, longer than Postgres lets a transaction of a command be idle."""
_UNTIL_PUSH = 2
"""Seconds to wait for a command that has rows locked."""
_IMPATIENT = {
    "DOCORA_OPS_CONNECT_TIMEOUT": "5",
    "DOCORA_OPS_STATEMENT_TIMEOUT": "10",
    "DOCORA_OPS_LOCK_TIMEOUT": "2",
    "DOCORA_OPS_DRIFT_GRACE": "2",
    "MAX_RETRY_ATTEMPTS": str(MAX_RETRY_ATTEMPTS),
    "RESCAN_INTERVAL_MS": "60000",
}


@dataclass(frozen=True)
class Size:
    """Of a round. Each app is linked to each repository."""

    apps: int
    repositories: int
    steps: int
    may_suspend: bool
    """Whether commands may be suspended for as long as Postgres does not wait for them."""


@dataclass
class Round:
    """`run` does it all; then nobody is at work any more, and both servers are up.

    What has happened: `data_lost`: Redis came up without its data. `woken_late`: a worker slept
    through its own heartbeat, so others took over its job. `sessions_cut`: workers may have lost
    their sessions of Postgres, and with them the locks on their links.
    """

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
    woken_late: bool = False
    sessions_cut: bool = False
    _effects: Effects = field(default_factory=Effects)
    _suspended: set[Process] = field(default_factory=set)
    _killed_alone: list[Process] = field(default_factory=list)
    """Workers whose children were not killed with them."""
    _down: set[object] = field(default_factory=set)
    _step: int = 0

    def __post_init__(self) -> None:
        self._began = time.monotonic()
        self._may_lose_data = self.random.random() < 0.3
        self._may_wake_late = self.random.random() < 0.3
        self._may_suspend = self.size.may_suspend and self.random.random() < 0.5

    def run(self) -> None:
        """All steps, and the end of all effects and processes."""
        with standing_between(self.postgres, self.valkey) as self._between:
            self._environment = self.world.producer.environment(
                **self.world.snapshots.environment(
                    **_IMPATIENT,
                    DATABASE_URL=self._between.database_url,
                    REDIS_URL=self._between.to_redis.url,
                )
            )
            try:
                for step in range(self.size.steps):
                    self._step = step
                    self._effects.end_due(step)
                    self._keep_workers()
                    self.random.choice(_STEPS)(self)
                    self._pause_until_something_happens()
                self._effects.end_all()
                self._await_commands()
                self.world.apps.calm.set()
                self._await_orphans()
                self._check_pool()
            finally:
                self.world.apps.calm.set()
                for process in self._alive():
                    process.fatal.add(Signals.SIGKILL)
                for process in self.processes:
                    process.kill()
                self._end_stragglers()

    # What is done

    def command(self) -> None:
        """Start one, unless enough are at work; some go through the pooler."""
        at_work = set(self._commands()) - self._suspended
        operations: list[str] = []
        with suppress(redis.RedisError):
            keys = cast("list[bytes]", self.world.producer.redis.keys("docora:bulk:*"))
            operations = sorted(key.decode().rpartition(":")[2] for key in keys)
        arguments = random_command(self.world, operations, self.random)
        is_pooled = self.random.random() < _POOLED
        if len(at_work) < _AT_ONCE:
            self._start(arguments, is_pooled=is_pooled)

    def produce(self) -> None:
        """Push some jobs as another producer does, one that looks first, and one that does not."""
        producer = self.world.producer
        looking = self.random.sample(self.world.links, 5)
        careless = self.random.choice(sorted(self.world.careless))
        self._say("another producer pushes", *(link.job_id for link in looking), careless)
        with suppress(redis.RedisError):
            for link in looking:
                with suppress(DuplicateJobError):
                    producer.enqueue(link.job_id, unique=True)
            for _ in range(2):
                producer.enqueue(careless, at_front=True)

    def _start(self, arguments: list[str], *, is_pooled: bool = False) -> Process:
        pool_url = self._between.pool_url if is_pooled else None
        process = Process(
            len(self.processes),
            arguments,
            self._environment | ({"DATABASE_URL": pool_url} if pool_url else {}),
            self.logs,
            is_pooled=pool_url is not None,
        )
        self.processes.append(process)
        self._say("start", process.name)
        return process

    def _start_worker(self) -> None:
        name = f"chaos-{len(self.processes)}"
        self._start(["worker", "--name", name, "--concurrency", self.random.choice("122")])

    def _keep_workers(self) -> None:
        if sum(process.is_worker for process in self._alive()) < _WORKERS:
            self._start_worker()

    # What befalls them

    def kill_command(self) -> None:
        self._hurt(self._victim(is_worker=False), Signals.SIGKILL)

    def end_command(self) -> None:
        number = self.random.choice((Signals.SIGINT, Signals.SIGTERM, Signals.SIGHUP))
        self._hurt(self._victim(is_worker=False), number, all_of_it=False)

    def pause_command(self) -> None:
        self._pause(self._victim(is_worker=False))

    def suspend_commands(self) -> None:
        """Stop all commands, if possible while one has rows locked, and continue them much later.

        Not by SIGTSTP: a process without a job-controlling shell never stops from it.
        """
        if not self._may_suspend or not self._commands() or self._step > self.size.steps // 2:
            return
        self._may_suspend = False
        plan = self._between.to_redis.plan(PUSH, Fault.HOLD_REPLY)
        plan.reached.wait(_UNTIL_PUSH)
        self._suspended = set(self._commands())
        for victim in self._suspended:
            self._inflict("suspend command", victim)
            victim.signal_all(Signals.SIGSTOP)
        plan.release()
        self._for_a_while(self._continue_commands, _BEYOND_IDLENESS)

    def _continue_commands(self) -> None:
        for victim in self._suspended:
            victim.signal_all(Signals.SIGCONT)
        self._suspended.clear()

    def kill_worker(self) -> None:
        self._hurt(self._victim(is_worker=True), Signals.SIGKILL)

    def kill_worker_alone(self) -> None:
        """A worker's children go on until the job in hand is done."""
        self._kill_alone(self._victim(is_worker=True))

    def kill_parent(self) -> None:
        """The parent of several workers is killed: they have to end by themselves."""
        parents = [process for process in self._alive() if process.is_parent]
        self._kill_alone(self.random.choice(parents) if parents else None)

    def _kill_alone(self, victim: Process | None) -> None:
        if victim is not None:
            self._killed_alone.append(victim)
            self._hurt(victim, Signals.SIGKILL, all_of_it=False)

    def end_worker(self) -> None:
        number = self.random.choice((Signals.SIGTERM, Signals.SIGHUP))
        self._hurt(self._victim(is_worker=True), number, all_of_it=False)

    def kill_horse(self) -> None:
        worker = self._victim(is_worker=True)
        horses = sorted(worker.horses) if worker else []
        if horses:
            self._inflict("kill horse", worker)
            with suppress(ProcessLookupError):
                os.kill(self.random.choice(horses), Signals.SIGKILL)

    def pause_worker(self) -> None:
        self._pause(self._victim(is_worker=True))

    def oversleep(self) -> None:
        """A worker sleeps through its heartbeat, and another one comes up meanwhile."""
        worker = self._victim(is_worker=True)
        if worker is None or not self._may_wake_late or self.valkey in self._down:
            return
        self.woken_late = True
        self._pause(worker, "oversleep")
        with suppress(redis.RedisError):
            expire_heartbeats_of(self.world.producer, worker.arguments[2])
        self._start_worker()

    def restart_redis(self) -> None:
        self._bring_down(self.valkey, "restart redis")

    def lose_redis(self) -> None:
        if self._may_lose_data and self._bring_down(self.valkey, "lose redis"):
            self.data_lost = True
            self.valkey.lose_data()

    def restart_postgres(self) -> None:
        self.sessions_cut |= self._bring_down(self.postgres, "restart postgres")

    def crash_postgres(self) -> None:
        if self.postgres not in self._down:
            self.sessions_cut = True
            self._inflict("crash postgres")
            self.postgres.crash()

    def reset_connections(self) -> None:
        proxy = self._proxy()
        self.sessions_cut |= proxy is self._between.to_postgres
        self._inflict(f"reset connections to {self._between.name(proxy)}")
        proxy.reset()

    def lose_message(self) -> None:
        """A request or a reply, in the middle of a change; the connection is lost with it."""
        marker, fault = self.random.choice((PUSH, COMMIT)), self.random.choice(_LOSSES)
        proxy = self._between.to_redis if marker is PUSH else self._between.to_postgres
        self.sessions_cut |= proxy is self._between.to_postgres
        plan = proxy.plan(marker, fault, self.random.randint(1, 3))
        self._inflict(f"{fault.name.lower().replace('_', ' ')} of {self._between.name(proxy)}")
        if fault in {Fault.HOLD_REQUEST, Fault.HOLD_REPLY}:
            self._for_a_while(plan.release)

    def slow_down(self) -> None:
        proxy = self._proxy()
        self._inflict(f"slow link to {self._between.name(proxy)}")
        proxy.delay = _SLOWNESS
        self._for_a_while(lambda: setattr(proxy, "delay", 0.0))

    def hang(self) -> None:
        proxy = self._proxy()
        self._inflict(f"hanging link to {self._between.name(proxy)}")
        proxy.freeze()
        self._for_a_while(proxy.thaw)

    def _proxy(self) -> Proxy:
        return self.random.choice((self._between.to_postgres, self._between.to_redis))

    def _bring_down(self, server: Postgres | Valkey, name: str) -> bool:
        if server in self._down:
            return False
        self._inflict(name)
        server.kill()
        self._down.add(server)

        def bring_up() -> None:
            server.start()
            self._down.remove(server)

        self._for_a_while(bring_up)
        return True

    def _hurt(self, victim: Process | None, number: Signals, *, all_of_it: bool = True) -> None:
        if victim is not None:
            whole = "" if all_of_it or not victim.is_worker else " alone"
            what = "parent" if victim.is_parent else "worker" if victim.is_worker else "command"
            self._inflict(f"{number.name} to {what}{whole}", victim)
            victim.hurt(number, all_of_it=all_of_it)

    def _pause(self, victim: Process | None, name: str = "pause") -> None:
        if victim is not None:
            self._inflict(f"{name} {'worker' if victim.is_worker else 'command'}", victim)
            victim.signal_all(Signals.SIGSTOP)
            self._for_a_while(lambda: victim.signal_all(Signals.SIGCONT))

    def _victim(self, *, is_worker: bool) -> Process | None:
        alive = [process for process in self._alive() if process.is_worker is is_worker]
        awake = [process for process in alive if process not in self._suspended]
        return self.random.choice(awake) if awake else None

    def _commands(self) -> list[Process]:
        return [process for process in self._alive() if not process.is_worker]

    def _alive(self) -> list[Process]:
        return [process for process in self.processes if process.is_running]

    # Time

    def _pause_until_something_happens(self) -> None:
        end = time.monotonic() + self.random.uniform(0, _LONGEST_PAUSE)
        wanted = self._between.requests + self.random.randrange(_MOST_REQUESTS)
        while self._between.requests < wanted and time.monotonic() < end:
            time.sleep(_TICK)

    def _for_a_while(self, end: Callable[[], object], seconds: float = 0) -> None:
        self._effects.add(end, self._step + self.random.randint(1, _LONGEST_EFFECT), seconds)

    def _await_commands(self) -> None:
        for process in self._commands():
            try:
                process.process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                self.problems.append(f"hangs: {process.name}")

    def _await_orphans(self) -> None:
        """Wait for the children of workers that were killed to end by themselves."""
        end = time.monotonic() + _PATIENCE
        for parent in self._killed_alone:
            while parent.processes and time.monotonic() < end:
                time.sleep(_TICK)
            if parent.processes:
                self.problems.append(f"children go on without their parent: {parent.name}")

    def _check_pool(self) -> None:
        """A command that goes through the pooler does its work, and none leaves anything there."""
        if self._between.pool_url is None:
            return
        environment = {"DATABASE_URL": self._between.pool_url}
        command = self.world.producer.run("schedule", "--dry-run", env=environment)
        if command.code != ExitCode.OK:
            self.problems.append(f"through the pooler: {command}")
        left = self._between.left_in_pool()
        self.problems += [f"left behind in the pool: {what}" for what in left]

    def _end_stragglers(self) -> None:
        """Kill what none of the round's processes has taken along with it."""
        for pid in belonging_to(str(self.world.snapshots.repos)):
            self.problems.append(f"left running: {command_line(pid)}")
            with suppress(ProcessLookupError):
                os.kill(pid, Signals.SIGKILL)

    def _inflict(self, fault: str, victim: Process | None = None) -> None:
        self.faults[fault] += 1
        self._say(fault, f"({victim.name})" if victim else "")

    def _say(self, *words: str) -> None:
        self.story.append(f"{time.monotonic() - self._began:7.2f} {' '.join(words)}")


_LOSSES = (Fault.LOSE_REQUEST, Fault.LOSE_REPLY, Fault.HOLD_REQUEST, Fault.HOLD_REPLY)
_STEPS = (
    *[Round.command] * 14,
    *[Round.produce] * 2,
    *[Round.kill_command] * 2,
    *[Round.end_command] * 2,
    *[Round.pause_command] * 2,
    *[Round.suspend_commands] * 3,
    Round.kill_worker,
    Round.kill_worker_alone,
    *[Round.kill_parent] * 2,
    Round.end_worker,
    *[Round.kill_horse] * 2,
    Round.pause_worker,
    Round.oversleep,
    Round.restart_redis,
    Round.lose_redis,
    Round.restart_postgres,
    Round.crash_postgres,
    *[Round.reset_connections] * 2,
    *[Round.lose_message] * 3,
    Round.slow_down,
    Round.hang,
)
