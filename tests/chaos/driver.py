"""Round after round, each followed by a look at what it has left behind."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from docora_ops.cli.exit_codes import ExitCode
from docora_ops.demo.receiver import Receiver
from tests.chaos import invariants
from tests.chaos.apps import Apps, Mood
from tests.chaos.invariants import Broken
from tests.chaos.passing_time import tidy_up
from tests.chaos.processes import Process
from tests.chaos.round import Round, Size
from tests.chaos.servers import Postgres, Valkey, running_servers
from tests.chaos.world import MAX_RETRY_ATTEMPTS, Producer, World, make_upstreams, make_world
from tests.support.docora import Result, finish
from tests.support.fork_server import ForkServer
from tests.support.privileges import Access
from tests.support.snapshots import Snapshots, Upstream
from tests.support.worker_processes import make_delayed_jobs_due

_LONGEST_DRAIN = 600
"""Seconds."""
_AT_ONCE = {"DOCORA_OPS_DRIFT_GRACE": "0"}
"""Nobody else is at work."""
_REPAIR = ("repair", "--yes", "--remove-unknown-jobs")
"""In the end few jobs are left, and the links of all of them may be gone."""


FULL = Size(apps=24, repositories=10, steps=80, may_suspend=True)
SMALL = Size(apps=8, repositories=4, steps=30, may_suspend=False)


@dataclass
class Driver:
    """Plays rounds. What each does follows from seed and number; how it comes out, not alone."""

    seed: int
    size: Size
    directory: Path
    """The processes' output stays there, for each round in a folder of its own."""
    postgres: Postgres
    valkey: Valkey
    warm: ForkServer
    upstreams: dict[str, Upstream] = field(init=False)

    def __post_init__(self) -> None:
        self.upstreams = make_upstreams(self.directory, self.size.repositories)

    def play(self, number: int) -> Round:
        """One round. Raises Broken with an account of all that does not hold."""
        random = Random(f"{self.seed} {number}")
        logs = self.directory / f"round-{number}"
        logs.mkdir()
        self._empty()
        producer = Producer(_as_owner(self.postgres.url), _as_owner(self.valkey.url), self.warm)
        apps = Apps()
        try:
            with Receiver(answer=apps.answer).serving() as receiver:
                snapshots = Snapshots(producer, self.directory, receiver)
                world = make_world(
                    snapshots, producer, apps, self.upstreams, self.size.apps, random
                )
                played = Round(world, self.postgres, self.valkey, random, logs, self.size)
                try:
                    played.run()
                    producer.reconnect()
                    _check(played)
                except Exception as error:
                    raise Broken(self._account(number, played, error)) from error
                return played
        finally:
            producer.close()

    def _empty(self) -> None:
        with self.postgres.connect() as connection:
            connection.execute("TRUNCATE apps, repositories CASCADE")
        self.valkey.empty()

    def _account(self, number: int, played: Round, error: Exception) -> str:
        is_told = isinstance(error, Broken)
        what = str(error) if is_told else "".join(traceback.format_exception(error))
        story = "\n".join(played.story)
        return f"seed {self.seed}, round {number}\n{story}\n\n{what}\n\nlogs: {played.logs}"


@contextmanager
def driver(seed: int, size: Size, directory: Path) -> Iterator[Driver]:
    """On servers of its own."""
    with running_servers(directory) as (postgres, valkey):
        warm = ForkServer(directory)
        try:
            yield Driver(seed, size, directory, postgres, valkey, warm)
        finally:
            warm.close()


def _check(played: Round) -> None:
    """Look, have a worker tidy up, repair, and have all jobs run, and look each time.

    Raises Broken.
    """
    world, docora = played.world, played.world.producer
    problems = [
        *played.problems,
        *invariants.of_processes(played.processes),
        *invariants.of_stores(world),
        *invariants.of_receiver(world, sessions_cut=played.sessions_cut),
    ]
    if not played.data_lost:
        nowhere = set(invariants.lost(docora)) - invariants.in_hand(docora)
        problems += [f"lost, and in no worker's hand: {job_id}" for job_id in sorted(nowhere)]
    settings = world.snapshots.settings.model_copy(
        update={"max_retry_attempts": MAX_RETRY_ATTEMPTS}
    )
    tidy_up(docora, settings)
    lost, doubled = invariants.lost(docora), set(invariants.doubled(docora))
    if not played.data_lost:
        problems += [f"lost: {invariants.story_of(docora, job_id)}" for job_id in lost]
    problems += [f"stuck: {job_id}" for job_id in invariants.stuck(docora)]
    if not played.data_lost and not played.woken_late:
        problems += [
            f"doubled: {invariants.story_of(docora, job_id)}"
            for job_id in sorted(doubled - world.careless)
        ]
    invariants.check(problems)
    _check_repair(world, lost, doubled)
    _check_drain(world, played.processes)


def _check_repair(world: World, lost: list[str], doubled: set[str]) -> None:
    docora = world.producer
    found, doctor = _doctor(world)
    problems = []
    if (found["lost"], found["duplicate"]) != (len(lost), len(doubled)):
        problems.append(f"doctor sees {found}, and there are {lost} and {sorted(doubled)}")
    if any(found.values()) and doctor.code != ExitCode.PROBLEMS:
        problems.append(f"doctor found {found} and ended with {doctor.code}")
    repair = docora.run(*_REPAIR, "--json", env=_AT_ONCE)
    if repair.code != ExitCode.OK:
        problems.append(f"repair: {repair}")
    left, _ = _doctor(world)
    if any(left.values()):
        problems.append(f"after {repair.stdout} doctor sees {left}")
    problems += [f"lost after repair: {job_id}" for job_id in invariants.lost(docora)]
    problems += [f"doubled after repair: {job_id}" for job_id in invariants.doubled(docora)]
    invariants.check(problems)


def _check_drain(world: World, processes: Sequence[Process]) -> None:
    """All apps are well, and so is the worker."""
    docora = world.producer
    world.apps.moods = dict.fromkeys(world.apps.moods, Mood.WELL)
    problems: list[str] = []
    while docora.redis.exists(docora.queue.key, docora.queue.scheduled_job_registry.key):
        make_delayed_jobs_due(docora)
        worker = finish(
            world.snapshots.start_worker("--burst", "--concurrency", "2"), _LONGEST_DRAIN
        )
        if worker.code != ExitCode.OK:
            problems.append(f"the last worker: {worker}")
            break
    problems += invariants.of_deliveries(world, processes)
    problems += invariants.of_stores(world)
    problems += [f"lost in the end: {job_id}" for job_id in invariants.lost(docora)]
    # RQ may have noted a failure of what was queued anew meanwhile: of no consequence, but untidy.
    repair = docora.run(*_REPAIR, env=_AT_ONCE)
    left, doctor = _doctor(world)
    if any(left.values()) or (repair.code, doctor.code) != (ExitCode.OK, ExitCode.OK):
        problems.append(f"in the end: {repair} {doctor}")
    invariants.check(problems)


def _doctor(world: World) -> tuple[dict[str, int], Result]:
    """How often it sees each kind of drift, and all that it says."""
    doctor = world.producer.run("doctor", "--json", env=_AT_ONCE)
    counts: dict[str, Any] = doctor.data["drift"]["counts"]
    counts.pop("failed_live")
    return counts, doctor


def _as_owner(url: str) -> Access:
    return Access(url, url, url, url)
