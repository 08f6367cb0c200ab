"""What must hold after a round, whatever happened in it.

- Each recorded delivery was acknowledged by the app. Progress counts add up and expire.
- Every command ends with a promised exit code, prints neither a traceback nor a secret, and dies
  of a signal only if the signal came before the command could handle it.
- Each running worker is registered. Children of a killed worker end by themselves.
- A resync that succeeded sends every file again before its link is synced.
- Verify finds no link that differs for certain, neither after the round nor in the end.
- While Redis keeps its data, each pending link has a live job after the maintenance of a worker.
- No job id is queued twice, unless the careless producer pushed it, Redis lost its job, or a worker
  overslept whose job RQ had given to another. Doctor counts these and repair fixes them.
- A held app is sent at most the file that was on its way when the hold began.
- Two jobs never work on one link at once. A job notices that it has lost its lock, with its session
  of Postgres, when it next records a file: until then it may send one more.
"""

import json
import re
from signal import Signals
from typing import cast

from docora_ops.cli.exit_codes import ExitCode
from docora_ops.links import LinkStatus
from docora_ops.queue import connect
from docora_ops.queue.holds import HOLDS
from docora_ops.worker.rq_worker import SnapshotWorker
from tests.chaos.round import Process, Round
from tests.chaos.servers import POSTGRES_PASSWORD, REDIS_PASSWORD
from tests.chaos.world import MAX_RETRY_ATTEMPTS, Mood, World
from tests.support.docora import INTERMEDIATE, QUEUE, WIP, Docora, Result, finish
from tests.support.rows import TestLink
from tests.support.snapshots import AUTH_KEY, KEY, TOKEN
from tests.support.worker_processes import expire_heartbeats, make_delayed_jobs_due

DRAIN_TIMEOUT = 600  # seconds for the last worker to run all jobs
NO_GRACE = {"DOCORA_OPS_DRIFT_GRACE": "0"}
# With the option, since in the end few jobs are left, and all of them may be unknown.
REPAIR = ("repair", "--yes")
_SECRETS = (POSTGRES_PASSWORD, REDIS_PASSWORD, AUTH_KEY, KEY.hex(), TOKEN)
_HUNG_UP = 128 + Signals.SIGHUP
_PROMISED = set(ExitCode) - {ExitCode.BUG, ExitCode.USAGE, ExitCode.INTERRUPTED, _HUNG_UP}


class Broken(AssertionError):  # noqa: N818 - a finding, not an error of this program
    """An invariant does not hold."""


def check_round(played: Round) -> None:
    """Checks what the round left, then what maintenance, repair and a last worker make of it.

    Raises Broken with all that does not hold.
    """
    world, docora = played.world, played.world.producer
    problems = [*played.problems, *_of_processes(played.processes), *_of_stores(world)]
    problems += [
        f"two jobs at once: {app} {repository_id}: {late} sent after another had begun"
        for (app, repository_id), late in world.apps.late.items()
        if late > 1 + played.sessions_cut
    ]
    problems += [
        f"files sent to {app} although it was held: {number}"
        for app, number in (+world.apps.in_spite_of_hold).items()
    ]
    problems += [f"receiver: {each}" for each in world.snapshots.receiver.problems]
    if not played.data_lost:
        nowhere = set(_without_job(docora, LinkStatus.PENDING_SNAPSHOT)) - _taken(docora)
        problems += [f"lost, and no worker had taken it: {job_id}" for job_id in sorted(nowhere)]
    docora.redis.delete(HOLDS)  # a held app is not looked at for drift
    _tidy_up(world)
    lost, doubled = _without_job(docora, LinkStatus.PENDING_SNAPSHOT), _doubled(docora)
    stuck = _without_job(docora, LinkStatus.SCANNING)
    problems += [f"stuck: {_story_of(docora, job_id)}" for job_id in stuck]
    if not played.data_lost:
        problems += [f"lost: {_story_of(docora, job_id)}" for job_id in lost]
    if not played.data_lost and not played.overslept:
        unexpected = sorted(set(doubled) - world.careless)
        problems += [f"doubled: {_story_of(docora, job_id)}" for job_id in unexpected]
    problems += _of_verify(docora)
    problems = problems or _of_repair(docora, lost, doubled) or _of_drain(played)
    if problems:
        raise Broken("\n".join(problems))


def _of_verify(docora: Docora) -> list[str]:
    verify = docora.run("verify", "--json", env=NO_GRACE)
    # It also exits with 6 for links that are failed.
    is_sound = verify.code in {ExitCode.OK, ExitCode.PROBLEMS} and not verify.data["differing"]
    return [] if is_sound else [f"in vain, verify found: {verify}"]


