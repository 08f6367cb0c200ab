"""What must hold after a round, whatever happened in it.

Always:
- Statuses are those of Docora. Each recorded delivery was acknowledged by the app.
- Progress counts add up and expire.
- Every command ends with a promised exit code, prints neither a traceback nor a secret, and dies
  of a signal only if the signal came before the command could handle it. A command that succeeds
  has done all that it counts.
- Commands work through PgBouncer and leave nothing in its sessions.
- Each running worker is registered, also in a Redis that was emptied under it.
- Children of a killed worker end by themselves; no process outlives the round.
- A resync that succeeded sends every file again before its link is synced.

While Redis keeps its data: once the maintenance of a worker has cleaned up after killed workers,
each pending link has a live job. If Redis lost its data, doctor counts the lost links and repair
queues each of them.

No job id is queued twice, with three exceptions: the careless producer pushed it, Redis or another
program lost or ended a job whose id still stood in the list, or a worker overslept whose job RQ had
given to another. Doctor counts these and repair fixes them.

Two jobs never work on one link at once. A job notices that it has lost its lock, with its Postgres
session, when it next records a file: until then it may send one more.
"""

import json
import re
from collections.abc import Sequence
from signal import Signals
from typing import cast

from rq.job import Job

from docora_ops.cli.exit_codes import ExitCode
from docora_ops.links import LinkStatus
from tests.chaos.processes import Process
from tests.chaos.proxies import POSTGRES_PASSWORD
from tests.chaos.servers import REDIS_PASSWORD
from tests.chaos.world import World
from tests.support.docora import QUEUE, Docora
from tests.support.rows import TestLink
from tests.support.snapshots import AUTH_KEY, KEY, TOKEN

_SECRETS = (POSTGRES_PASSWORD, REDIS_PASSWORD, AUTH_KEY, KEY.hex(), TOKEN)
_HUNG_UP = 128 + Signals.SIGHUP
_PROMISED = set(ExitCode) - {ExitCode.BUG, ExitCode.USAGE, ExitCode.INTERRUPTED, _HUNG_UP}
_OF_WORKERS = {ExitCode.SERVER}
_OF_WORKERS_TOLD_TO_END = {ExitCode.OK, ExitCode.SERVER}
_BULK = {"retry-all-failed", "resync", "schedule"}
_COUNTS = (b"total", b"completed", b"succeeded", b"failed")


class Broken(AssertionError):  # noqa: N818 - a finding, not an error of this program
    """An invariant does not hold."""


def of_processes(processes: list[Process], *, beside_docora: bool) -> list[str]:
    """Checks how processes ended and what they printed.

    `beside_docora`: a worker of BullMQ ran for a while, beside which none of ours starts.
    """
    problems = []
    for process in processes:
        if _was_starting(process):
            continue
        code = process.process.wait()
        is_refused = process.is_worker and beside_docora and code == ExitCode.REFUSED
        if not is_refused and code not in _promised(process) and -code not in process.fatal:
            problems.append(f"{process.name} ended with {code}: {_last_words(process)}")
        printed = process.output + process.log
        if "Traceback" in printed:
            problems.append(f"{process.name} printed a traceback: {_last_words(process)}")
        problems += [f"{process.name} printed {secret}" for secret in _SECRETS if secret in printed]
        if "--json" in process.arguments and code >= 0:
            problems += _of_document(process)
    return problems


def _promised(process: Process) -> set[int]:
    """Returns the exit codes that are promised after the signals that were sent."""
    ended = process.signals & {Signals.SIGINT, Signals.SIGTERM, Signals.SIGHUP}
    promised: set[int] = set(_PROMISED)
    if process.is_worker:
        promised = set(_OF_WORKERS_TOLD_TO_END if ended else _OF_WORKERS)
    if Signals.SIGHUP in ended:
        promised.add(_HUNG_UP)
    if ended - {Signals.SIGHUP}:
        promised.add(ExitCode.INTERRUPTED)
    return promised


def _of_document(process: Process) -> list[str]:
    """Checks that there is one JSON document and, on success, that all links are done."""
    try:
        document = json.loads(process.output)
    except ValueError:
        return [f"{process.name} printed no JSON: {process.output!r}"]
    if process.process.returncode == ExitCode.OK and process.arguments[0] in _BULK:
        data = document["data"]
        if data.get("total") != data.get("completed"):
            return [f"{process.name} succeeded and has done less than all: {process.output}"]
    return []


def _was_starting(process: Process) -> bool:
    """Returns whether SIGINT came while Python was starting, which prints a traceback."""
    is_cut = Signals.SIGINT in process.signals and "KeyboardInterrupt" in process.log
    return is_cut and not re.search(r"__main__\.py\", line \d+, in main", process.log)


def _last_words(process: Process) -> str:
    return "".join(process.lines[-3:]).strip()


