"""`queue`: what waits, what runs, who works, and that looking changes nothing."""

import os
import pickle
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from redis.connection import AbstractConnection
from rq import Worker
from rq.executions import Execution
from rq.job import Job, JobStatus
from rq.scheduler import RQScheduler
from rq.utils import now, utcformat

from docora_ops.queue.rq_workers import read_workers
from tests.support.docora import QUEUE, Docora
from tests.support.read_only import frozen
from tests.support.rows import AUTH_KEY, GITHUB_TOKEN, TestLink
from tests.support.terminal import at_terminals, plain_data

NO_POSTGRES = {"DATABASE_URL": None}
LONG_ERROR = "127.0.0.1:9: Connection refused on created docs/reference/index.md"
COUNTS = ("waiting", "active", "completed_jobs", "failed_jobs", "delayed")


def counts(data: dict[str, Any]) -> tuple[int, ...]:
    return tuple(data[name] for name in COUNTS)


def add_worker(docora: Docora, name: str, *running: Job) -> Worker:
    """What a worker of RQ records of itself and of the jobs that it runs."""
    worker = Worker([docora.queue], connection=docora.redis, name=name)
    worker.register_birth()  # type: ignore[no-untyped-call]
    worker.set_state("busy" if running else "idle")
    for job in running:
        with docora.redis.pipeline() as pipeline:
            Execution.create(job, 90, pipeline, worker_name=name)
            job.prepare_for_execution(name, pipeline)
            pipeline.execute()
    return worker


@pytest.fixture
def links(docora: Docora) -> list[TestLink]:
    """A queue with everything in it: three links whose jobs are popped, running and waiting."""
    app = docora.add_app("Acme Search")
    links = [docora.link(app, docora.add_repository(f"octo/{each}")) for each in "abc"]
    assert docora.run("retry-all-failed", "--yes").code == 0
    docora.redis.lmove(docora.queue.key, f"{docora.queue.key}:intermediate")
    running = docora.job(links[1])
    docora.redis.lrem(docora.queue.key, 0, running.id)
    add_worker(docora, "busy-one", running)
    add_worker(docora, "idle-one")
    docora.redis.sadd("rq:worker:idle-one:executions", "long-ago:expired")
    docora.redis.sadd(f"rq:workers:{QUEUE}", "rq:worker:killed-one")
    scheduler = RQScheduler([docora.queue], connection=docora.redis)
    scheduler.acquire_locks()  # type: ignore[no-untyped-call]
    # Others' jobs, and what others have left behind.
    docora.enqueue("foreign")
    docora.redis.hset("rq:job:foreign", "enqueued_at", utcformat(now() - timedelta(hours=3)))
    docora.schedule_job("later")
    docora.start_job("dead", heartbeat=-100)
    for number in range(2):
        docora.leave_job(f"failed-{number}", JobStatus.FAILED)
        docora.leave_job(f"finished-{number}", JobStatus.FINISHED)
    docora.redis.zadd(f"rq:finished:{QUEUE}", {"finished-1": 1})
    docora.redis.rpush(docora.queue.key, "gone", "strange")
    docora.redis.set("rq:job:strange", "not a hash")
    return links


