"""The steps of a round: start a command, push jobs, or inflict a fault."""

import os
from collections.abc import Callable
from contextlib import suppress
from signal import Signals
from typing import cast

import redis
from rq.exceptions import DuplicateJobError

from tests.chaos.commands import random_command
from tests.chaos.expiry import expire_heartbeats_of
from tests.chaos.processes import Process
from tests.chaos.round import Round
from tests.chaos.servers import Postgres, Valkey
from tests.support.bullmq import end, start_worker
from tests.support.proxy import COMMIT, PUSH, Fault, Proxy

MAX_COMMANDS = 5
POOLED = 0.4
"""The share of commands that go through PgBouncer."""
PUSH_TIMEOUT = 2
"""Seconds to wait for a command that has rows locked."""
DOCORAS_WORKER = 5
"""Seconds, so that our workers notice it."""
SUSPENSION = 16
"""Seconds, longer than Postgres lets a transaction of a command be idle."""
DELAYS = (0.02, 0.02, 0.4)
"""Seconds that a slow connection takes for each message."""


def start_command(played: Round) -> None:
    """Starts a command, unless enough are running; some go through PgBouncer."""
    operations: list[str] = []
    with suppress(redis.RedisError):
        keys = cast("list[bytes]", played.world.producer.redis.keys("docora:bulk:*"))
        operations = sorted(key.decode().rpartition(":")[2] for key in keys)
    arguments = random_command(played.world, operations, played.random)
    is_pooled = played.random.random() < POOLED
    if len(set(played.commands()) - played.suspended) < MAX_COMMANDS:
        played.start(arguments, is_pooled=is_pooled)


def produce(played: Round) -> None:
    """Pushes jobs as other producers: one that looks for a job first, and a careless one."""
    producer = played.world.producer
    looking = played.random.sample(played.world.links, 5)
    careless = played.random.choice(sorted(played.world.careless))
    played.tell("another producer pushes", *(link.job_id for link in looking), careless)
    with suppress(redis.RedisError):
        for link in looking:
            with suppress(DuplicateJobError):
                producer.enqueue(link.job_id, unique=True)
        for _ in range(2):
            producer.enqueue(careless, at_front=True)


# Faults of processes


def kill_command(played: Round) -> None:
    _hurt(played, played.victim(is_worker=False), Signals.SIGKILL)


def end_command(played: Round) -> None:
    number = played.random.choice((Signals.SIGINT, Signals.SIGTERM, Signals.SIGHUP))
    _hurt(played, played.victim(is_worker=False), number, alone=True)


def pause_command(played: Round) -> None:
    _pause(played, played.victim(is_worker=False), "pause command")


def suspend_commands(played: Round) -> None:
    """Stops all commands for long, once in a round and if possible while one has rows locked.

    Uses SIGSTOP: SIGTSTP does not stop a process without a shell with job control.
    """
    if not played.may_suspend or not played.commands() or played.step > played.size.steps // 2:
        return
    played.may_suspend = False
    plan = played.proxies.to_redis.plan(PUSH, Fault.HOLD_REPLY)
    plan.reached.wait(PUSH_TIMEOUT)
    played.suspended.update(played.commands())
    for victim in played.suspended:
        played.inflict("suspend command", victim)
        victim.signal_all(Signals.SIGSTOP)
    plan.release()

    def resume() -> None:
        for victim in played.suspended:
            victim.signal_all(Signals.SIGCONT)
        played.suspended.clear()

    played.for_a_while(resume, SUSPENSION)


def kill_worker(played: Round) -> None:
    _hurt(played, played.victim(is_worker=True), Signals.SIGKILL)


def kill_worker_alone(played: Round) -> None:
    """Kills a worker, but not its children."""
    _hurt(played, played.victim(is_worker=True), Signals.SIGKILL, alone=True)


def kill_parent(played: Round) -> None:
    """Kills the parent of several workers, but not the workers."""
    parents = [process for process in played.alive() if process.is_parent]
    victim = played.random.choice(parents) if parents else None
    _hurt(played, victim, Signals.SIGKILL, alone=True)


def end_worker(played: Round) -> None:
    number = played.random.choice((Signals.SIGTERM, Signals.SIGHUP))
    _hurt(played, played.victim(is_worker=True), number, alone=True)


def kill_horse(played: Round) -> None:
    """Kills the process of a job."""
    worker = played.victim(is_worker=True)
    horses = sorted(worker.horses) if worker else []
    if horses:
        played.inflict("kill horse", worker)
        with suppress(ProcessLookupError):
            os.kill(played.random.choice(horses), Signals.SIGKILL)


def pause_worker(played: Round) -> None:
    _pause(played, played.victim(is_worker=True), "pause worker")


