"""The steps of a round: start a command, push jobs, or inflict a fault."""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from random import Random
from signal import Signals
from typing import cast

import redis
from rq.exceptions import DuplicateJobError

from tests.chaos.round import Process, Round
from tests.chaos.servers import Postgres, Valkey
from tests.chaos.world import World
from tests.support.docora import WIP
from tests.support.proxy import COMMIT, PUSH, Fault, Proxy

MAX_COMMANDS = 5
POOLED = 0.4  # the share of commands that go through PgBouncer
Step = Callable[[Round], object]


def random_command(world: World, operations: Sequence[str], random: Random) -> list[str]:
    """Returns the arguments of a random command; changing commands are more likely.

    The slow app is chosen more often: its jobs take long, so that others meet them.
    """
    app = world.slow_app if random.random() < 0.3 else random.choice(list(world.names))
    link = " ".join(random.choice([link.ids for link in world.links if link.app_id == app]))
    operation = random.choice([*operations, "bulk_0123456789abcdef"])
    wait = "--wait --timeout 5"
    of_one = random.choice(["", "", "--front", "--reset-circuit", "--dry-run", wait])
    of_all = random.choice(
        [
            *("", "--limit 20", f"--app {app}", "--batch-size 7", "--batch-size 1 --limit 10"),
            *("--error *500* --circuit closed", "--front --batch-size 7", "--reset-circuit"),
            *(f"--limit 5 {wait}", f"--reset-circuit --app {app}", "--dry-run"),
            *[f"--in-flight {random.choice('1359')} --timeout 5"] * 2,
            f"--in-flight 4 --max-failures {random.choice(('0', '2', '30%'))} --front",
        ]
    )
    of_app = random.choice(["", "--front --reset-circuit", "--in-flight 2 --timeout 5"])
    reading = ["failed --group-by error", "queue", f"show {link}", "doctor", "operations"]
    command = random.choice(
        [
            *[f"retry {link} {of_one}", f"retry-all-failed --yes {of_all}"] * 5,
            *[f"resync {link}", f"resync {app} --all --yes {of_app}"] * 2,
            *[f"wait {link} --timeout 3", f"wait {operation} --timeout 3"],
            *["pause --for 2s --yes", "resume", "schedule", "schedule --dry-run"],
            *[f"cancel {operation}"] * 2,
            *[f"hold {app} --for 3s --yes", f"release {app}", f"retry {link} --now"],
            *[f"repair {random.choice(('', app, link))} --yes"] * 3,
            *[random.choice([*reading, "history", f"operations {operation}"])] * 2,
        ]
    ).split()
    return [*command, "--json"] if random.random() < 0.5 else command


def start_command(played: Round) -> None:
    operations: list[str] = []
    with suppress(redis.RedisError):
        keys = cast("list[bytes]", played.world.producer.redis.keys("docora:bulk:*"))
        operations = sorted(key.decode().rpartition(":")[2] for key in keys)
    arguments = random_command(played.world, operations, played.random)
    is_pooled = played.random.random() < POOLED
    if len(played.commands()) < MAX_COMMANDS:
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


# Faults


def kill_horse(played: Round) -> None:
    worker = played.victim(is_worker=True)
    horses = sorted(worker.horses) if worker else []
    if horses:
        played.inflict("kill horse", worker)
        with suppress(ProcessLookupError):
            os.kill(played.random.choice(horses), Signals.SIGKILL)


def oversleep(played: Round) -> None:
    """Stops a worker until its heartbeat has expired and another worker has started."""
    worker = played.victim(is_worker=True)
    if worker is None or not played.may_oversleep or played.valkey in played.down:
        return
    played.overslept = True
    _pause(played, worker)
    with suppress(redis.RedisError):
        client, name = played.world.producer.redis, worker.arguments[2]
        for member in cast("list[bytes]", client.zrange(WIP, 0, -1)):
            key = f"rq:execution:{member.decode()}"
            its_worker = cast("bytes | None", client.hget(key, "worker_name")) or b""
            if f"{its_worker.decode()}-".startswith(f"{name}-"):
                client.zadd(WIP, {member: 1})
                client.delete(key)
    played.start_worker()


def empty_redis(played: Round) -> None:
    if played.may_lose_data and played.valkey not in played.down:
        played.inflict("empty redis")
        played.data_lost = True
        played.valkey.empty()


def restart_postgres(played: Round) -> None:
    played.sessions_cut |= _bring_down(played, played.postgres)


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


def hang(played: Round) -> None:
    proxy = _proxy(played)
    played.inflict(f"hanging link to {played.proxies.name(proxy)}")
    proxy.freeze()
    played.for_a_while(proxy.thaw)


def _proxy(played: Round) -> Proxy:
    return played.random.choice((played.proxies.to_postgres, played.proxies.to_redis))


def _bring_down(played: Round, server: Postgres | Valkey) -> bool:
    """Kills a server for a while, unless it is down; returns whether it did."""
    if server in played.down:
        return False
    played.inflict(f"restart {type(server).__name__}")
    server.kill()
    played.down.add(server)

    def bring_up() -> None:
        server.start()
        played.down.remove(server)

    played.for_a_while(bring_up)
    return True


def _hurt(played: Round, victim: Process | None, number: Signals, *, alone: bool = False) -> None:
    if victim is not None:
        what = "worker" if victim.is_worker else "command"
        played.inflict(f"{number.name} to {what}{' alone' * alone}", victim)
        victim.hurt(number, alone=alone)


def _pause(played: Round, victim: Process | None) -> None:
    if victim is not None:
        played.inflict("pause", victim)
        victim.signal_all(Signals.SIGSTOP)
        played.for_a_while(lambda: victim.signal_all(Signals.SIGCONT))


def hurt(*numbers: Signals, is_worker: bool, alone: bool = False) -> Step:
    return lambda played: _hurt(
        played, played.victim(is_worker=is_worker), played.random.choice(numbers), alone=alone
    )


STEPS: tuple[Step, ...] = (
    *[start_command] * 14,
    *[produce, kill_horse, reset_connections] * 2,
    *[hurt(Signals.SIGKILL, is_worker=False)] * 2,
    *[hurt(Signals.SIGINT, Signals.SIGTERM, Signals.SIGHUP, is_worker=False, alone=True)] * 2,
    *[lambda played: _pause(played, played.victim(is_worker=False))] * 2,
    *[lose_message] * 3,
    hurt(Signals.SIGKILL, is_worker=True),
    *[hurt(Signals.SIGKILL, is_worker=True, alone=True)] * 3,
    hurt(Signals.SIGTERM, Signals.SIGHUP, is_worker=True, alone=True),
    lambda played: _pause(played, played.victim(is_worker=True)),
    lambda played: _bring_down(played, played.valkey),
    *[oversleep, empty_redis, restart_postgres, hang],
)
"""Each as often as it is likely."""
