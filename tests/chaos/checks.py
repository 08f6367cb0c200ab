"""The checks after a round. Each raises Broken with all that does not hold."""

from docora_ops.cli.exit_codes import ExitCode
from tests.chaos import invariants
from tests.chaos.apps import Mood
from tests.chaos.expiry import tidy_up
from tests.chaos.invariants import Broken
from tests.chaos.round import Round
from tests.chaos.world import MAX_RETRY_ATTEMPTS, World
from tests.support.docora import Result, finish
from tests.support.worker_processes import make_delayed_jobs_due

DRAIN_TIMEOUT = 600
"""Seconds for the last worker to run all jobs."""
NO_GRACE = {"DOCORA_OPS_DRIFT_GRACE": "0"}
REPAIR = ("repair", "--yes", "--remove-unknown-jobs")
"""The option is needed: in the end few jobs are left, and all of them may be unknown."""


def check_round(played: Round) -> None:
    """Checks what the round left, then what maintenance, repair and a last worker make of it."""
    world, docora = played.world, played.world.producer
    problems = [
        *played.problems,
        *invariants.of_processes(played.processes, beside_docora=played.docoras_worker is not None),
        *invariants.of_stores(world),
        *invariants.of_receiver(world, sessions_cut=played.sessions_cut),
    ]
    if not played.data_lost:
        nowhere = set(invariants.lost(docora)) - invariants.taken(docora)
        problems += [f"lost, and no worker had taken it: {job_id}" for job_id in sorted(nowhere)]
    settings = world.snapshots.settings
    tidy_up(docora, settings.model_copy(update={"max_retry_attempts": MAX_RETRY_ATTEMPTS}))
    lost, doubled = invariants.lost(docora), invariants.doubled(docora)
    problems += [f"stuck: {job_id}" for job_id in invariants.stuck(docora)]
    if not played.data_lost:
        problems += [f"lost: {invariants.story_of(docora, job_id)}" for job_id in lost]
    if not played.data_lost and not played.overslept:
        unexpected = sorted(set(doubled) - world.careless)
        problems += [f"doubled: {invariants.story_of(docora, job_id)}" for job_id in unexpected]
    _require_none(problems)
    _require_none(_check_repair(world, lost, doubled))
    _require_none(_check_drain(played))


def _require_none(problems: list[str]) -> None:
    if problems:
        raise Broken("\n".join(problems))


def _check_repair(world: World, lost: list[str], doubled: list[str]) -> list[str]:
    """Checks that doctor counts what is lost and doubled, and that repair fixes it."""
    docora = world.producer
    problems = []
    found, doctor = _doctor(world)
    if (found["lost"], found["duplicate"]) != (len(lost), len(doubled)):
        problems.append(f"doctor sees {found}, and there are {lost} and {doubled}")
    if any(found.values()) and doctor.code != ExitCode.PROBLEMS:
        problems.append(f"doctor found {found} and ended with {doctor.code}")
    repair = docora.run(*REPAIR, "--json", env=NO_GRACE)
    if repair.code != ExitCode.OK:
        problems.append(f"repair: {repair}")
    left, _ = _doctor(world)
    if any(left.values()):
        problems.append(f"after {repair.stdout} doctor sees {left}")
    problems += [f"lost after repair: {job_id}" for job_id in invariants.lost(docora)]
    problems += [f"doubled after repair: {job_id}" for job_id in invariants.doubled(docora)]
    return problems


def _check_drain(played: Round) -> list[str]:
    """Runs all jobs while all apps are well, and checks how every link has ended."""
    world, docora = played.world, played.world.producer
    world.apps.moods = dict.fromkeys(world.apps.moods, Mood.WELL)
    problems = []
    while docora.redis.exists(docora.queue.key, docora.queue.scheduled_job_registry.key):
        make_delayed_jobs_due(docora)
        worker = world.snapshots.start_worker("--burst", "--concurrency", "2")
        result = finish(worker, DRAIN_TIMEOUT)
        if result.code != ExitCode.OK:
            problems.append(f"the last worker: {result}")
            break
    problems += invariants.of_deliveries(world, played.processes)
    problems += invariants.of_stores(world)
    problems += [f"lost in the end: {job_id}" for job_id in invariants.lost(docora)]
    # RQ may have recorded a failure of a job that was queued again meanwhile: harmless drift.
    repair = docora.run(*REPAIR, env=NO_GRACE)
    left, doctor = _doctor(world)
    if any(left.values()) or (repair.code, doctor.code) != (ExitCode.OK, ExitCode.OK):
        problems.append(f"in the end: {repair} {doctor}")
    return problems


def _doctor(world: World) -> tuple[dict[str, int], Result]:
    """Returns how much drift of each kind doctor sees, and its output."""
    doctor = world.producer.run("doctor", "--json", env=NO_GRACE)
    return doctor.data["drift"]["counts"], doctor