def test_each_job_and_each_live_worker_is_shown(docora: Docora, links: list[TestLink]) -> None:
    with frozen(docora):
        result, first, screen, whole = docora.run_together(
            ("queue", "--json"),
            ("queue", "--limit", "2", "--json"),
            ("queue", "--limit", "2"),
            ("queue", "--all"),
            env=NO_POSTGRES,
        )
    assert result.code == 0, result
    data = result.data
    assert counts(data) == (5, 1, 1, 2, 1)
    assert 3 * 3600 <= data["oldest_waiting_seconds"] < 3 * 3600 + 300
    assert [(job["status"], job["job_id"]) for job in data["jobs"]] == [
        ("active", links[1].job_id),
        ("waiting", links[0].job_id),
        ("waiting", links[2].job_id),
        ("waiting", "foreign"),
        ("waiting", "gone"),
        ("waiting", "strange"),
        ("delayed", "later"),
    ]
    active, _, waiting, foreign, gone, strange, delayed = data["jobs"]
    assert active["processed_at"] >= active["created_at"]
    wanted = {
        "job_id": links[2].job_id,
        "name": "docora_ops.worker.snapshot",
        "app_id": links[2].app_id,
        "app_name": "Acme Search",
        "repository_id": links[2].repository_id,
        "repository_name": "octo/c",
    }
    assert {name: waiting[name] for name in wanted} == wanted
    assert (foreign["name"], foreign["app_name"]) == (None, None)
    for job in (gone, strange):
        assert {*job.values()} == {job["job_id"], "waiting", None}
    assert delayed["due_at"] > delayed["created_at"]
    assert first.data["jobs"] == data["jobs"][:2]
    assert counts(first.data) == counts(data)
    assert screen.stdout.splitlines()[-1] == "and 5 more: see --limit"

    busy, idle = data["workers"]
    assert (busy["name"], busy["state"]) == ("busy-one", "busy")
    assert busy["jobs"] == data["jobs"][:1]
    assert (busy["pid"], busy["hostname"]) == (os.getpid(), os.uname().nodename)
    assert busy["last_heartbeat_at"]
    assert (idle["name"], idle["state"], idle["jobs"]) == ("idle-one", "idle", [])
    assert data["scheduler"].encode() == docora.redis.get(f"rq:scheduler-lock:{QUEUE}")
    counted = r"Queue\t5 waiting \(the oldest for 3h\d*m?\), 1 running, 1 delayed\n"
    for shown in (screen.stdout, whole.stdout):
        assert re.match(rf"{counted}Workers\t2, 1 busy\n", shown), shown
    assert "Completed jobs" not in screen.stdout
    assert "Completed jobs\t1\n" in whole.stdout
    assert f"Scheduler\t{data['scheduler']}\n" in whole.stdout
    docora.redis.delete(f"rq:scheduler-lock:{QUEUE}")
    assert "nothing queues delayed jobs" in docora.run("queue").stderr


def test_only_jobs_of_the_named_apps_are_shown(docora: Docora, links: list[TestLink]) -> None:
    later = docora.link(links[0].app_id, docora.add_repository("octo/later"))
    docora.schedule_job(later.job_id)
    other = docora.link(docora.add_app("Beta"), later.repository_id)
    docora.enqueue(other.job_id)
    idle = docora.add_app("Gamma")
    with frozen(docora):
        one, both, screen, none = docora.run_together(
            ("queue", "--app", "acme search", "--json"),
            ("queue", "--app", "Acme", "--app", other.app_id, "--limit", "4", "--json"),
            ("queue", "--app", "Acme", "--limit", "2"),
            ("queue", "--app", idle),
        )
    expected = [links[1].job_id, links[0].job_id, links[2].job_id, later.job_id]
    assert [job["job_id"] for job in one.data["jobs"]] == expected
    statuses = ["active", "waiting", "waiting", "delayed"]
    assert [job["status"] for job in one.data["jobs"]] == statuses
    assert one.data["jobs"][-1]["due_at"]
    assert counts(one.data) == (6, 1, 1, 2, 2)
    assert [job["job_id"] for job in both.data["jobs"]] == [*expected[:3], other.job_id]
    assert (one.data["jobs_of_apps"], both.data["jobs_of_apps"]) == (4, 5)
    assert "Jobs of apps\t4\n" in screen.stdout
    assert screen.stdout.splitlines()[-1] == "and 2 more: see --limit"
    assert "Jobs of apps\t0\n" in none.stdout
    docora.run("queue", "--app", "Nobody", "--json").ended(3, "not_found")


