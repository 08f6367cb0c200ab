"""What must hold once all is quiet, whatever has befallen whom.

Without exception: statuses are those of the machine; each delivery on record was acknowledged;
progress counts make sense and expire; every command ends, with a code that was promised, says no
traceback and no secret, and ends by a signal only if that came before it could handle it; one that
ends well has done all that it counts; behind the pooler commands work, and leave nothing there; the
children of a worker that was killed end by themselves, and nobody is left when the round is over.

Where Redis kept its data: no pending link is without a live job, once somebody has seen to what
killed workers had in hand. Where it lost them, doctor counts the links that are lost, and repair
brings back every one.

No id stands in the queue twice, except where the promise does not reach: the producer did not look
before it pushed, Redis lost what would have told of the first, or a worker overslept, whose job RQ
had given to another. Those doctor counts and repair mends.

A resync that has succeeded sends every file again, before its link is in sync.

Two jobs are never at work on one link. A job finds out that it has lost its lock, with its session
of Postgres, only when it next records a file: until then it may send one more than was on its way.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from signal import Signals
from typing import cast

from rq.job import Job

from docora_ops.cli.exit_codes import ExitCode
from docora_ops.links import LinkStatus
from tests.chaos.between import POSTGRES_PASSWORD
from tests.chaos.processes import Process
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


class Broken(AssertionError):  # noqa: N818 - it is not the program that is in error
    """An invariant does not hold."""


def check(problems: list[str]) -> None:
    """Raise Broken if there are any."""
    if problems:
        raise Broken("\n".join(problems))


def of_processes(processes: list[Process]) -> list[str]:
    """How they have ended, and what they have said."""
    problems = []
    for process in processes:
        if _had_not_begun(process):
            continue
        code = process.process.returncode
        if code not in _promised(process) and -code not in process.fatal:
            problems.append(f"{process.name} ended with {code}: {_last_words(process)}")
        said = process.output + process.log
        if "Traceback" in said:
            problems.append(f"{process.name} said a traceback: {_last_words(process)}")
        problems += [f"{process.name} said {secret}" for secret in _SECRETS if secret in said]
        if "--json" in process.arguments and code >= 0:
            problems += _of_document(process)
    return problems


def _promised(process: Process) -> set[int]:
    """The exit codes that README promises for what was done to it."""
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
    """Whether it printed one JSON document and, if all went well, has done all that it counts."""
    try:
        document = json.loads(process.output)
    except ValueError:
        return [f"{process.name} printed no JSON: {process.output!r}"]
    if process.process.returncode == ExitCode.OK and process.arguments[0] in _BULK:
        data = document["data"]
        if data.get("total") != data.get("completed"):
            return [f"{process.name} ended well and has done less than all: {process.output}"]
    return []


def _had_not_begun(process: Process) -> bool:
    """Whether Ctrl-C came while Python itself was starting: nobody can make it quiet then."""
    is_cut = Signals.SIGINT in process.signals and "KeyboardInterrupt" in process.log
    return is_cut and not re.search(r"__main__\.py\", line \d+, in main", process.log)


def _last_words(process: Process) -> str:
    return "".join(process.lines[-3:]).strip()


def of_stores(world: World) -> list[str]:
    """What both stores say, whatever has happened."""
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
        life = docora.redis.ttl(key)
        if (
            not succeeded + failed <= completed <= total
            or fields.get(b"cancelled") not in {b"true", b"false"}
            or not 0 < life <= 3600
        ):
            problems.append(f"{key!r}, which expires in {life} s: {fields}")
    return problems


def of_receiver(world: World, *, sessions_cut: bool) -> list[str]:
    """What the apps have seen."""
    allowed = 2 if sessions_cut else 1
    problems = [
        f"two jobs at once: {app} {repository_id}: {late} sent after another had begun"
        for (app, repository_id), late in world.apps.late.items()
        if late > allowed
    ]
    return problems + [f"receiver: {each}" for each in world.snapshots.receiver.problems]


def lost(docora: Docora) -> list[str]:
    """Jobs of pending links that are not there to be run."""
    return _without_job(docora, LinkStatus.PENDING_SNAPSHOT)


def stuck(docora: Docora) -> list[str]:
    """The same of links that are marked as being scanned."""
    return _without_job(docora, LinkStatus.SCANNING)


def story_of(docora: Docora, job_id: str) -> str:
    """All that is known of a link and its job."""
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


def in_hand(docora: Docora) -> set[str]:
    """Jobs that a worker had when it was killed."""
    members = cast("list[bytes]", docora.redis.zrange(f"rq:wip:{QUEUE}", 0, -1))
    popped = cast("list[bytes]", docora.redis.lrange(f"rq:queue:{QUEUE}:intermediate", 0, -1))
    return {member.decode().partition(":")[0] for member in [*members, *popped]}


def doubled(docora: Docora) -> list[str]:
    """Jobs that stand to be run twice."""
    return sorted(set(docora.doubled_jobs()) | (set(docora.waiting()) & _scheduled(docora)))


def of_deliveries(world: World, processes: Sequence[Process]) -> list[str]:
    """Whether every link has come to an end, and the app of one that is in sync has all files."""
    problems = []
    for link in world.links:
        row = world.producer.row(link)
        delivered, files = world.snapshots.deliveries(link), world.files[link.repository_id]
        if row["status"] not in {LinkStatus.SYNCED, LinkStatus.FAILED}:
            problems.append(f"{link.job_id} is {row['status']} in the end: {row['last_error']}")
        elif row["status"] == LinkStatus.SYNCED and delivered != files:
            problems.append(f"{link.job_id} is in sync with {sorted(delivered)}")
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
    """When the last one began that has succeeded."""
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