def _of_repair(docora: Docora, lost: list[str], doubled: list[str]) -> list[str]:
    """Checks that doctor counts what is lost and doubled, and that repair fixes it."""
    problems = []
    found, doctor = _doctor(docora)
    if (found["lost"], found["duplicate"]) != (len(lost), len(doubled)):
        problems.append(f"doctor sees {found}, and there are {lost} and {doubled}")
    if any(found.values()) and doctor.code != ExitCode.PROBLEMS:
        problems.append(f"doctor found {found} and ended with {doctor.code}")
    repair = docora.run(*REPAIR, "--json", env=NO_GRACE)
    left, _ = _doctor(docora)
    if repair.code != ExitCode.OK or any(left.values()):
        problems.append(f"after {repair} doctor sees {left}")
    still = _without_job(docora, LinkStatus.PENDING_SNAPSHOT) + _doubled(docora)
    return problems + [f"lost or doubled after repair: {job_id}" for job_id in still]


def _of_drain(played: Round) -> list[str]:
    """Runs all jobs while all apps are well, and checks how every link has ended."""
    world, docora, problems = played.world, played.world.producer, []
    world.apps.moods = dict.fromkeys(world.apps.moods, Mood.WELL)
    while docora.redis.exists(docora.queue.key, docora.queue.scheduled_job_registry.key):
        make_delayed_jobs_due(docora)
        worker = world.snapshots.start_worker("--burst", "--concurrency", "2")
        result = finish(worker, timeout=DRAIN_TIMEOUT)
        if result.code != ExitCode.OK:
            problems.append(f"the last worker: {result}")
            break
    for link in world.links:
        row, files = docora.row(link), world.files[link.repository_id]
        if row["status"] not in {LinkStatus.SYNCED, LinkStatus.FAILED}:
            problems.append(f"{link.job_id} is {row['status']} at the end: {row['last_error']}")
        elif row["status"] == LinkStatus.SYNCED:
            if (delivered := world.snapshots.deliveries(link)) != files:
                problems.append(f"{link.job_id} is synced with {sorted(delivered)}")
            last = [
                world.apps.acknowledged[world.names[link.app_id], link.repository_id, path, sha]
                for path, sha in files.items()
            ]
            if min(last) < _last_resync(link, played.processes):
                problems.append(f"{link.job_id} was not sent again after its resync")
    problems += [*_of_stores(world), *_of_verify(docora)]
    # RQ may have recorded a failure of a job that was queued again meanwhile: harmless drift.
    repair = docora.run(*REPAIR, env=NO_GRACE)
    left, doctor = _doctor(docora)
    critical = {each["name"] for each in doctor.data["checks"] if each["state"] == "critical"}
    # No worker runs any more, and the last good scan of many links was before the round.
    if any(left.values()) or repair.code != ExitCode.OK or critical - {"workers", "freshness"}:
        problems.append(f"in the end: {repair} {doctor}")
    return problems


def _doctor(docora: Docora) -> tuple[dict[str, int], Result]:
    doctor = docora.run("doctor", "--json", env=NO_GRACE)
    return doctor.data["drift"]["counts"], doctor


def _tidy_up(world: World) -> None:
    """Lets all heartbeats and locks expire, and runs the maintenance of a new worker."""
    docora = world.producer
    expire_heartbeats(docora)
    changes = {"max_retry_attempts": MAX_RETRY_ATTEMPTS}
    settings = world.snapshots.settings.model_copy(update=changes)
    with connect(settings) as client:
        worker = SnapshotWorker(settings, client, "tidy")
        for _ in range(2):  # maintenance first only marks a job that was taken and never began
            for name in ("rq:clean_registries", "rq:scheduler-lock", "docora:repo-lock"):
                for key in docora.redis.scan_iter(f"{name}:*"):
                    docora.redis.delete(key)
            worker.maintain()
            for job_id in cast("list[bytes]", docora.redis.lrange(INTERMEDIATE, 0, -1)):
                docora.redis.set(f"{INTERMEDIATE}:first_seen:{job_id.decode()}", 1, xx=True)


# Processes


def _of_processes(processes: list[Process]) -> list[str]:
    problems = []
    for process in processes:
        is_cut = Signals.SIGINT in process.signals and "KeyboardInterrupt" in process.log
        if is_cut and not re.search(r"__main__\.py\", line \d+, in main", process.log):
            continue  # the signal came while Python was starting, which prints a traceback
        code, printed = process.process.wait(), process.output + process.log
        last_words = "".join(process.lines[-3:]).strip()
        if code not in _promised(process) and -code not in process.fatal:
            problems.append(f"{process.name} ended with {code}: {last_words}")
        if "Traceback" in printed:
            problems.append(f"{process.name} printed a traceback: {last_words}")
        problems += [f"{process.name} printed {secret}" for secret in _SECRETS if secret in printed]
        if "--json" in process.arguments and code >= 0:
            problems += _of_document(process, code)
    return problems