@pytest.fixture
def backlog(docora: Docora) -> Docora:
    """One worker has been at work on `big/huge` for 3 minutes; other jobs wait, one is delayed."""
    app = docora.add_app("Acme Search")
    names = ("big/huge", "octo/a", "octo/b", "hollow-hill/infra")
    huge, *others, later = (docora.link(app, docora.add_repository(name)) for name in names)
    assert docora.run("retry-all-failed", "--yes").code == 0
    for link in (huge, later):
        docora.redis.lrem(docora.queue.key, 0, link.job_id)
    docora.redis.zadd(f"rq:scheduled:{QUEUE}", {later.job_id: now().timestamp() + 100})
    docora.redis.hset(f"rq:job:{later.job_id}", "status", "scheduled")
    docora.set_link(later, last_error=LONG_ERROR)
    add_worker(docora, "one", docora.job(huge))
    began = utcformat(now() - timedelta(seconds=185))
    docora.redis.hset(f"rq:job:{huge.job_id}", "started_at", began)
    docora.redis.hset(f"rq:job:{huge.job_id}", "files", f"2311 60000 {began}")
    for link in others:
        queued = utcformat(now() - timedelta(seconds=130))
        docora.redis.hset(f"rq:job:{link.job_id}", "enqueued_at", queued)
    return docora


def test_a_backlog_names_its_cause_and_a_delayed_try_its_error(backlog: Docora) -> None:
    docora = backlog
    with frozen(docora):
        shown = plain_data(at_terminals(docora, ["queue"], columns=80).data)
        status, document = docora.run_together(("status",), ("queue", "--json"))
        alone = docora.run("queue", "--json", env=NO_POSTGRES)
    cause = r"1 of 1 workers on Acme Search ← big/huge for 3m\d+s \(2,311 of 60,000 files\); 2 wait"
    assert re.search(f"Backlog {cause} ", " ".join(shown.split())), shown
    assert re.search(rf"^Backlog\t{cause}$", status.stdout, re.MULTILINE), status
    for row in (
        *(r"active +Acme Search ← big/huge +3m\d+s +2,311 of 60,000", r"waiting +.*octo/a +2m\d+s"),
        r"delayed +Acme Search ← hollow-hill/infra +due in 1m\d+s +127\.0\.0\.1:9: Connec\w*…",
    ):
        assert re.search(row, shown), shown
    active, *_, delayed = document.data["jobs"]
    assert (active["files_sent"], active["files_total"]) == (2311, 60_000)
    assert delayed["error_message"] == LONG_ERROR
    assert alone.data["jobs"][-1]["error_message"] is None
    lost = docora.run("queue", env={"DATABASE_URL": "postgres://ops@127.0.0.1:1/docora"})
    assert (lost.code, "errors of delayed tries are unknown" in lost.stderr) == (0, True), lost


@pytest.mark.parametrize("value", [b"", b"5 9 2026-01-01T00:00:00.000000Z"])
def test_files_of_an_earlier_try_or_older_worker_are_unknown(backlog: Docora, value: bytes) -> None:
    [job] = backlog.run("queue", "--limit", "1", "--json").data["jobs"]
    backlog.redis.hset(f"rq:job:{job['job_id']}", "files", value)
    [job] = backlog.run("queue", "--limit", "1", "--json").data["jobs"]
    assert (job["files_sent"], job["files_total"]) == (None, None)
    assert re.search(r"big/huge for 3m\d+s; 2 wait", backlog.run("status").stdout)


def test_jobs_that_have_just_begun_are_no_backlog(backlog: Docora) -> None:
    [job] = backlog.run("queue", "--limit", "1", "--json").data["jobs"]
    backlog.redis.hset(f"rq:job:{job['job_id']}", "started_at", utcformat(now()))
    assert "Backlog" not in backlog.run("status").stdout + backlog.run("queue").stdout


def test_the_job_of_a_silent_worker_is_no_cause_of_a_backlog(backlog: Docora) -> None:
    add_worker(backlog, "two")
    assert "Backlog\t1 of 2 workers on " in backlog.run("queue").stdout
    backlog.redis.expire("rq:worker:two", 49)
    assert "Backlog\t1 of 1 workers on " in backlog.run("queue").stdout
    backlog.redis.expire("rq:worker:one", 49)
    assert "Backlog" not in backlog.run("status").stdout + backlog.run("queue").stdout


