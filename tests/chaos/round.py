"""One round: a world, everybody at work on it at once, and what befalls them meanwhile."""

from __future__ import annotations

import os
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from signal import Signals
from typing import cast

import redis
from rq.exceptions import DuplicateJobError

from tests.chaos.commands import random_command
from tests.chaos.passing_time import expire_heartbeats_of
from tests.chaos.processes import Process
from tests.chaos.servers import Postgres, Valkey
from tests.chaos.world import MAX_RETRY_ATTEMPTS, World
from tests.prescribed import with_login
from tests.proxy import COMMIT, PUSH, Fault, Proxy

POSTGRES_PASSWORD = "a-password-of-postgres"
_AT_ONCE = 5
"""Commands."""
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
_IMPATIENT = {
    "DOCORA_OPS_CONNECT_TIMEOUT": "5",
    "DOCORA_OPS_STATEMENT_TIMEOUT": "10",
    "DOCORA_OPS_LOCK_TIMEOUT": "2",
    "DOCORA_OPS_DRIFT_GRACE": "2",
    "MAX_RETRY_ATTEMPTS": str(MAX_RETRY_ATTEMPTS),
    "RESCAN_INTERVAL_MS": "60000",
}


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
    steps: int
    processes: list[Process] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    story: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    data_lost: bool = False
    woken_late: bool = False
    sessions_cut: bool = False
    _effects: list[tuple[int, Callable[[], object]]] = field(default_factory=list)
    """What ends, and at which step."""
    _down: set[object] = field(default_factory=set)
    _step: int = 0

    def __post_init__(self) -> None:
        self._began = time.monotonic()
        self._may_lose_data = self.random.random() < 0.3
        self._may_wake_late = self.random.random() < 0.3

    def run(self) -> None:
        """All steps, and the end of all effects and processes."""
        with self._proxies():
            try:
                for step in range(self.steps):
                    self._step = step
                    self._end_effects(step)
                    self._keep_workers()
                    self.random.choice(_STEPS)(self)
                    self._pause_until_something_happens()
                self._end_effects(self.steps + _LONGEST_EFFECT)
                self._await_commands()
            finally:
                self.world.apps.calm.set()
                for process in self._alive():
                    process.signals.add(Signals.SIGKILL)
                for process in self.processes:
                    # Also of those that have ended: a worker's children may have outlived it.
                    process.kill()

    @contextmanager
    def _proxies(self) -> Iterator[None]:
        with (
            Proxy.before_postgres(self.postgres.url) as self._to_postgres,
            Proxy.before_redis(self.valkey.url) as self._to_redis,
        ):
            self._environment = self.world.producer.environment(
                **self.world.snapshots.environment(
                    **_IMPATIENT,
                    DATABASE_URL=with_login(self._to_postgres.url, "postgres", POSTGRES_PASSWORD),
                    REDIS_URL=self._to_redis.url,
                )
            )
            yield

    # What is done

    def command(self) -> None:
        """Start one, unless enough are at work."""
        commands = [process for process in self._alive() if not process.is_worker]
        operations: list[str] = []
        with suppress(redis.RedisError):
            keys = cast("list[bytes]", self.world.producer.redis.keys("docora:bulk:*"))
            operations = sorted(key.decode().rpartition(":")[2] for key in keys)
        arguments = random_command(self.world, operations, self.random)
        if len(commands) < _AT_ONCE:
            self._start(arguments)

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

    def _start(self, arguments: list[str]) -> Process:
        process = Process(len(self.processes), arguments, self._environment, self.logs)
        self.processes.append(process)
        self._say("start", process.name)
        return process

    def _start_worker(self) -> None:
        name = f"chaos-{len(self.processes)}"
        self._start(["worker", "--name", name, "--concurrency", self.random.choice("112")])

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

    def kill_worker(self) -> None:
        self._hurt(self._victim(is_worker=True), Signals.SIGKILL)

    def kill_worker_alone(self) -> None:
        """Its children finish their jobs and end."""
        self._hurt(self._victim(is_worker=True), Signals.SIGKILL, all_of_it=False)

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
        self.sessions_cut |= proxy is self._to_postgres
        self._inflict(f"reset connections to {self._name(proxy)}")
        proxy.reset()

    def lose_message(self) -> None:
        """A request or a reply, in the middle of a change; the connection is lost with it."""
        marker, fault = self.random.choice((PUSH, COMMIT)), self.random.choice(_LOSSES)
        proxy = self._to_redis if marker is PUSH else self._to_postgres
        self.sessions_cut |= proxy is self._to_postgres
        plan = proxy.plan(marker, fault, self.random.randint(1, 3))
        self._inflict(f"{fault.name.lower().replace('_', ' ')} of {self._name(proxy)}")
        if fault in {Fault.HOLD_REQUEST, Fault.HOLD_REPLY}:
            self._for_a_while(plan.release)

    def slow_down(self) -> None:
        proxy = self._proxy()
        self._inflict(f"slow link to {self._name(proxy)}")
        proxy.delay = _SLOWNESS
        self._for_a_while(lambda: setattr(proxy, "delay", 0.0))

    def hang(self) -> None:
        proxy = self._proxy()
        self._inflict(f"hanging link to {self._name(proxy)}")
        proxy.freeze()
        self._for_a_while(proxy.thaw)

    def _proxy(self) -> Proxy:
        return self.random.choice((self._to_postgres, self._to_redis))

    def _name(self, proxy: Proxy) -> str:
        return "redis" if proxy is self._to_redis else "postgres"

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
            what = "worker" if victim.is_worker else "command"
            self._inflict(f"{number.name} to {what}{whole}", victim)
            victim.hurt(number, all_of_it=all_of_it)

    def _pause(self, victim: Process | None, name: str = "pause") -> None:
        if victim is not None:
            self._inflict(f"{name} {'worker' if victim.is_worker else 'command'}", victim)
            victim.signal_all(Signals.SIGSTOP)
            self._for_a_while(lambda: victim.signal_all(Signals.SIGCONT))

    def _victim(self, *, is_worker: bool) -> Process | None:
        alive = [process for process in self._alive() if process.is_worker is is_worker]
        return self.random.choice(alive) if alive else None

    def _alive(self) -> list[Process]:
        return [process for process in self.processes if process.is_running]

    # Time

    def _pause_until_something_happens(self) -> None:
        end = time.monotonic() + self.random.uniform(0, _LONGEST_PAUSE)
        wanted = self._requests() + self.random.randrange(_MOST_REQUESTS)
        while self._requests() < wanted and time.monotonic() < end:
            time.sleep(_TICK)

    def _requests(self) -> int:
        return self._to_postgres.forwarded + self._to_redis.forwarded

    def _for_a_while(self, end: Callable[[], object]) -> None:
        self._effects.append((self._step + self.random.randint(1, _LONGEST_EFFECT), end))

    def _end_effects(self, step: int) -> None:
        due = [end for when, end in self._effects if when <= step]
        self._effects = [effect for effect in self._effects if effect[0] > step]
        for end in due:
            end()

    def _await_commands(self) -> None:
        for process in self._alive():
            if not process.is_worker:
                try:
                    process.process.wait(_PATIENCE)
                except subprocess.TimeoutExpired:
                    self.problems.append(f"hangs: {process.name}")

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
    Round.end_command,
    *[Round.pause_command] * 2,
    Round.kill_worker,
    Round.kill_worker_alone,
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