def _promised(process: Process) -> set[int]:
    """Returns the exit codes that are promised after the signals that were sent."""
    ended = process.signals & {Signals.SIGINT, Signals.SIGTERM, Signals.SIGHUP}
    promised: set[int] = set(_PROMISED)
    if process.is_worker:
        promised = {ExitCode.OK, ExitCode.SERVER} if ended else {ExitCode.SERVER}
    if Signals.SIGHUP in ended:
        promised.add(_HUNG_UP)
    if ended - {Signals.SIGHUP}:
        promised.add(ExitCode.INTERRUPTED)
    return promised


def _of_document(process: Process, code: int) -> list[str]:
    """Checks that there is one JSON document and, on success, that all links are done."""
    try:
        data = json.loads(process.output).get("data")
    except ValueError:
        return [f"{process.name} printed no JSON: {process.output!r}"]
    is_bulk = process.arguments[0] in {"retry-all-failed", "resync", "schedule"}
    if code == ExitCode.OK and is_bulk and data.get("total") != data.get("completed"):
        return [f"{process.name} succeeded and has done less than all: {process.output}"]
    return []


def _last_resync(link: TestLink, processes: list[Process]) -> float:
    """Returns when the last successful resync of a link began."""
    began = [
        process.began
        for process in processes
        if process.process.returncode == ExitCode.OK
        and process.arguments[:2] == ("resync", link.app_id)
        and process.arguments[2] in {link.repository_id, "--all"}
    ]
    return max(began, default=0)


# Stores


def _of_stores(world: World) -> list[str]:
    docora = world.producer
    unknown = sorted(set(docora.statuses()) - set(LinkStatus))
    problems = [f"status {status!r}" for status in unknown]
    for row in docora.connection.execute("SELECT * FROM app_delivered_files"):
        app, path = world.names[row["app_id"]], row["file_path"]
        if (app, row["repository_id"], path, row["file_sha"]) not in world.apps.acknowledged:
            problems.append(f"a delivery that was never acknowledged: {app} {path}")
    for key in docora.redis.scan_iter("docora:bulk:*"):
        fields = cast("dict[bytes, bytes]", docora.redis.hgetall(key))
        names = (b"total", b"completed", b"succeeded", b"failed")
        total, completed, *ended = (int(fields.get(name, b"-1")) for name in names)
        is_sound = min(total, completed, *ended) >= 0 and sum(ended) <= completed <= total
        is_sound &= fields.get(b"cancelled") in {b"true", b"false"}
        if not (is_sound and 0 < docora.redis.ttl(key) <= 3600):
            problems.append(f"{key!r}: {fields}")
    return problems


def _without_job(docora: Docora, status: str) -> list[str]:
    rows = docora.connection.execute(
        "SELECT app_id || '-' || repository_id AS job_id FROM app_repositories WHERE status = %s"
        " ORDER BY 1",
        (status,),
    ).fetchall()
    to_be_run = set(docora.waiting()) | _scheduled(docora)
    return [
        row["job_id"]
        for row in rows
        if row["job_id"] not in to_be_run or not docora.job_hash(row["job_id"])
    ]


def _story_of(docora: Docora, job_id: str) -> str:
    row = docora.row(TestLink(*job_id.split("-")))
    job = {name: value for name, value in docora.job_hash(job_id).items() if name != "data"}
    is_waiting = job_id in docora.waiting()
    return f"{job_id}: {row}, {docora.registries(job_id)}, in the list: {is_waiting}: {job}"


def _taken(docora: Docora) -> set[str]:
    members = cast("list[bytes]", docora.redis.zrange(WIP, 0, -1))
    popped = cast("list[bytes]", docora.redis.lrange(INTERMEDIATE, 0, -1))
    return {member.decode().partition(":")[0] for member in [*members, *popped]}


def _doubled(docora: Docora) -> list[str]:
    return sorted(set(docora.doubled_jobs()) | (set(docora.waiting()) & _scheduled(docora)))


def _scheduled(docora: Docora) -> set[str]:
    members = cast("list[bytes]", docora.redis.zrange(f"rq:scheduled:{QUEUE}", 0, -1))
    return {member.decode() for member in members}