def test_a_backlog_of_an_app_names_the_app(docora: Docora) -> None:
    for app, repositories in (("Tarpit", "abc"), ("Other", "a")):
        app_id = docora.add_app(app)
        for name in repositories:
            docora.link(app_id, docora.add_repository(f"{app}/{name}"))
    assert docora.run("retry-all-failed", "--yes").code == 0
    for link in docora.links()[:2]:
        docora.redis.lrem(docora.queue.key, 0, link.job_id)
        add_worker(docora, link.job_id, docora.job(link))
    for link, seconds in zip(docora.links(), (20, 31, 50, 50), strict=True):
        moment = utcformat(now() - timedelta(seconds=seconds))
        docora.redis.hset(f"rq:job:{link.job_id}", "started_at", moment)
        docora.redis.hset(f"rq:job:{link.job_id}", "enqueued_at", moment)
    assert "Backlog\t2 of 2 workers on Tarpit for 3" in docora.run("queue").stdout


def test_an_idle_worker_beside_jobs_that_wait_is_explained(backlog: Docora) -> None:
    docora = backlog
    add_worker(docora, "two")
    free = "Workers\t2, 1 busy, 1 free for other apps\n"
    assert free not in docora.run("queue").stdout  # a worker of RQ knows of no share
    docora.redis.hset("rq:worker:two", "obeys_holds", 1)
    for command in ("queue", "status"):
        assert free in docora.run(command).stdout
    for job_id in docora.waiting():  # an idle worker is about to take one
        docora.redis.hset(f"rq:job:{job_id}", "enqueued_at", utcformat(now()))
    assert free not in docora.run("queue").stdout


def test_many_busy_workers_are_read_in_as_many_round_trips_as_one(
    docora: Docora, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = []
    send = AbstractConnection.send_packed_command

    def counted(connection: AbstractConnection, *arguments: Any, **options: Any) -> None:
        requests.append(arguments)
        send(connection, *arguments, **options)  # type: ignore[no-untyped-call]

    def count() -> int:
        requests.clear()
        with monkeypatch.context() as patch:
            patch.setattr(AbstractConnection, "send_packed_command", counted)
            workers, _ = read_workers(docora.redis, 0)
        assert [[job.job_id for job in worker.jobs] for worker in workers] == [
            [f"app_{worker.name}-repo"] for worker in workers
        ]
        return len(requests)

    counts = []
    for number in range(3):
        docora.add_worker(f"w{number}")
        docora.start_job(f"app_w{number}-repo", worker=f"w{number}")
        counts.append(count())
    assert len(set(counts)) == 1, counts


def test_a_long_queue_with_many_workers_fits_one_screen(docora: Docora) -> None:
    docora.add_links(30)
    assert docora.run("retry-all-failed", "--yes").code == 0
    for number in range(7):
        docora.add_worker(f"ops{number}-worker.internal.example")
    short, whole = (
        at_terminals(docora, ["queue", *options], columns=80, env=NO_POSTGRES)
        for options in ([], ["--all"])
    )
    screen = plain_data(short.data).splitlines()
    assert screen[0].split() == ["Queue", "30", "waiting", *screen[0].split()[3:]]
    assert len(screen) + len(short.talk.splitlines()) < 24, screen
    assert max(map(len, screen)) <= 80
    assert "and 3 more: see --json" in screen
    assert screen[-1] == "and 22 more: see --limit"
    assert "ops6-worker" in plain_data(whole.data)


def test_no_secret_of_a_job_is_shown_and_nothing_is_unpickled(
    docora: Docora, tmp_path: Path
) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "sprung",)

    docora.add_link()
    assert docora.run("retry-all-failed", "--yes").code == 0
    for job_id, data in (
        ("trap", pickle.dumps(("f", None, (), {"x": Trap()}))),
        ("noise", b"\xff"),
    ):
        docora.enqueue(job_id)
        described = f"snapshot('{GITHUB_TOKEN}', 'octo/api → Acme')"  # as RQ does by itself
        docora.redis.hset(f"rq:job:{job_id}", mapping={"description": described, "data": data})
    result, table = docora.run("queue", "--json"), docora.run("queue")
    assert result.code == table.code == 0, result
    assert list(tmp_path.iterdir()) == []
    ours, *others = result.data["jobs"]
    assert ours["app_name"]
    assert [job["app_name"] for job in others] == [None, None]
    for secret in (GITHUB_TOKEN, AUTH_KEY):
        assert secret not in result.stdout + table.stdout