def oversleep(played: Round) -> None:
    """Stops a worker until its heartbeat has expired and another worker has started."""
    worker = played.victim(is_worker=True)
    if worker is None or not played.may_oversleep or played.valkey in played.down:
        return
    played.overslept = True
    _pause(played, worker, "oversleep")
    with suppress(redis.RedisError):
        expire_heartbeats_of(played.world.producer, worker.arguments[2])
    played.start_worker()


# Faults of servers and connections


def restart_redis(played: Round) -> None:
    _bring_down(played, played.valkey, "restart redis")


def lose_redis(played: Round) -> None:
    """Restarts Redis without its data."""
    if played.may_lose_data and _bring_down(played, played.valkey, "lose redis"):
        played.data_lost = True
        played.valkey.lose_data()


def empty_redis(played: Round) -> None:
    """Deletes all that Redis holds, under running workers."""
    if played.may_lose_data and played.valkey not in played.down:
        played.inflict("empty redis")
        played.data_lost = True
        played.valkey.empty()


def start_docoras_worker(played: Round) -> None:
    """Starts a worker of BullMQ beside ours for a while, once in a round: ours take no job."""
    if played.docoras_worker or played.valkey in played.down:
        return
    played.inflict("start a worker of BullMQ")
    played.docoras_worker = worker = start_worker(played.valkey.url)
    played.for_a_while(lambda: end(worker), DOCORAS_WORKER)


def restart_postgres(played: Round) -> None:
    played.sessions_cut |= _bring_down(played, played.postgres, "restart postgres")


def crash_postgres(played: Round) -> None:
    if played.postgres not in played.down:
        played.sessions_cut = True
        played.inflict("crash postgres")
        played.postgres.crash()


def reset_connections(played: Round) -> None:
    proxy = _proxy(played)
    played.sessions_cut |= proxy is played.proxies.to_postgres
    played.inflict(f"reset connections to {played.proxies.name(proxy)}")
    proxy.reset()


def lose_message(played: Round) -> None:
    """Loses or holds a request or a reply in the middle of a change, with its connection."""
    marker = played.random.choice((PUSH, COMMIT))
    fault = played.random.choice([fault for fault in Fault if fault is not Fault.NONE])
    proxy = played.proxies.to_redis if marker is PUSH else played.proxies.to_postgres
    played.sessions_cut |= proxy is played.proxies.to_postgres
    plan = proxy.plan(marker, fault, played.random.randint(1, 3))
    played.inflict(f"{fault.name.lower().replace('_', ' ')} of {played.proxies.name(proxy)}")
    if fault in {Fault.HOLD_REQUEST, Fault.HOLD_REPLY}:
        played.for_a_while(plan.release)


def slow_down(played: Round) -> None:
    proxy = _proxy(played)
    played.inflict(f"slow link to {played.proxies.name(proxy)}")
    proxy.delay = played.random.choice(DELAYS)
    played.for_a_while(lambda: setattr(proxy, "delay", 0.0))


def hang(played: Round) -> None:
    proxy = _proxy(played)
    played.inflict(f"hanging link to {played.proxies.name(proxy)}")
    proxy.freeze()
    played.for_a_while(proxy.thaw)


STEPS: tuple[Callable[[Round], None], ...] = (
    *[start_command] * 14,
    *[produce, kill_command, end_command, pause_command, kill_parent] * 2,
    *[kill_horse, reset_connections] * 2,
    *[suspend_commands, lose_message] * 3,
    *[kill_worker, kill_worker_alone, end_worker, pause_worker, oversleep],
    *[empty_redis, start_docoras_worker],
    *[restart_redis, lose_redis, restart_postgres, crash_postgres, slow_down, hang],
)
"""Each as often as it is likely."""


def _proxy(played: Round) -> Proxy:
    return played.random.choice((played.proxies.to_postgres, played.proxies.to_redis))


def _bring_down(played: Round, server: Postgres | Valkey, name: str) -> bool:
    """Kills a server for a while, unless it is down; returns whether it did."""
    if server in played.down:
        return False
    played.inflict(name)
    server.kill()
    played.down.add(server)

    def bring_up() -> None:
        server.start()
        played.down.remove(server)

    played.for_a_while(bring_up)
    return True


def _hurt(played: Round, victim: Process | None, number: Signals, *, alone: bool = False) -> None:
    """Sends a signal to a process, and to its children unless `alone`."""
    if victim is not None:
        what = "parent" if victim.is_parent else "worker" if victim.is_worker else "command"
        played.inflict(f"{number.name} to {what}{' alone' * (alone and victim.is_worker)}", victim)
        victim.hurt(number, alone=alone)


def _pause(played: Round, victim: Process | None, name: str) -> None:
    """Stops a process and its children for a while."""
    if victim is not None:
        played.inflict(name, victim)
        victim.signal_all(Signals.SIGSTOP)
        played.for_a_while(lambda: victim.signal_all(Signals.SIGCONT))