def of_stores(world: World) -> list[str]:
    """Checks statuses, deliveries and progress hashes."""
    docora = world.producer
    unknown = sorted(set(docora.statuses()) - set(LinkStatus))
    problems = [f"status {status!r}" for status in unknown]
    for row in docora.connection.execute("SELECT * FROM app_delivered_files"):
        app, path = world.names[row["app_id"]], row["file_path"]
        if (app, row["repository_id"], path, row["file_sha"]) not in world.apps.acknowledged:
            problems.append(f"a delivery that was never acknowledged: {app} {path}")
    for key in docora.redis.scan_iter("docora:bulk:*"):
        fields = cast("dict[bytes, bytes]", docora.redis.hgetall(key))
        counts = [fields.get(name, b"") for name in _COUNTS]
        if not all(count.isdigit() for count in counts):
            problems.append(f"{key!r}: {fields}")
            continue
        total, completed, succeeded, failed = map(int, counts)
        ttl = docora.redis.ttl(key)
        if (
            not succeeded + failed <= completed <= total
            or fields.get(b"cancelled") not in {b"true", b"false"}
            or not 0 < ttl <= 3600
        ):
            problems.append(f"{key!r}, which expires in {ttl} s: {fields}")
    return problems


def of_receiver(world: World, *, sessions_cut: bool) -> list[str]:
    """Checks what the apps received."""
    allowed = 2 if sessions_cut else 1
    problems = [
        f"two jobs at once: {app} {repository_id}: {late} sent after another had begun"
        for (app, repository_id), late in world.apps.late.items()
        if late > allowed
    ]
    return problems + [f"receiver: {each}" for each in world.snapshots.receiver.problems]


def lost(docora: Docora) -> list[str]:
    """Returns the job ids of pending links without a job that will run."""
    return _without_job(docora, LinkStatus.PENDING_SNAPSHOT)


def stuck(docora: Docora) -> list[str]:
    """Returns the job ids of scanning links without a job that will run."""
    return _without_job(docora, LinkStatus.SCANNING)


def story_of(docora: Docora, job_id: str) -> str:
    """Returns all that is known of a link and its job."""
    app_id, _, repository_id = job_id.partition("-")
    row = docora.row(TestLink(app_id, repository_id))
    told = ("status", "retry_count", "last_error")
    job = {
        name: value.decode(errors="replace")
        for name, value in docora.job_hash(job_id).items()
        if name not in {"data", "exc_info"}
    }
    places = docora.registries(job_id) | ({"list"} & {"list" if job_id in docora.waiting() else ""})
    return f"{job_id}: { {name: row[name] for name in told} }, in {sorted(places)}: {job}"


def taken(docora: Docora) -> set[str]:
    """Returns the ids of jobs that a worker had taken when it was killed."""
    members = cast("list[bytes]", docora.redis.zrange(f"rq:wip:{QUEUE}", 0, -1))
    popped = cast("list[bytes]", docora.redis.lrange(f"rq:queue:{QUEUE}:intermediate", 0, -1))
    return {member.decode().partition(":")[0] for member in [*members, *popped]}


def doubled(docora: Docora) -> list[str]:
    """Returns the ids of jobs that are queued twice."""
    return sorted(set(docora.doubled_jobs()) | (set(docora.waiting()) & _scheduled(docora)))


def of_deliveries(world: World, processes: Sequence[Process]) -> list[str]:
    """Checks that every link is synced or failed, and that apps of synced links have all files."""
    problems = []
    for link in world.links:
        row = world.producer.row(link)
        delivered, files = world.snapshots.deliveries(link), world.files[link.repository_id]
        if row["status"] not in {LinkStatus.SYNCED, LinkStatus.FAILED}:
            problems.append(f"{link.job_id} is {row['status']} at the end: {row['last_error']}")
        elif row["status"] == LinkStatus.SYNCED and delivered != files:
            problems.append(f"{link.job_id} is synced with {sorted(delivered)}")
        elif row["status"] == LinkStatus.SYNCED:
            resynced = _last_resync(link, processes)
            last = [
                world.apps.acknowledged[world.names[link.app_id], link.repository_id, path, sha]
                for path, sha in files.items()
            ]
            if min(last) < resynced:
                problems.append(f"{link.job_id} was not sent again after its resync")
    return problems


def _last_resync(link: TestLink, processes: Sequence[Process]) -> float:
    """Returns when the last successful resync of a link began."""
    began = [
        process.began
        for process in processes
        if process.process.returncode == ExitCode.OK
        and process.arguments[0] == "resync"
        and process.arguments[1] == link.app_id
        and process.arguments[2] in {link.repository_id, "--all"}
    ]
    return max(began, default=0)


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
        if row["job_id"] not in to_be_run or not docora.redis.exists(Job.key_for(row["job_id"]))
    ]


def _scheduled(docora: Docora) -> set[str]:
    members = cast("list[bytes]", docora.redis.zrange(f"rq:scheduled:{QUEUE}", 0, -1))
    return {member.decode() for member in members}
